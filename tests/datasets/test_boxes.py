"""Boxes against formulas written here: corners, insides, motions, overlap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseconv.datasets import box_corners, overlap_bev, points_in_boxes, transform_boxes
from sparseconv.datasets.boxes import as_boxes, wrap_angle

Float64 = npt.NDArray[np.float64]


def random_boxes(rng: np.random.Generator, count: int, spread: float = 10.0) -> Float64:
    return np.concatenate(
        [
            rng.uniform(-spread, spread, (count, 3)),
            rng.uniform(0.5, 5, (count, 3)),
            rng.uniform(-np.pi, np.pi, (count, 1)),
        ],
        1,
    )


def test_a_car_by_hand() -> None:
    # 4 m long, 2 m wide, 1 m high, facing +y: length lies along y.
    box = np.array([[10.0, 5.0, 1.0, 4.0, 2.0, 1.0, np.pi / 2]])
    corners = box_corners(box)[0]
    np.testing.assert_allclose(corners[:, 0].min(), 9)
    np.testing.assert_allclose(corners[:, 0].max(), 11)
    np.testing.assert_allclose(corners[:, 1].min(), 3)
    np.testing.assert_allclose(corners[:, 1].max(), 7)
    np.testing.assert_allclose(sorted(set(corners[:, 2].round(9))), [0.5, 1.5])
    # Front left of a car that faces +y lies ahead (y = 7) and on its left (x = 9).
    np.testing.assert_allclose(corners[0], [9, 7, 0.5], atol=1e-12)
    points = np.array(
        [[10, 6.9, 1], [10, 7.1, 1], [10.9, 5, 1], [11.1, 5, 1], [10, 5, 1.6], [10, 5, 1.5]], np.float32
    )
    assert points_in_boxes(points, box)[:, 0].tolist() == [True, False, True, False, False, True]


def test_the_farthest_corner_belongs_to_the_box() -> None:
    turned = np.array([[0, 0, 0, 2, 2, 1, np.pi / 4]])
    tips = np.array([[1.414, 0, 0], [0, -1.414, 0], [1.415, 0, 0], [1, 1, 0]])
    assert points_in_boxes(tips, turned)[:, 0].tolist() == [True, True, False, False]


def test_points_in_boxes_as_the_plain_definition() -> None:
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, 17)
    points = rng.uniform(-12, 12, (2000, 4))
    expected = np.zeros((2000, 17), bool)
    for column, (x, y, z, dx, dy, dz, heading) in enumerate(boxes):
        # In the box's own frame: turned back by the heading, as a complex number.
        local = ((points[:, 0] - x) + 1j * (points[:, 1] - y)) * np.exp(-1j * heading)
        expected[:, column] = (
            (np.abs(local.real) <= dx / 2) & (np.abs(local.imag) <= dy / 2) & (np.abs(points[:, 2] - z) <= dz / 2)
        )
    assert expected.any() and not expected.all()
    assert (points_in_boxes(points, boxes) == expected).all()


@pytest.mark.parametrize(("points", "boxes"), [(0, 3), (5, 0), (0, 0), (1, 1)])
def test_empty_ones(points: int, boxes: int) -> None:
    rng = np.random.default_rng(1)
    assert points_in_boxes(rng.normal(size=(points, 3)), random_boxes(rng, boxes)).shape == (points, boxes)
    assert overlap_bev(random_boxes(rng, points), random_boxes(rng, boxes)).shape == (points, boxes)
    assert box_corners(random_boxes(rng, boxes)).shape == (boxes, 8, 3)


@given(st.integers(0, 2**32 - 1))
def test_moving_boxes_moves_their_corners(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, 5)
    angle = rng.uniform(-10, 10)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = rng.normal(size=3)
    moved = transform_boxes(boxes, matrix)
    assert (np.abs(moved[:, 6]) <= np.pi).all() and (moved[:, 6] < np.pi).all()
    np.testing.assert_allclose(
        box_corners(moved), box_corners(boxes) @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-5
    )
    back = transform_boxes(moved, np.linalg.inv(matrix))
    np.testing.assert_allclose(back, boxes.astype(np.float32), atol=1e-5)


def test_velocities_turn_and_unknown_ones_stay_unknown() -> None:
    boxes = np.array([[0, 0, 0, 1, 1, 1, 0, 3, 0], [0, 0, 0, 1, 1, 1, 0, np.nan, np.nan]])
    quarter = np.eye(4)
    quarter[:2, :2] = [[0, -1], [1, 0]]
    moved = transform_boxes(boxes, quarter)
    np.testing.assert_allclose(moved[0, 6:], [np.pi / 2, 0, 3], atol=1e-6)
    assert np.isnan(moved[1, 7:]).all()


def test_angles_wrap_into_half_open_range() -> None:
    angles = np.array([np.pi, -np.pi, 3 * np.pi, 7.0, -7.0, 0.0, np.nextafter(-np.pi, -4)])
    wrapped = wrap_angle(angles)
    assert (wrapped >= -np.pi).all() and (wrapped < np.pi).all()
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * angles), atol=1e-12)
    headings = as_boxes(np.pad(np.array([[np.nextafter(np.pi, 0)]]), ((0, 0), (6, 0)), constant_values=1))[:, 6]
    assert headings.dtype == np.float32 and (headings < np.float32(np.pi)).all()


def test_overlap_by_hand() -> None:
    unit = np.array([[0, 0, 0, 2, 2, 1, 0]])
    others = np.array(
        [
            [1.9, 0, 0, 2, 2, 1, 0],  # overlaps by a tenth
            [2.0, 0, 0, 2, 2, 1, 0],  # touches
            [-2.0, 0, 0, 2, 2, 1, 0],  # touches on the other side
            [2.3, 0, 0, 2, 2, 1, np.pi / 4],  # its corner reaches to 0.886
            [2.2, 2.2, 0, 2, 2, 1, np.pi / 4],  # apart by a side of the turned box only
            [0, 0, 9, 0.1, 0.1, 1, 1.0],  # inside, seen from above; height does not matter
            [0, 0, 0, 20, 0.1, 1, 0.7],  # crosses without a corner inside
        ]
    )
    assert overlap_bev(unit, others)[0].tolist() == [True, False, False, True, False, True, True]
    assert overlap_bev(others, unit)[:, 0].tolist() == [True, False, False, True, False, True, True]


def test_overlap_as_polygons_clipped_against_each_other() -> None:
    rng = np.random.default_rng(3)
    first, second = random_boxes(rng, 40, 4.0), random_boxes(rng, 40, 4.0)
    found = overlap_bev(first, second)
    expected = np.array([[_shared_area(a, b) > 1e-9 for b in second] for a in first])
    assert expected.any() and not expected.all()
    assert (found == expected).all()


def _shared_area(a: Float64, b: Float64) -> float:
    """Sutherland-Hodgman, then the shoelace formula."""
    polygon = [complex(x, y) for x, y, _ in box_corners(a[None])[0, :4]]
    clip = [complex(x, y) for x, y, _ in box_corners(b[None])[0, :4]]
    for start, end in zip(clip, clip[1:] + clip[:1], strict=True):
        side = [((end - start).conjugate() * (point - start)).imag for point in polygon]
        kept = []
        for i, point in enumerate(polygon):
            if side[i] >= 0:
                kept.append(point)
            following = (i + 1) % len(polygon)
            if side[i] * side[following] < 0:
                share = side[i] / (side[i] - side[following])
                kept.append(point + share * (polygon[following] - point))
        polygon = kept
    return 0.5 * sum((p.conjugate() * q).imag for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True))
