"""Batches: voxels, classes and boxes of several samples, also through loaders with workers and into a network."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sample_data import DATA, sample
from torch.utils.data import DataLoader

import sparseconv
from sparseconv.datasets import (
    Batch,
    KittiObject,
    PointDataset,
    Sample,
    SemanticKitti,
    collate,
    label_voxels,
)
from sparseconv.datasets.augmentations import Augment, drop_points, flip, rotate


def cloud(points: list[list[float]], labels: list[int] | None = None, **more: object) -> Sample:
    return Sample(
        np.array(points, np.float32).reshape(-1, 4),
        ("x", "y", "z", "intensity"),
        labels=None if labels is None else np.array(labels, np.int32),
        **more,  # type: ignore[arg-type]
    )


def test_two_samples_by_hand() -> None:
    first = cloud(
        [[0.1, 0.1, 0.1, 1], [0.9, 0.9, 0.9, 3], [5.5, 0.5, 0.5, 4], [0.5, 0.5, 0.5, 2], [0.2, 0.2, 0.2, 0]],
        [7, 3, 9, 3, -1],
        name="a",
    )
    second = cloud([[0.5, 1.5, 0.5, 8]], [-1], name="b")
    batch = collate([first, second], 1.0)
    assert isinstance(batch, Batch) and len(batch) == 2 and batch.names == ("a", "b")
    # Rows: batch, z, y, x.
    assert batch.voxels.indices.tolist() == [[0, 0, 0, 0], [0, 0, 0, 5], [1, 0, 1, 0]]
    assert batch.labels.tolist() == [3, 9, -1] and batch.labels.dtype == torch.int64
    assert batch.point_labels.tolist() == [7, 3, 9, 3, -1, -1]
    assert batch.voxels.features[:, 3].tolist() == [1.5, 4, 8]
    assert batch.voxels.point_rows.tolist() == [0, 0, 1, 0, 0, 2]
    assert collate([first, second], 1.0, voxel_labels="first").labels.tolist() == [7, 9, -1]
    assert collate([first, second], 1.0, ignore_label=3).labels.tolist() == [-1, 9, -1]
    assert batch.boxes is None and batch.box_labels is None and batch.class_ids is None
    sparse = batch.sparse
    assert isinstance(sparse, sparseconv.SparseTensor) and sparse.batch_size == 2
    assert "samples=2" in repr(batch)


def test_hard_voxels() -> None:
    to_voxels = partial(sparseconv.hard_voxelize, voxel_size=1.0, max_points=2, max_voxels=9)
    batch = collate([cloud([[0.5, 0, 0, 1], [3, 0, 0, 2], [0.6, 0, 0, 3]], [4, 5, 4])], voxelizer=to_voxels)
    assert batch.voxels.points.shape == (2, 2, 4) and batch.labels.tolist() == [4, 5]
    with pytest.raises(TypeError, match=r"encode batch\.voxels\.points first"):
        batch.sparse  # noqa: B018


def test_moving_a_batch_moves_every_tensor() -> None:
    boxes = np.ones((1, 7), np.float32)
    one = cloud([[0.5, 0, 0, 1]], [4], boxes=boxes, box_names=("a",), box_labels=np.zeros(1, np.int32), class_id=1)
    moved = collate([one], 1.0).to("meta")
    tensors = [moved.labels, moved.point_labels, moved.class_ids, *moved.boxes, *moved.box_labels]
    tensors += [moved.voxels.features, moved.voxels.indices, moved.voxels.num_points, moved.voxels.point_rows]
    assert {tensor.device.type for tensor in tensors} == {"meta"} and moved.names == ("",)
    assert moved.voxels.grid.voxel_size == (1.0, 1.0, 1.0)


def test_points_outside_have_no_say() -> None:
    sample_ = cloud([[0.5, 0.5, 0.5, 0], [9, 9, 9, 0], [0.6, 0.6, 0.6, 0]], [2, 5, 2])
    batch = collate([sample_], 1.0, [0, 0, 0, 2, 2, 2])
    assert batch.labels.tolist() == [2] and batch.voxels.point_rows.tolist() == [0, -1, 0]
    assert batch.voxels.num_outside == 1 and batch.sparse.spatial_shape == [2, 2, 2]


def test_boxes_and_class_ids() -> None:
    boxes = np.arange(14, dtype=np.float32).reshape(2, 7)
    first = cloud(
        [[0, 0, 0, 0]], boxes=boxes, box_names=("a", "b"), box_labels=np.array([1, 0], np.int32), class_id=4
    )
    second = cloud([], boxes=boxes[:0], box_names=(), box_labels=np.zeros(0, np.int32), class_id=2)
    batch = collate([first, second], 0.5)
    assert [tuple(b.shape) for b in batch.boxes] == [(2, 7), (0, 7)]
    assert (batch.boxes[0].numpy() == boxes).all() and batch.box_labels[0].tolist() == [1, 0]
    assert batch.class_ids.tolist() == [4, 2] and batch.voxels.batch_size == 2
    with pytest.raises(ValueError, match="some samples of the batch have boxes"):
        collate([first, cloud([[0, 0, 0, 0]], class_id=1)], 0.5)


def test_an_empty_sample_in_the_middle() -> None:
    batch = collate([cloud([[0, 0, 0, 0]], [1]), cloud([], []), cloud([[1, 1, 1, 0]], [2])], 1.0)
    assert batch.voxels.batch_size == 3 and batch.labels.tolist() == [1, 2]
    assert batch.voxels.indices[:, 0].tolist() == [0, 2]


@pytest.mark.parametrize("rule", ["majority", "first"])
def test_labels_lie_where_the_rows_do_whatever_the_default_device(rule: Literal["majority", "first"]) -> None:
    rows, labels = torch.tensor([0, 0, 2, -1]), torch.tensor([3, 3, 1, 2])
    with torch.device("meta"):
        assert label_voxels(labels, rows, 3, rule).tolist() == [3, -1, 1]
        assert label_voxels(labels, rows - 9, 3, rule).tolist() == [-1, -1, -1]


def test_fields_are_chosen_and_ordered() -> None:
    wide = Sample(np.arange(5, dtype=np.float32)[None], ("x", "y", "z", "ring", "intensity"))
    narrow = cloud([[0, 1, 2, 9]])
    fields = ("x", "y", "z", "intensity")
    batch = collate([wide, narrow], 1.0, fields=fields)
    assert batch.voxels.features.tolist() == [[0, 1, 2, 4], [0, 1, 2, 9]]
    with pytest.raises(ValueError, match=r"must have the same fields.*pass fields"):
        collate([wide, narrow], 1.0)
    with pytest.raises(ValueError, match="has no field 'ring'"):
        collate([wide, narrow], 1.0, fields=("x", "y", "z", "ring"))
    with pytest.raises(ValueError, match="fields must begin with"):
        collate([wide], 1.0, fields=("ring",))


def test_arguments() -> None:
    one = cloud([[0, 0, 0, 0]])
    voxelizer = partial(sparseconv.voxelize, voxel_size=2.0, reduce="max")
    assert collate([one], voxelizer=voxelizer).voxels.grid.voxel_size == (2.0, 2.0, 2.0)
    for bad in ({}, {"voxel_size": 1.0, "voxelizer": voxelizer}):
        with pytest.raises(ValueError, match="pass"):
            collate([one], **bad)
    with pytest.raises(ValueError, match="voxel_labels must be"):
        collate([one], 1.0, voxel_labels="last")  # type: ignore[arg-type]
    for bad_samples in ([], [one, 3]):
        with pytest.raises(TypeError, match="at least one Sample"):
            collate(bad_samples, 1.0)  # type: ignore[arg-type]


@given(st.integers(0, 2**32 - 1))
def test_labels_as_counted_voxel_by_voxel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, voxels = int(rng.integers(0, 60)), int(rng.integers(1, 12))
    rows, labels = rng.integers(-1, voxels, count), rng.integers(-2, 4, count)
    majority, first = [], []
    for voxel in range(voxels):
        own = [int(label) for row, label in zip(rows, labels, strict=True) if row == voxel and label != -1]
        votes = Counter(own)
        majority.append(min(votes, key=lambda label: (-votes[label], label)) if own else -1)
        first.append(own[0] if own else -1)
    tensors = torch.from_numpy(labels), torch.from_numpy(rows)
    assert label_voxels(*tensors, voxels).tolist() == majority
    assert label_voxels(*tensors, voxels, "first").tolist() == first


class Rooms(PointDataset):
    """A data set of a user's own."""

    def __len__(self) -> int:
        return 5

    def read(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        points = rng.uniform(0, 4, (200, 4)).astype(np.float32)
        return Sample(
            points, ("x", "y", "z", "intensity"), str(index), labels=rng.integers(0, 3, 200).astype(np.int32)
        )


TO_BATCH = partial(collate, voxel_size=0.5, voxel_labels="majority")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_same_batches(method: str) -> None:
    alone = list(DataLoader(Rooms(), batch_size=2, collate_fn=TO_BATCH))
    loader = DataLoader(Rooms(), batch_size=2, collate_fn=TO_BATCH, num_workers=1, multiprocessing_context=method)
    together = list(loader)
    assert [batch.names for batch in together] == [("0", "1"), ("2", "3"), ("4",)]
    for here, there in zip(alone, together, strict=True):
        assert torch.equal(here.voxels.indices, there.voxels.indices)
        assert torch.equal(here.voxels.features, there.voxels.features)
        assert torch.equal(here.labels, there.labels)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_without_collate_fn_says_what_to_do(workers: int) -> None:
    with pytest.raises(TypeError, match=r"collate_fn=functools\.partial\(sparseconv\.datasets\.collate"):
        next(iter(DataLoader(Rooms(), batch_size=2, num_workers=workers)))


def test_samples_inside_what_a_transform_returns_are_refused_too() -> None:
    for transform in (lambda one: (one, 3), lambda one: {"sample": one}):
        with pytest.raises(TypeError, match="collate_fn="):
            next(iter(DataLoader(Rooms(transform=transform), batch_size=2)))


def test_what_torch_can_collate_stays_as_it_was() -> None:
    """One sample at a time, and tensors of a transform."""
    alone = next(iter(DataLoader(Rooms(), batch_size=None)))
    assert isinstance(alone, Sample) and alone.name == "0"
    centres = next(iter(DataLoader(Rooms(transform=lambda one: one.xyz.mean(0)), batch_size=2)))
    assert centres.shape == (2, 3)


def test_augmented_epochs_differ_and_repeat_with_the_seed() -> None:
    dataset = Rooms(transform=Augment(flip, rotate, drop_points))

    def epoch() -> list[torch.Tensor]:
        return [batch.voxels.features for batch in DataLoader(dataset, batch_size=5, collate_fn=TO_BATCH)]

    torch.manual_seed(0)
    first, second = epoch(), epoch()
    torch.manual_seed(0)
    again = epoch()
    assert torch.equal(first[0], again[0])
    assert first[0].shape != second[0].shape or not torch.equal(first[0], second[0])


def test_a_network_learns_from_batches() -> None:
    loader = DataLoader(Rooms(), batch_size=5, collate_fn=TO_BATCH)
    first, second = sparseconv.SubMConv3d(4, 8, 3), sparseconv.SubMConv3d(8, 3, 3)

    def network(voxels: sparseconv.SparseTensor) -> sparseconv.SparseTensor:
        hidden = first(voxels)
        return second(hidden.replace_feature(torch.relu(hidden.features)))

    optimizer = torch.optim.Adam([*first.parameters(), *second.parameters()], 0.02)
    losses = []
    for _ in range(15):
        for batch in loader:
            loss = torch.nn.functional.cross_entropy(network(batch.sparse).features, batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_real_frames_in_one_batch() -> None:
    sample("kitti/training/velodyne/000000.bin")
    dataset = KittiObject(DATA / "kitti", "training", camera_view=True)
    span = [0, -40, -3, 70.4, 40, 1]
    batch = collate(list(dataset), [0.05, 0.05, 0.1], span)
    assert batch.sparse.spatial_shape == [40, 1600, 1408] and batch.sparse.batch_size == 3
    assert [len(boxes) for boxes in batch.boxes] == [1, 3, 2]
    kept = sum(
        int(((frame.xyz >= np.float32(span[:3])) & (frame.xyz < np.float32(span[3:]))).all(1).sum())
        for frame in dataset
    )
    assert abs(int((batch.voxels.point_rows >= 0).sum()) - kept) <= 2


def test_real_scans_in_one_batch() -> None:
    sample("semantic_kitti/sequences/00/velodyne/000000.bin")
    batch = collate(list(SemanticKitti(DATA / "semantic_kitti", [0], labels=False)), 0.1)
    # The first scan's voxels are known: see the data folder's README.
    assert int((batch.voxels.indices[:, 0] == 0).sum()) == 60152
