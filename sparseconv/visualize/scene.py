"""What is drawn: voxels with a value each, and boxes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparseconv.geometry import ConvGeometry
from sparseconv.tensor import SparseTensor
from sparseconv.visualize.turning import Turn
from sparseconv.voxel_grid import VoxelGrid

# Glasbey-like: neighbours in the list differ in hue and in lightness, and all stand out on white and on black.
_PALETTE = (
    *(
        "#4E79A7",
        "#F28E2B",
        "#59A14F",
        "#E15759",
        "#B07AA1",
        "#76B7B2",
        "#EDC948",
        "#9C755F",
        "#FF9DA7",
        "#8CD17D",
    ),
    *(
        "#1F6F8B",
        "#D37295",
        "#499894",
        "#B6992D",
        "#86BCB6",
        "#A0CBE8",
        "#FABFD2",
        "#79706E",
        "#D4A6C8",
        "#F1CE63",
    ),
)
# What everybody expects of a street; other names take the palette in order.
_KNOWN = {
    "road": "#8C8C8C",
    "sidewalk": "#C0A9BD",
    "lane-marking": "#4F4F4F",
    "terrain": "#B5C77C",
    "vegetation": "#3E8E41",
    "trunk": "#7A4B22",
    "building": "#D8A25E",
    "fence": "#B5651D",
    "car": "#2F6FDE",
    "truck": "#7B3FC4",
    "van": "#7F0000",
    "bus": "#111111",
    "cyclist": "#E0559A",
    "bicyclist": "#E0559A",
    "pedestrian": "#E3342F",
    "person": "#E3342F",
    "pole": "#F2C230",
    "sign": "#00B3A4",
    "traffic-sign": "#00B3A4",
    "unlabeled": "#BDBDBD",
}
_BOX_COLOUR = "#D62728"
# Extreme values would leave no colours for the rest.
_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True, eq=False)
class Scene:
    """Coloured voxels and boxes in metres (or whatever unit the points have).

    Attributes:
        centres: ``[N, 3]`` float64, x y z of the voxels' centres.
        voxel_size: edge lengths along x, y, z.
        values: ``[N]`` numbers to colour by, or int class ids where there are ``labels``, or ``[N, 3]`` colours
            from 0 to 1.
        label: what the values are, in words.
        labels: names of class ids that occur; None for numbers.
        boxes: ``[B, 7 or more]``: x y z of the centre, length, width, height, heading.
        box_names: class of each box.
        title: heading.
        bounds: x0 y0 z0 x1 y1 z1 that a picture from above shows whole; None: what nearly all voxels take up.
        driving: x points forward and y to the left, as in KITTI's scans; the axes then say so.
        axes: what a picture from above calls its two axes where ``driving`` does not name them.
    """

    centres: NDArray[np.float64]
    voxel_size: tuple[float, ...]
    values: NDArray[Any]
    label: str
    labels: Mapping[int, str] | None = None
    boxes: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 7)))
    box_names: tuple[str, ...] = ()
    title: str = ""
    bounds: tuple[float, ...] | None = None
    driving: bool = False
    axes: tuple[str, ...] = ("x", "y")

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit.

        Raises:
            ValueError: rows differ in number, or boxes have fewer than 7 columns.
        """
        if self.centres.ndim != 2 or self.centres.shape[1] != 3 or len(self.values) != len(self.centres):
            raise ValueError(
                f"centres must be [N, 3] with a value each, got {list(self.centres.shape)} and "
                f"{list(self.values.shape)}"
            )
        if self.boxes.ndim != 2 or self.boxes.shape[1] < 7:
            raise ValueError(
                f"boxes must be [B, 7 or more] (x y z dx dy dz heading), got {list(self.boxes.shape)}"
            )
        if self.bounds is not None and len(self.bounds) != 6:
            raise ValueError(f"bounds must be x0 y0 z0 x1 y1 z1, got {len(self.bounds)} numbers")
        if len(self.axes) != 2:
            raise ValueError(f"axes must be two names, got {self.axes!r}")
        if self.box_names and len(self.box_names) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes must have as many names, got {len(self.box_names)}")

    @property
    def limits(self) -> tuple[float, float]:
        """Values that get the first and the last colour."""
        finite = self.values[np.isfinite(self.values)] if self.values.dtype.kind == "f" else self.values
        if len(finite) == 0:
            return 0.0, 1.0
        low, high = (float(bound) for bound in np.percentile(finite, _PERCENTILES))
        return (low, high) if high > low else (low - 0.5, low + 0.5)

    def label_colours(self) -> dict[int, str]:
        """Class ids that occur, in order, and the colour of each."""
        present = [int(value) for value in np.unique(self.values)]
        names = {value: (self.labels or {}).get(value, str(value)) for value in present}
        colours: dict[int, str] = {}
        free = list(_PALETTE)
        for value, name in names.items():
            if name.lower() in _KNOWN:
                colours[value] = _KNOWN[name.lower()]
                continue
            # A class has one colour in every scene, unless another one that occurs has it already.
            free = free or list(_PALETTE)
            own = _PALETTE[value % len(_PALETTE)]
            colours[value] = free.pop(free.index(own) if own in free else 0)
        return colours

    def box_colours(self) -> list[str]:
        """The colour of each box: that of its class's voxels, whatever the spelling of its name."""
        voxels: dict[str, str] = {}
        if self.labels is not None:
            voxels = {self.labels.get(value, "").lower(): own for value, own in self.label_colours().items()}
        names = [name.lower() for name in self.box_names] or [""] * len(self.boxes)
        colours = {"": _BOX_COLOUR, **_KNOWN, **voxels}
        for name in sorted(set(names) - set(colours)):
            # From the name alone, so that a class keeps its colour in another scene.
            start = zlib.crc32(name.encode()) % len(_PALETTE)
            turned = _PALETTE[start:] + _PALETTE[:start]
            taken = {colours[other] for other in names if other in colours} | set(voxels.values())
            colours[name] = next((colour for colour in turned if colour not in taken), turned[0])
        return [colours[name] for name in names]

    def colours(self) -> NDArray[np.float64]:
        """A colour for each voxel: ``[N, 3]`` from 0 to 1."""
        from matplotlib import colormaps
        from matplotlib.colors import to_rgb

        if self.values.ndim == 2:
            return np.clip(self.values, 0.0, 1.0).astype(np.float64)
        if self.labels is not None:
            table = self.label_colours()
            present, inverse = np.unique(self.values, return_inverse=True)
            rows = [to_rgb(table[int(value)]) for value in present]
            return np.array(rows, np.float64).reshape(-1, 3)[inverse]
        low, high = self.limits
        shares = np.clip((self.values.astype(np.float64) - low) / (high - low), 0.0, 1.0)
        return colormaps["viridis"](np.nan_to_num(shares))[:, :3]


