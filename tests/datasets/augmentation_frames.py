"""Frames whose points know their row and their box, and their comparison."""

from __future__ import annotations

import numpy as np

from sparseconv.datasets import Sample, points_in_boxes

CLASSES = ("Car", "Cyclist")


def frame(seed: int, *, boxes: int = 6, points: int = 1500, width: int = 9, labelled: bool = True) -> Sample:
    """Boxes that do not overlap, some of the points in them; each point knows its row and its box."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(36)[:boxes]
    rows = np.zeros((boxes, width))
    rows[:, 0] = (places % 6 - 2.5) * 12 + rng.uniform(-1, 1, boxes)
    rows[:, 1] = (places // 6 - 2.5) * 12 + rng.uniform(-1, 1, boxes)
    rows[:, 2] = rng.uniform(-2, 2, boxes)
    rows[:, 3:6] = rng.uniform(1, 6, (boxes, 3))
    rows[:, 6] = rng.uniform(-np.pi, np.pi, boxes)
    rows[:, 7:] = rng.normal(size=(boxes, width - 7))
    xyz = rng.uniform([-40, -40, -4], [40, 40, 4], (points, 3))
    if boxes:
        # Well inside or outside, so that float32 does not decide.
        own = rng.integers(0, boxes, points // 2)
        local = rng.uniform(-0.45, 0.45, (len(own), 3)) * rows[own, 3:6]
        turned = (local[:, 0] + 1j * local[:, 1]) * np.exp(1j * rows[own, 6])
        xyz[: len(own)] = rows[own, :3] + np.stack([turned.real, turned.imag, local[:, 2]], 1)
        near = rows.copy()
        near[:, 3:6] *= 1.01
        smaller = rows.copy()
        smaller[:, 3:6] *= 0.99
        on_a_face = (points_in_boxes(xyz, near) != points_in_boxes(xyz, smaller)).any(1)
        xyz[on_a_face] = [0, 0, 50]
    normals = rng.normal(size=(points, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    names = tuple(CLASSES[number % 2] for number in range(boxes))
    return Sample(
        np.concatenate([xyz, rng.random((points, 1)), normals], 1).astype(np.float32),
        ("x", "y", "z", "intensity", "nx", "ny", "nz"),
        f"frame {seed}",
        labels=rng.integers(0, 5, points).astype(np.int32) if labelled else None,
        instances=rng.integers(0, 4, points).astype(np.int32) if labelled else None,
        boxes=rows.astype(np.float32),
        box_names=names,
        box_labels=np.array([CLASSES.index(name) for name in names], np.int32),
        pose=np.eye(4),
        point_data={"row": np.arange(points)},
        box_data={"number": np.arange(boxes)},
    )


def same(a: Sample, b: Sample, tolerance: float = 0.0) -> None:
    np.testing.assert_allclose(a.points, b.points, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(a.boxes[:, :6], b.boxes[:, :6], atol=tolerance, rtol=tolerance)  # type: ignore[index]
    turn = np.exp(1j * a.boxes[:, 6]) - np.exp(1j * b.boxes[:, 6])  # type: ignore[index]
    assert np.abs(turn).max(initial=0) <= tolerance + 1e-6
    np.testing.assert_allclose(a.boxes[:, 7:], b.boxes[:, 7:], atol=tolerance, rtol=tolerance)  # type: ignore[index]
    for name in ("labels", "instances", "box_labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.box_names == b.box_names
