"""Tile shapes that were found by timing, kept on disk for one card, one Triton and these sources.

The folder is ``$SPARSECONV_CACHE_DIR`` or ``~/.cache/sparseconv``. A file is written under a temporary name and
renamed; what cannot be read or does not make sense is as if it had not been tuned.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import re
import tempfile
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sparseconv.backends import chosen
from sparseconv.backends.cuda.implicit_gemm_tiles import (
    ConvolutionTile,
    GradientTile,
    Problem,
    convolution_tile,
    gradient_tile,
)
from sparseconv.cache_folder import cache_folder

Tile = ConvolutionTile | GradientTile


class Search(Protocol):
    """Who finds the tiles of problems that have none yet."""

    def convolution(
        self, features: Tensor, weight: Tensor, rows: tuple[Tensor, Tensor, Tensor], n_out: int, groups: int
    ) -> None:
        """Find and record the tile of a convolution."""

    def gradient(self, features: Tensor, grad: Tensor, rows: tuple[Tensor, Tensor, Tensor], groups: int) -> None:
        """Find and record the tile of a weight gradient."""


_search: contextvars.ContextVar[Search | None] = contextvars.ContextVar("sparseconv_tile_search", default=None)


def searching(search: Search | None) -> contextlib.AbstractContextManager[None]:
    """Within the block, ``search`` is asked for the tile of each problem that has none."""
    return chosen(_search, search)


@functools.cache
def _sources_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("implicit_gemm*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _card(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


def _path(card: str) -> Path | None:
    """File of the tiles of a card."""
    folder = cache_folder()
    if folder is None:
        return None
    name = re.sub(r"[^A-Za-z0-9]+", "-", card).strip("-")
    return folder / f"triton-{importlib.metadata.version('triton')}-{_sources_digest()}" / f"tiles-{name}.json"


def _key(problem: Problem) -> str:
    """Problems that share a tile: equal but for the rows, and those within a power of two."""
    kind = str(problem.dtype).removeprefix("torch.")
    shape = f"{problem.groups} x {problem.depth} -> {problem.width}"
    return f"{kind} {problem.precision}, {shape}, 2^{problem.rows.bit_length()} rows"


def _read(path: Path | None) -> dict[str, Tile]:
    """The tiles of a file; nothing where it is absent or damaged."""
    kinds = {"convolution": ConvolutionTile, "gradient": GradientTile}
    try:
        content = json.loads(path.read_text()) if path is not None else {}
        return {name: kinds[name.split(":")[0]](**fields) for name, fields in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


class TunedTiles:
    """Tiles by card and problem: read from disk at the first question about a card."""

    def __init__(self) -> None:
        self._of_card: dict[str, dict[str, Tile]] = {}

    def _tiles(self, card: str) -> dict[str, Tile]:
        if card not in self._of_card:
            self._of_card[card] = _read(_path(card))
        return self._of_card[card]

    def find(self, kind: type[Tile], problem: Problem, device: torch.device) -> Tile | None:
        """The recorded tile of a problem, or None."""
        found = self._tiles(_card(device)).get(_name(kind, problem))
        return found if isinstance(found, kind) else None

    def record(self, tile: Tile, problem: Problem, device: torch.device) -> None:
        """Keep a tile, in memory and on disk. A folder that cannot be written costs another search, no error."""
        card = _card(device)
        path = _path(card)
        # Another process may have written meanwhile.
        tiles = {**_read(path), **self._tiles(card), _name(type(tile), problem): tile}
        self._of_card[card] = tiles
        if path is None:
            return
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
                temporary = Path(file.name)
                json.dump({name: dataclasses.asdict(tile) for name, tile in sorted(tiles.items())}, file, indent=1)
            temporary.replace(path)
        except OSError:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def forget(self, device: torch.device) -> None:
        """Drop every tile of a card, in memory and on disk."""
        card = _card(device)
        self._of_card[card] = {}
        path = _path(card)
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def reload(self) -> None:
        """Forget what was read, so that the next question looks at the disk again."""
        self._of_card.clear()

    def convolution_tile(
        self,
        problem: Problem,
        features: Tensor,
        weight: Tensor,
        rows: tuple[Tensor, Tensor, Tensor],
        n_out: int,
    ) -> ConvolutionTile:
        """The tile for a convolution: the recorded one, else the usual one."""
        found = self.find(ConvolutionTile, problem, features.device)
        search = _search.get()
        if found is None and search is not None:
            search.convolution(features, weight, rows, n_out, problem.groups)
            found = self.find(ConvolutionTile, problem, features.device)
        return found if isinstance(found, ConvolutionTile) else convolution_tile(problem)

    def gradient_tile(
        self, problem: Problem, features: Tensor, grad: Tensor, rows: tuple[Tensor, Tensor, Tensor]
    ) -> GradientTile:
        """The tile for a weight gradient: the recorded one, else the usual one."""
        found = self.find(GradientTile, problem, features.device)
        search = _search.get()
        if found is None and search is not None:
            search.gradient(features, grad, rows, problem.groups)
            found = self.find(GradientTile, problem, features.device)
        return found if isinstance(found, GradientTile) else gradient_tile(problem)


def _name(kind: type[Tile], problem: Problem) -> str:
    return f"{'convolution' if kind is ConvolutionTile else 'gradient'}: {_key(problem)}"


tuned = TunedTiles()
