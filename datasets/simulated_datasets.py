"""Simulated scenes as data sets: samples of the same shape as those of real ones, without a download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .point_dataset import PointDataset, Transform, chosen_classes
from .sample import Sample
from .simulated_room import SimulatedRoom
from .simulated_street import SimulatedStreet


class SimulatedStreetDataset(PointDataset):
    """Drives through random streets: points with classes and objects, and boxes to detect.

    Args:
        scenes: how many streets.
        frames: consecutive frames of each.
        first_seed: of the first street; the next ones follow. Disjoint ranges make disjoint splits.
        sweeps: sweeps in each sample; more than one add the field `time_lag`.
        box_classes: the box classes that are kept, in the order of their labels; None: all of
            `SimulatedStreet.BOX_CLASSES`.
        min_points: boxes with fewer points are left out.
        transform: called with each `Sample`.
        street: further attributes of `SimulatedStreet`. Its caster is `"numpy"` unless named: Open3D's threads do
            not survive the fork of a data loader's workers.

    Raises:
        ValueError, TypeError: an argument out of range.

    Example:
        >>> dataset = SimulatedStreetDataset(2, frames=3, beams=16, columns=360, box_classes=("car",))
        >>> len(dataset)
        6
        >>> dataset[4].name
        'street 1, frame 1'
    """

    CLASSES = SimulatedStreet.CLASSES
    classes = CLASSES

    def __init__(
        self,
        scenes: int = 10,
        *,
        frames: int = 1,
        first_seed: int = 0,
        sweeps: int = 1,
        box_classes: Sequence[str] | None = None,
        min_points: int = 0,
        transform: Transform | None = None,
        **street: Any,
    ) -> None:
        super().__init__(transform)
        for name, value in (("scenes", scenes), ("frames", frames), ("sweeps", sweeps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
        self.box_classes = chosen_classes(box_classes, SimulatedStreet.BOX_CLASSES)
        self.scenes, self.frames, self.sweeps, self.min_points = scenes, frames, sweeps, min_points
        self.first_seed = first_seed
        self._attributes = {"caster": "numpy", **street}
        self._street(0)

    def _street(self, scene: int) -> SimulatedStreet:
        return SimulatedStreet(seed=self.first_seed + scene, **self._attributes)

    def __len__(self) -> int:
        """Streets times frames."""
        return self.scenes * self.frames

    def read(self, index: int) -> Sample:
        """Frame `index % frames` of street `index // frames`."""
        scene, frame = divmod(index, self.frames)
        street = self._street(scene)
        sample = street.frame(frame) if self.sweeps == 1 else street.sweeps(frame, self.sweeps)
        return _with_chosen_boxes(sample, self.box_classes, self.min_points)


class SimulatedRoomDataset(PointDataset):
    """Random rooms: coloured points with S3DIS's classes, objects, and boxes.

    Args:
        scenes: how many rooms.
        first_seed: of the first room; the next ones follow. Disjoint ranges make disjoint splits.
        box_classes: as of `SimulatedStreetDataset`, out of `SimulatedRoom.BOX_CLASSES`.
        min_points: boxes with fewer points are left out.
        transform: called with each `Sample`.
        room: further attributes of `SimulatedRoom`; the caster is `"numpy"` unless named, as above.

    Raises:
        ValueError, TypeError: an argument out of range.

    Example:
        >>> dataset = SimulatedRoomDataset(3, views=1, resolution=(60, 30))
        >>> dataset[-1].name
        'room 2'
    """

    CLASSES = SimulatedRoom.CLASSES
    classes = CLASSES

    def __init__(
        self,
        scenes: int = 10,
        *,
        first_seed: int = 0,
        box_classes: Sequence[str] | None = None,
        min_points: int = 0,
        transform: Transform | None = None,
        **room: Any,
    ) -> None:
        super().__init__(transform)
        if isinstance(scenes, bool) or not isinstance(scenes, int) or scenes < 1:
            raise ValueError(f"scenes must be a whole number >= 1, got {scenes!r}")
        self.box_classes = chosen_classes(box_classes, SimulatedRoom.BOX_CLASSES)
        self.scenes, self.first_seed, self.min_points = scenes, first_seed, min_points
        self._attributes = {"caster": "numpy", **room}
        self._room(0)

    def _room(self, scene: int) -> SimulatedRoom:
        return SimulatedRoom(seed=self.first_seed + scene, **self._attributes)

    def __len__(self) -> int:
        """Number of rooms."""
        return self.scenes

    def read(self, index: int) -> Sample:
        """Room number `index`, whole."""
        return _with_chosen_boxes(self._room(index).scan(), self.box_classes, self.min_points)


def _with_chosen_boxes(sample: Sample, classes: tuple[str, ...], min_points: int) -> Sample:
    named = np.array([name in classes for name in sample.box_names], np.bool_)
    sample = sample.select_boxes(named & (sample.box_data["num_points"] >= min_points))
    labels = [classes.index(name) for name in sample.box_names]
    return sample.replace(box_labels=np.array(labels, np.int32))