def neighbour_counts(voxels: SparseTensor, kernel_size: int | Sequence[int] = 3) -> Tensor:
    """How many other sites each site has in reach of a submanifold kernel: int64 ``[N]``."""
    geometry = ConvGeometry.submanifold(voxels.ndim, kernel_size)
    # Every site reaches itself, through the tap at the centre.
    return voxels.coordinates.submanifold_map(geometry).in_counts() - 1


def voxel_labels(point_labels: NDArray[Any], point_rows: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The most frequent label among each voxel's points; of equally frequent ones the smallest.

    Args:
        point_labels: ``[P]`` ints.
        point_rows: ``[P]`` voxel of each point, -1 for none.
        count: number of voxels.

    Returns:
        ``[count]``; -1 for a voxel without points.
    """
    inside = point_rows >= 0
    pairs = np.stack([point_rows[inside].astype(np.int64), point_labels[inside].astype(np.int64)])
    found, times = np.unique(pairs, axis=1, return_counts=True)
    # The last of each voxel wins: sorted by times, then from the greatest label down.
    order = np.lexsort((-found[1], times, found[0]))
    labels = np.full(count, -1, np.int64)
    labels[found[0, order]] = found[1, order]
    return labels


def voxel_scene(
    voxels: SparseTensor,
    grid: VoxelGrid,
    color: str = "height",
    *,
    fields: Sequence[str] = ("x", "y", "z", "intensity"),
    labels: NDArray[Any] | None = None,
    label_names: Mapping[int, str] | Sequence[str] | None = None,
    kernel_size: int | Sequence[int] = 3,
    boxes: NDArray[Any] | None = None,
    box_names: Sequence[str] = (),
    title: str = "",
    bounds: Sequence[float] | None = None,
    driving: bool = False,
    up: str = "z",
    axes: Sequence[str] | None = None,
) -> Scene:
    """Voxels of one sample, coloured.

    Args:
        voxels: features ``[N, C]`` on axes z, y, x; the first sample of a batch is drawn.
        grid: voxel size and origin.
        color: ``"height"``, ``"degree"`` (how many neighbours a submanifold kernel finds), ``"label"``, ``"rgb"``,
            or one of ``fields``.
        fields: names of the feature columns.
        labels: ``[N]`` class id of each voxel, for ``"label"``.
        label_names: names of the class ids.
        kernel_size: of the kernel whose neighbours are counted.
        boxes: ``[B, 7 or more]``.
        box_names: class of each box.
        title: heading.
        bounds: x0 y0 z0 x1 y1 z1 to be shown whole, see :class:`Scene`.
        driving: whether x points forward and y to the left; with ``up`` other than z it says nothing.
        up: which of the points' axes points up in the scene: x, y or z, with a sign or without. The scene is
            turned, never mirrored, and its coordinates with it.
        axes: names of the picture's two axes; None: those of the points' axes, such as ``x`` and ``-z``.

    Raises:
        ValueError: other than three axes, nothing known to colour by, an unknown ``up``, or boxes with another
            one than z: they turn about z.
    """
    turn = Turn.with_up(up)
    if boxes is not None and len(boxes) and not turn.is_none:
        raise ValueError(f"boxes stand upright on z and cannot be drawn with {up} up: leave one of the two out")
    if voxels.ndim != 3:
        raise ValueError(f"only voxels on three axes (z, y, x) can be drawn, got {voxels.ndim}")
    kept = (voxels.indices[:, 0] == 0).cpu().numpy()
    sites = voxels.indices.cpu().numpy()[kept, :0:-1].astype(np.float64)
    size = np.array(grid.voxel_size, np.float64)
    centres = turn.points(np.array(grid.origin, np.float64) + (sites + 0.5) * size)
    names: Mapping[int, str] | None = None
    columns = list(fields)
    if color == "height":
        values, label = centres[:, 2], "height"
    elif color == "degree":
        values, label = neighbour_counts(voxels, kernel_size).cpu().numpy()[kept], "neighbours in the kernel map"
    elif color == "label":
        if labels is None:
            raise ValueError(f"these voxels have no labels; colour by height, degree or {', '.join(columns)}")
        values, label = np.asarray(labels, np.int64)[kept], "label"
        given = label_names if isinstance(label_names, Mapping) else dict(enumerate(label_names or ()))
        names = {-1: "unlabeled", **given}
    elif color == "rgb" and {"r", "g", "b"} <= set(columns):
        chosen = [columns.index(name) for name in "rgb"]
        values, label = voxels.features.detach().float().cpu().numpy()[kept][:, chosen] / 255, "colour"
    elif color in columns:
        values, label = voxels.features.detach().float().cpu().numpy()[kept, columns.index(color)], color
    else:
        raise ValueError(
            f"cannot colour by {color!r}; choose height, degree, label or one of {', '.join(columns)}"
        )
    return Scene(
        centres,
        turn.edges(grid.voxel_size),
        values,
        label,
        names,
        np.zeros((0, 7)) if boxes is None else np.asarray(boxes, np.float64),
        tuple(box_names),
        title,
        None if bounds is None else turn.bounds(bounds),
        driving and turn.is_none,
        turn.names()[:2] if axes is None else tuple(axes),
    )
