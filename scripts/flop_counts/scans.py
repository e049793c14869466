"""Counts of a model over scans, and over voxel sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from sparseconv.datasets import PointFileError
from sparseconv.flops import ForwardCount, LayerCount, count_forward, count_training
from sparseconv.scripts.flop_counts.model_source import ModelSource, give
from sparseconv.scripts.jobs.search import find_scans, has_magic
from sparseconv.scripts.network import network_input
from sparseconv.scripts.scan import FromMesh, Scan, load_scan
from sparseconv.scripts.scan_grid import grid_for, with_room
from sparseconv.voxelization import voxelize


@dataclass(frozen=True)
class ScanCount:
    """One scan through the model.

    Attributes:
        scan: its name.
        points: points of the file.
        voxels: occupied voxels.
        in_channels: columns of its points.
        voxel_size: edge lengths along x, y, z.
        size_reason: why the voxels are this large; None where the user said so.
        from_mesh: see :class:`~sparseconv.scripts.scan.Scan`.
        spatial_shape: cells along z, y, x; None for an unbounded grid.
        count: the counts.
    """

    scan: str
    points: int
    voxels: int
    in_channels: int
    voxel_size: tuple[float, ...]
    size_reason: str | None
    from_mesh: FromMesh | None
    spatial_shape: tuple[int, ...] | None
    count: ForwardCount


@dataclass
class Counts:
    """All scans at one voxel size; ``voxel_size`` is None where each scan has the one that fits it."""

    voxel_size: tuple[float, ...] | None
    scans: list[ScanCount] = field(default_factory=list)


@dataclass(frozen=True)
class CountSettings:
    """What is the same for every scan."""

    source: ModelSource
    point_range: tuple[float, ...] | None
    bounded: bool
    backward: bool
    mesh_points: int | None = None


def point_files(paths: Sequence[Path]) -> Iterator[Path | ValueError]:
    """The files named, and those of the folders and patterns named, as a big job finds them.

    A folder or pattern without any gives an error in its place.
    """
    for path in paths:
        try:
            scans = find_scans([path])
        except ValueError as error:
            yield error
            continue
        # Below a folder as the user wrote it: names in tables are then no longer than the call.
        if path.is_dir():
            yield from (path / scan.name for scan in scans)
        else:
            yield from (scan.path if has_magic(path) else path for scan in scans)


class Counter:
    """Runs the model, which it builds once for each number of input channels."""

    def __init__(self, settings: CountSettings) -> None:
        self.settings = settings
        self._models: dict[int, nn.Module] = {}

    def model(self, in_channels: int) -> nn.Module:
        """The model for points of so many columns."""
        if in_channels not in self._models:
            model = self.settings.source.build(in_channels)
            self._models[in_channels] = model.train() if self.settings.backward else model
        return self._models[in_channels]

    def count(self, scan: Scan, voxel_size: tuple[float, ...] | None) -> ScanCount:
        """One scan at one voxel size.

        Raises:
            ValueError: no point lies in the range, or the model fails on it.
        """
        settings = self.settings
        chosen = grid_for(scan, settings.bounded, voxel_size, settings.point_range)
        bounds, size = chosen.point_cloud_range, chosen.grid.voxel_size
        if bounds is not None and settings.point_range is None:
            bounds = with_room(bounds, size)
        voxels = voxelize(scan.points, size, bounds, nonfinite="drop")
        if len(voxels.indices) == 0:
            raise ValueError(f"{scan.name}: {scan.outside(bounds)}")
        channels = voxels.features.shape[1]
        model = self.model(channels)
        input = network_input(voxels)
        run = count_training if settings.backward else count_forward
        try:
            count = run(model, give(model, input))
        except Exception as error:
            reason = " ".join(str(error).split())[:400]
            raise ValueError(
                f"{scan.name}: {settings.source.name} failed on it: {type(error).__name__}: {reason}"
            ) from None
        if not count.layers:
            raise ValueError(f"{scan.name}: {settings.source.name} ran nothing that multiplies")
        shape = input.spatial_shape
        return ScanCount(
            scan.name,
            len(scan.points),
            len(voxels.indices),
            channels,
            tuple(size),
            chosen.reason,
            scan.from_mesh,
            None if shape is None else tuple(shape),
            count,
        )


def count_scans(
    counter: Counter,
    files: Sequence[Path | ValueError],
    sizes: Sequence[tuple[float, ...] | None],
    *,
    scale: Sequence[float] = (),
    seed: int = 0,
    on_error: Callable[[str], None],
    on_scan: Callable[[], None],
) -> list[Counts]:
    """Every scan at every voxel size; what fails is reported and left out.

    Args:
        counter: the model.
        files: point files, or errors to report; none of them: the simulated street.
        sizes: voxel sizes; None for the one that fits the scan.
        scale: further sizes as multiples of the first one of the first scan.
        seed: of the street and of the points of meshes.
        on_error: called with each message.
        on_scan: called after each scan.

    Raises:
        ValueError: the model cannot be built for the columns of the first scan that can be read.
    """
    is_built = False
    tables = [Counts(size) for size in sizes]
    named: list[Path | ValueError | None] = list(files) or [None]
    for file in named:
        try:
            if isinstance(file, ValueError):
                raise file
            scan = load_scan(file, seed, counter.settings.mesh_points)
        except (PointFileError, ValueError, OSError) as error:
            on_error(str(error))
            on_scan()
            continue
        if not is_built:
            # A model that cannot be built is no scan's fault.
            counter.model(scan.points.shape[1])
            is_built = True
        for number, table in enumerate(tables):
            try:
                table.scans.append(counter.count(scan, table.voxel_size))
            except ValueError as error:
                on_error(f"{error}{_at(table.voxel_size)}")
            else:
                if number == 0 and scale and len(tables) == len(sizes):
                    base = table.scans[0].voxel_size
                    tables += [Counts(tuple(float(f"{size * factor:.4g}") for size in base)) for factor in scale]
        on_scan()
    return tables


def _at(size: Sequence[float] | None) -> str:
    return "" if size is None else f" (voxel size {' x '.join(f'{edge:g}' for edge in size)})"


def spell_sizes(scans: Sequence[ScanCount]) -> str:
    """The voxel size of scans; where each has its own, the least and the greatest."""
    sizes = sorted({scan.voxel_size for scan in scans})
    least, greatest = (" x ".join(f"{edge:g}" for edge in size) for size in (sizes[0], sizes[-1]))
    return least if len(sizes) == 1 else f"{least} to {greatest}"


@dataclass(frozen=True)
class Spread:
    """One number over scans."""

    mean: float
    std: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Mean, standard deviation (of these scans, not an estimate for others), least and greatest."""
        mean = math.fsum(values) / len(values)
        variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
        return cls(mean, math.sqrt(variance), min(values), max(values))


