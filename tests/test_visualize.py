"""Pictures of voxels: what is drawn where, in which colour, by either renderer."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from scans import random_sites

import sparseconv as sc
from sparseconv.datasets.open3d_import import open3d_problem
from sparseconv.visualize import (
    Scene,
    draw_from_above,
    draw_in_space,
    has_display,
    neighbour_counts,
    show,
    voxel_labels,
    voxel_scene,
)
from sparseconv.visualize.camera import Camera
from sparseconv.visualize.cubes import box_lines, visible_faces
from sparseconv.visualize.from_above import _with_boxes, titled

DOCS = Path(__file__).parent.parent / "docs"

GRID = sc.VoxelGrid.create((0.5, 0.25, 1.0), (10, -2, -3, 15, 3, 4))


def voxels(count: int = 40) -> sc.SparseTensor:
    sites = random_sites(count, (7, 20, 10), seed=1, shuffled=True)
    return sc.SparseTensor(torch.rand(count, 4), sites, [7, 20, 10], 1)


def test_centres_and_values() -> None:
    x = voxels()
    scene = voxel_scene(x, GRID, "intensity", title="t")
    sites = x.indices.numpy()
    np.testing.assert_allclose(scene.centres[:, 0], 10 + (sites[:, 3] + 0.5) * 0.5)
    np.testing.assert_allclose(scene.centres[:, 1], -2 + (sites[:, 2] + 0.5) * 0.25)
    np.testing.assert_allclose(scene.centres[:, 2], -3 + (sites[:, 1] + 0.5) * 1.0)
    np.testing.assert_array_equal(scene.values, x.features[:, 3].numpy())
    np.testing.assert_array_equal(voxel_scene(x, GRID, "height").values, scene.centres[:, 2])
    two = sc.SparseTensor(x.features, x.indices + torch.tensor([1, 0, 0, 0]), x.spatial_shape, 2)
    assert len(voxel_scene(two, GRID, "degree").values) == 0
    assert len(visible_faces(voxel_scene(two, GRID)).corners) == 0


def test_neighbours_are_those_of_the_kernel_map() -> None:
    for kernel in (3, (1, 3, 5)):
        x = voxels(60)
        counts = neighbour_counts(x, kernel).numpy()
        sites = {tuple(row): number for number, row in enumerate(x.indices.tolist())}
        half = [k // 2 for k in ((kernel,) * 3 if isinstance(kernel, int) else kernel)]
        expected = np.zeros(60, int)
        for (batch, *site), row in sites.items():
            for offset in np.ndindex(*(2 * h + 1 for h in half)):
                moved = tuple(int(s + o - h) for s, o, h in zip(site, offset, half, strict=True))
                expected[row] += (batch, *moved) in sites and moved != tuple(site)
        np.testing.assert_array_equal(counts, expected)


def test_labels_by_majority() -> None:
    rows = np.array([0, 0, 0, 2, 2, -1, 3, 3, 3, 3])
    labels = np.array([5, 7, 7, 9, 4, 1, 2, 2, 8, 8])
    # Voxel 1 has no point; equally frequent labels give the smallest; a point outside counts nowhere.
    np.testing.assert_array_equal(voxel_labels(labels, rows, 4), [7, -1, 4, 2])


def test_colours() -> None:
    x = voxels(6)
    labels = np.array([0, 1, 1, 7, -1, 0])
    scene = voxel_scene(x, GRID, "label", labels=labels, label_names=("car", "other"))
    colours = scene.colours()
    assert colours.shape == (6, 3) and colours.min() >= 0 and colours.max() <= 1
    np.testing.assert_allclose(colours[0], np.array([0x2F, 0x6F, 0xDE]) / 255)
    assert (colours[0] == colours[5]).all() and (colours[1] == colours[2]).all()
    assert len({tuple(colour) for colour in colours.tolist()}) == 4
    ramp = Scene(np.zeros((3, 3)), (1, 1, 1), np.array([0.0, np.nan, 100.0]), "v")
    assert ramp.limits[0] < ramp.limits[1] and np.isfinite(ramp.colours()).all()
    rgb = sc.SparseTensor(torch.tensor([[0.0, 0, 0, 255, 128, 0]]), torch.tensor([[0, 1, 1, 1]]), [3, 3, 3], 1)
    painted = voxel_scene(rgb, GRID, "rgb", fields=("x", "y", "z", "r", "g", "b")).colours()
    np.testing.assert_allclose(painted, [[1, 128 / 255, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("color", "fragment"), [("rgb", "cannot colour"), ("label", "no labels"), ("speed", "intensity")]
)
def test_what_cannot_be_coloured_is_refused(color: str, fragment: str) -> None:
    with pytest.raises(ValueError, match=fragment):
        voxel_scene(voxels(), GRID, color)


def test_scenes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[B, 7 or more\]"):
        voxel_scene(voxels(), GRID, boxes=np.zeros((2, 6)))
    with pytest.raises(ValueError, match="2 boxes"):
        voxel_scene(voxels(), GRID, boxes=np.zeros((2, 7)), box_names=("a",))
    with pytest.raises(ValueError, match="value each"):
        Scene(np.zeros((3, 3)), (1, 1, 1), np.zeros(2), "v")
    with pytest.raises(ValueError, match="three axes"):
        voxel_scene(sc.SparseTensor(torch.ones(1, 1), torch.zeros(1, 3, dtype=torch.int32)), GRID)
    with pytest.raises(ValueError, match="renderer"):
        draw_in_space(tmp_path / "a.png", voxel_scene(voxels(), GRID), renderer="crayon")


def test_only_faces_towards_empty_cells_are_drawn() -> None:
    # A bar of three cubes: 2 x 5 faces at its ends and 4 in the middle; none twice, all turned outwards.
    sites = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 2, 0]])
    scene = voxel_scene(sc.SparseTensor(torch.ones(3, 4), sites, [7, 20, 10], 1), GRID, "height")
    faces = visible_faces(scene)
    assert len(faces.corners) == 14
    normals = np.cross(faces.corners[:, 1] - faces.corners[:, 0], faces.corners[:, 2] - faces.corners[:, 1])
    outwards = faces.corners.mean(1) - scene.centres.mean(0)
    assert (np.einsum("fc,fc->f", normals, outwards) > 0).all()
    areas = np.linalg.norm(normals, axis=1)
    assert areas.sum() == pytest.approx(2 * (0.5 * 0.75 + 0.75 * 1.0 + 0.5 * 1.0))


@pytest.mark.parametrize("start", [-40, 0, 3, 1000])
def test_a_block_has_no_faces_inside_wherever_it_lies(start: int) -> None:
    centres = (np.argwhere(np.ones((5, 4, 3))) + start + 0.5) * 0.5
    faces = visible_faces(Scene(centres, (0.5, 0.5, 0.5), centres[:, 2], "height"))
    assert len(faces.corners) == 2 * (5 * 4 + 4 * 3 + 3 * 5)


@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (0.05, 0.1, 4.0), (300.0, 2.0, 1.0)])
def test_a_single_voxel_is_seen_whole_and_large(size: tuple[float, float, float]) -> None:
    scene = Scene(np.array([[7.0, -3.0, 2.0]]), size, np.zeros(1), "v")
    width, height = 1600, 900
    corners = Camera.looking_at(scene).project(visible_faces(scene).corners, width, height)
    column, row, depth = corners.reshape(-1, 3).T
    assert depth.min() > Camera.looking_at(scene).near
    assert column.min() >= 0 and column.max() <= width and row.min() >= 0 and row.max() <= height
    assert max(np.ptp(column) / width, np.ptp(row) / height) > 0.3


def test_as_many_colours_as_classes_occur() -> None:
    def colours(*values: int) -> dict[int, str]:
        return Scene(
            np.zeros((len(values), 3)), (1, 1, 1), np.array(values), "label", labels={0: "car"}
        ).label_colours()

    assert len(set(colours(3, 23, 43).values())) == 3
    assert len(set(colours(*range(1, 21)).values())) == 20
    assert len(colours(*range(50))) == 50
    assert colours(3)[3] == colours(0, 1, 3, 23)[3]


def test_box_edges() -> None:
    box = np.array([[12.0, 0.5, 0.0, 4.0, 2.0, 1.5, np.pi / 2]])
    lines = box_lines(Scene(np.zeros((0, 3)), (1, 1, 1), np.zeros(0), "v", boxes=box))[0]
    lengths = np.linalg.norm(lines[:12, 1] - lines[:12, 0], axis=1)
    assert sorted(np.round(lengths, 6)) == [1.5] * 4 + [2.0] * 4 + [4.0] * 4
    # Turned by a quarter: its length lies along y, and the cross is on its front, at the greatest y.
    np.testing.assert_allclose([np.ptp(lines[..., axis]) for axis in range(3)], [2.0, 4.0, 1.5])
    np.testing.assert_allclose(lines[12:, :, 1], 2.5)


def red_pixels(path: Path) -> int:
    image = imread(path)[..., :3]
    return int(((image[..., 0] > 0.6) & (image[..., 1:] < 0.35).all(2)).sum())


@pytest.mark.parametrize("lying", [True, False])
def test_from_above_the_highest_voxel_of_a_column_is_seen(tmp_path: Path, lying: bool) -> None:
    # A green slab of 12 x 4 m, along x or along y, over a blue one that it hides, then with a red box.
    side = np.mgrid[0:60, 0:20].reshape(2, -1).T * 0.2
    flat = side if lying else side[:, ::-1]
    centres = np.concatenate([np.c_[flat, np.zeros(1200)], np.c_[flat, np.ones(1200)]])
    values = np.repeat([[0.0, 0.0, 1.0], [0.0, 0.8, 0.0]], 1200, axis=0)
    scene = Scene(centres, (0.2, 0.2, 0.2), values, "colour", title="slab")
    draw_from_above(tmp_path / "a.png", scene)
    image = imread(tmp_path / "a.png")[..., :3]
    green = (image[..., 1] > 0.7) & (image[..., 0] < 0.2) & (image[..., 2] < 0.2)
    blue = (image[..., 2] > 0.7) & (image[..., 0] < 0.2) & (image[..., 1] < 0.2)
    rows, columns = np.nonzero(green)
    assert green.sum() > 20_000 and blue.sum() == 0
    # No gap between neighbours, wherever the picture begins.
    whole = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert green.sum() > 0.98 * whole
    wide, high = np.ptp(columns), np.ptp(rows)
    assert wide / high == pytest.approx(3.0, rel=0.1), "the longer side lies"
    assert red_pixels(tmp_path / "a.png") == 0
    boxed = Scene(centres, (0.2, 0.2, 0.2), values, "colour", boxes=np.array([[2.0, 2, 0, 3, 2, 1, 0.3]]))
    draw_from_above(tmp_path / "b.png", boxed)
    assert red_pixels(tmp_path / "b.png") > 200


RENDERERS = [
    "matplotlib",
    pytest.param(
        "open3d", marks=pytest.mark.skipif(open3d_problem() is not None, reason="Open3D does not load here")
    ),
]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_in_space_both_renderers_see_the_same(tmp_path: Path, renderer: str) -> None:
    from sparseconv.visualize.window import render

    scene = voxel_scene(voxels(400), GRID, "height", boxes=np.array([[12.0, 0, 0, 3, 2, 2, 0.0]]), box_names=("",))
    if renderer == "open3d" and render(scene, 64, 64) is None:
        pytest.skip("Open3D finds no EGL to draw with")
    path = tmp_path / "a.png"
    assert draw_in_space(path, scene, width=640, height=360, renderer=renderer) == renderer
    image = imread(path)
    assert red_pixels(path) > 150
    # The projection says where the cubes are: there the picture is not white.
    camera = Camera.looking_at(scene)
    pixels = camera.project(scene.centres, 640, 360)[:, :2]
    inside = ((pixels > 4) & (pixels < [636, 356])).all(1)
    assert inside.mean() > 0.9
    columns, rows = pixels[inside].astype(int).T
    top = image.shape[0] - 360 - 66
    seen = image[rows + top, columns, :3]
    assert ((seen < 0.97).any(1)).mean() > 0.97
    corner = image[top : top + 20, :20, :3]
    assert (corner > 0.99).all()


def test_empty_and_single_voxels_are_drawn(tmp_path: Path) -> None:
    for count in (0, 1):
        scene = voxel_scene(voxels(count), GRID, "degree", boxes=np.zeros((0, 7)))
        draw_from_above(tmp_path / "a.png", scene)
        draw_in_space(tmp_path / "b.png", scene, width=320, height=180, renderer="matplotlib")
        assert imread(tmp_path / "a.png").ndim == imread(tmp_path / "b.png").ndim == 3


def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert not has_display()
    monkeypatch.setattr("sparseconv.visualize.window.open3d_problem", lambda: None)
    with pytest.raises(RuntimeError, match="no display"):
        show(voxel_scene(voxels(), GRID))
    monkeypatch.setenv("DISPLAY", ":0")
    assert has_display()


def test_without_something_to_draw_with_matplotlib_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparseconv.visualize.window.open3d_problem", lambda: "not here")
    scene = voxel_scene(voxels(), GRID)
    assert draw_in_space(tmp_path / "a.png", scene, width=320, height=180) == "matplotlib"
    with pytest.raises(RuntimeError, match="cannot draw here"):
        draw_in_space(tmp_path / "a.png", scene, renderer="open3d")


def test_both_renderers_draw_the_same_picture(tmp_path: Path) -> None:
    from sparseconv.visualize.window import render

    scene = voxel_scene(voxels(30), GRID, "height")
    if render(scene, 64, 64) is None:
        pytest.skip("Open3D is missing, or finds no EGL to draw with")
    drawn = []
    for renderer in ("open3d", "matplotlib"):
        draw_in_space(tmp_path / f"{renderer}.png", scene, width=480, height=270, renderer=renderer)
        drawn.append((imread(tmp_path / f"{renderer}.png")[44:314, :480, :3] < 0.97).any(2))
    assert drawn[0].sum() > 3000
    assert (drawn[0] & drawn[1]).sum() > 0.93 * (drawn[0] | drawn[1]).sum()


def test_boxes_and_a_range_widen_the_picture_and_the_title_counts_the_rest() -> None:
    centres = np.random.default_rng(0).uniform(0, 10, (2000, 3))
    boxes = np.array([[15.0, 5, 0, 4, 2, 2, 0], [500.0, 0, 0, 4, 2, 2, 0], [np.nan, 0, 0, 4, 2, 2, 0]])
    size, ends = (0.1, 0.1, 0.1), (np.zeros(2), np.full(2, 10.0))
    low, high, drawn = _with_boxes(Scene(centres, size, centres[:, 2], "height", boxes=boxes), *ends)
    np.testing.assert_array_equal(drawn, [True, False, False])
    np.testing.assert_allclose([low, high], [[0, 0], [17.2, 10]])
    ranged = Scene(centres, size, centres[:, 2], "height", boxes=boxes, bounds=(-5, -6, -3, 12, 20, 3), title="t")
    low, high, drawn = _with_boxes(ranged, *ends)
    np.testing.assert_array_equal([low, high], [[-5, -6], [12, 20]])
    assert not drawn.any()
    assert titled(ranged, 1200, 3) == "t (1,200 farther out, 3 of 3 boxes not in the picture)"
    assert titled(ranged, 0, 0) == "t"


def test_a_class_has_one_colour_for_voxels_and_boxes() -> None:
    names = ("Car", "truck", "gadget", "Tram")
    scene = Scene(
        np.zeros((3, 3)),
        (1, 1, 1),
        np.arange(3),
        "label",
        {0: "car", 1: "Truck", 2: "gadget"},
        np.zeros((4, 7)),
        names,
    )
    colours = scene.box_colours()
    assert colours[:3] == list(scene.label_colours().values()) and len(set(colours)) == 4
    alone = Scene(np.zeros((0, 3)), (1, 1, 1), np.zeros(0), "v", boxes=np.zeros((1, 7)), box_names=("CAR",))
    assert alone.box_colours() == colours[:1]


@pytest.mark.parametrize("look", ["lying", "upright"])
def test_a_long_title_is_whole(tmp_path: Path, look: str) -> None:
    side = np.mgrid[0:60, 0:20].reshape(2, -1).T * 0.2
    centres = np.c_[side if look == "lying" else side[:, ::-1], np.zeros(1200)]
    draw_from_above(tmp_path / "a.png", Scene(centres, (0.2,) * 3, centres[:, 0], "v", title="scan " * 60))
    image = imread(tmp_path / "a.png")[..., :3]
    for edge in (image[:6], image[-6:], image[:, :6], image[:, -6:]):
        assert (edge > 0.99).all()


def test_the_page_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "viewing.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    exec(compile(block, "viewing.md", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} == {"above.png", "space.png"}
