from __future__ import annotations

import doctest
import importlib
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from sparseconv.datasets import (
    Sample,
    SimulatedRoom,
    SimulatedRoomDataset,
    SimulatedStreet,
    SimulatedStreetDataset,
    collate,
)

STREET = {"beams": 16, "columns": 240}
ROOM = {"views": 1, "resolution": (80, 40)}


def test_streets_are_frames_of_drives() -> None:
    dataset = SimulatedStreetDataset(2, frames=3, first_seed=5, **STREET)
    assert len(dataset) == 6
    expected = SimulatedStreet(seed=6, caster="numpy", **STREET).frame(1)
    sample = dataset[4]
    assert isinstance(sample, Sample) and sample.name == expected.name == "street 6, frame 1"
    np.testing.assert_array_equal(sample.points, expected.points)
    np.testing.assert_array_equal(sample.boxes, expected.boxes)
    assert dataset[-2].name == sample.name
    with pytest.raises(IndexError, match="6"):
        dataset[6]


def test_chosen_boxes() -> None:
    dataset = SimulatedStreetDataset(1, box_classes=("cyclist", "car"), min_points=3, sweeps=2, frames=2, **STREET)
    sample = dataset[1]
    assert "time_lag" in sample.fields and sample.box_labels is not None
    assert set(sample.box_names) <= {"cyclist", "car"} and (sample.box_data["num_points"] >= 3).all()
    assert [dataset.box_classes[label] for label in sample.box_labels] == list(sample.box_names)
    assert len(sample.box_names) > 3


def test_rooms() -> None:
    dataset = SimulatedRoomDataset(2, first_seed=3, box_classes=("table", "chair"), transform=len, **ROOM)
    assert len(dataset) == 2
    assert dataset[1] == len(SimulatedRoom(4, caster="numpy", **ROOM).scan())
    sample = dataset.read(0)
    assert set(sample.box_names) <= {"table", "chair"} and len(sample.box_names) > 0


@pytest.mark.parametrize("kind", ["street", "room"])
def test_batches_of_sparse_tensors(kind: str) -> None:
    dataset: Any = SimulatedStreetDataset(3, **STREET) if kind == "street" else SimulatedRoomDataset(3, **ROOM)
    batch = collate([dataset[0], dataset[1]], 0.2)
    assert len(batch) == 2 and batch.labels is not None and batch.boxes is not None
    assert len(batch.labels) == len(batch.sparse)
    assert int(batch.labels.max()) < len(dataset.CLASSES)
    assert dataset.classes == dataset.CLASSES and dataset.IGNORE_LABEL == -1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_workers_give_the_same_samples() -> None:
    """Also where this process has used Open3D."""
    SimulatedStreet(**STREET).scan()
    dataset = SimulatedStreetDataset(3, **STREET)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=120, collate_fn=_unchanged
    )
    for index, sample in enumerate(loader):
        np.testing.assert_array_equal(sample.points, dataset[index].points)


def _unchanged(sample: Sample) -> Sample:
    return sample


def test_wrong_arguments_are_refused() -> None:
    for call, message in (
        (lambda: SimulatedStreetDataset(0), "scenes must be a whole number >= 1, got 0"),
        (lambda: SimulatedStreetDataset(1, frames=0), "frames must be"),
        (lambda: SimulatedStreetDataset(1, beams=0), "beams must be"),
        (lambda: SimulatedStreetDataset(1, box_classes=("cat",)), "cat"),
        (lambda: SimulatedRoomDataset(True), "scenes must be"),
        (lambda: SimulatedRoomDataset(1, sensor="sonar"), "sensor must be"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("name", ["simulated_street", "simulated_room", "simulated_datasets"])
def test_examples_of_the_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"sparseconv.datasets.{name}"))
    assert result.attempted > 0 and result.failed == 0
