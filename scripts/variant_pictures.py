"""Pictures of where one output pixel looks in the input, from the gradient of a real layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparseconv.dense_ops.catalogue import VARIANTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A side that octave layers can halve, with room round the widest kernel; and channels that every variant can cut.
_SIDE, _CHANNELS = 16, 8
_DOTS_PER_INCH = 150
_COLUMNS = 6
# The output pixel that shows what a variant does; the middle one where none is named.
_PIXELS = {"reflect": (0, 0)}
# Shares are drawn by their square root: what reads an image through its mean is a hundred times weaker than a tap.
_POWER = 0.5
_UNREAD = "0.9"


@dataclass(frozen=True)
class Pattern:
    """Where one output pixel of a layer looks.

    Attributes:
        title: the variant's.
        influence: ``[H, W]``, for each input pixel the norm of the derivatives of the output pixel by its
            channels.
        centre: row and column of the output pixel in input pixels, where the grids lie over each other.
    """

    title: str
    influence: NDArray
    centre: tuple[float, float]

    @property
    def pixels(self) -> int:
        """Input pixels that have any influence."""
        return int((self.influence > 0).sum())

    @property
    def hull(self) -> tuple[int, int]:
        """Height and width of the box round them."""
        rows, columns = self.influence.nonzero()
        return int(rows.max() - rows.min() + 1), int(columns.max() - columns.min() + 1)

    @property
    def caption(self) -> str:
        """The title and what was counted."""
        height, width = self.hull
        if self.pixels == self.influence.size:
            return f"{self.title}\nall pixels"
        return f"{self.title}\n{self.pixels} pixels in {height} x {width}"


def influence_of(layer: nn.Module, x: Tensor, pixel: tuple[int, int]) -> NDArray:
    """Influence ``[H, W]`` of every pixel of ``x [1, C, H, W]`` on one pixel of the layer's output."""
    leaf = x.detach().requires_grad_()
    values = layer(leaf)[0, :, pixel[0], pixel[1]]
    total = torch.zeros_like(leaf[0, 0])
    for value in values:
        (grad,) = torch.autograd.grad(value, leaf, retain_graph=True)
        total += grad[0].square().sum(0)
    return total.sqrt().numpy()


def find_pattern(name: str, seed: int = 0) -> Pattern:
    """The pattern of a variant of the catalogue, with drawn parameters on a drawn image."""
    torch.manual_seed(seed)
    variant = VARIANTS[name]
    layer = variant.make(_CHANNELS).double().eval()
    x = torch.randn(1, _CHANNELS, _SIDE, _SIDE, dtype=torch.float64)
    with torch.no_grad():
        out_shape = layer(x).shape[2:]
    pixel = _PIXELS.get(name, (out_shape[0] // 2, out_shape[1] // 2))
    # Both grids cover the same square, so a pixel's middle lies at its share of the side.
    centre = tuple((p + 0.5) * _SIDE / size - 0.5 for p, size in zip(pixel, out_shape, strict=True))
    return Pattern(variant.title, influence_of(layer, x, pixel), (centre[0], centre[1]))


def _draw(axes: Axes, pattern: Pattern, size: float) -> None:
    import numpy as np
    from matplotlib.colors import PowerNorm

    height, width = pattern.influence.shape
    shares = np.ma.masked_equal(pattern.influence / pattern.influence.max(), 0)
    axes.set_facecolor(_UNREAD)
    axes.imshow(shares, cmap="YlGnBu", norm=PowerNorm(_POWER, 0, 1), interpolation="nearest")
    axes.set_xticks(np.arange(-0.5, width), [])
    axes.set_yticks(np.arange(-0.5, height), [])
    axes.grid(color="white", linewidth=0.6)
    axes.tick_params(length=0)
    for color, share in (("white", 1.3), ("crimson", 1.0)):
        place = pattern.centre[1], pattern.centre[0]
        axes.plot(*place, "+", color=color, markersize=share * size, markeredgewidth=share * share * size / 6)
    for spine in axes.spines.values():
        spine.set_color("0.6")


_NOTE = "influence on the output pixel (red cross): the darker the stronger; grey: none"


def _save_one(path: Path, pattern: Pattern) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 4.9), layout="constrained")
    axes = figure.add_subplot()
    _draw(axes, pattern, 11)
    axes.set_title(pattern.caption, fontsize=11)
    bar = figure.colorbar(axes.images[0], ax=axes, orientation="horizontal", shrink=0.8, pad=0.03, aspect=30)
    bar.set_ticks([0.01, 0.1, 0.25, 0.5, 1], labels=["0.01", "0.1", "0.25", "0.5", "1"])
    bar.set_label("influence on the output pixel (red cross), strongest = 1; grey: none", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def _save_sheet(path: Path, patterns: Mapping[str, Pattern]) -> None:
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(patterns))
    rows = math.ceil(len(patterns) / columns)
    figure = Figure(figsize=(2.5 * columns, 2.95 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, pattern in zip(grid, patterns.values(), strict=False):
        _draw(axes, pattern, 8)
        axes.set_title(pattern.caption, fontsize=9)
    for axes in grid[len(patterns) :]:
        axes.set_axis_off()
    figure.supxlabel(_NOTE, fontsize=10)
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def save_pictures(folder: Path, names: list[str], seed: int = 0) -> Iterator[str]:
    """Write ``NAME.png`` for each variant, yielding its name, and then ``all_variants.png``."""
    patterns = {}
    for name in names:
        patterns[name] = find_pattern(name, seed)
        _save_one(folder / f"{name}.png", patterns[name])
        yield name
    _save_sheet(folder / "all_variants.png", patterns)