TOTALS = ("macs", "dilated_macs", "dense_macs", "backward_macs", "sparse_bytes", "dense_bytes")


def totals(scans: Sequence[ScanCount]) -> dict[str, Spread]:
    """Sums over layers, their spread over scans."""
    spreads = {name: Spread.of([getattr(scan.count, name) for scan in scans]) for name in TOTALS}
    return {"voxels": Spread.of([scan.voxels for scan in scans]), **spreads}


LAYER_NUMBERS = (
    *("n_in", "n_out", "pairs", "macs", "dilated_macs", "dense_macs", "backward_macs", "dilated_n_out"),
    *("feature_bytes", "map_bytes", "dense_bytes", "milliseconds"),
)


def layers(scans: Sequence[ScanCount]) -> list[tuple[LayerCount, dict[str, Spread]]]:
    """Each layer as the first scan that ran it did, with the spread of its numbers over the scans that ran it."""
    found: dict[tuple[str, str, int], list[LayerCount]] = {}
    for scan in scans:
        seen: dict[tuple[str, str], int] = {}
        for layer in scan.count.layers:
            key = (layer.name, layer.family)
            seen[key] = seen.get(key, 0) + 1
            found.setdefault((*key, seen[key]), []).append(layer)
    return [
        (same[0], {name: Spread.of([getattr(layer, name) for layer in same]) for name in LAYER_NUMBERS})
        for same in found.values()
    ]
