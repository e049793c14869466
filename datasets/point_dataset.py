"""What the data sets share: an index of samples, read one at a time, then transformed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from .sample import Sample

Transform = Callable[[Sample], Any]


def _refuse_default_collation(samples: Sequence[Sample], *, collate_fn_map: object = None) -> NoReturn:
    """What torch's `default_collate` does with samples, whose clouds differ in their number of points.

    Raises:
        TypeError: always.
    """
    raise TypeError(
        f"torch's default collation cannot batch {len(samples)} Samples, whose numbers of points differ: give the "
        "DataLoader collate_fn=functools.partial(sparseconv.datasets.collate, voxel_size=..), batch_size=None for "
        "one Sample at a time, or the data set a transform that returns tensors of one size"
    )


# `default_collate_fn_map` is where torch's documentation of `default_collate` has types registered.
default_collate_fn_map[Sample] = _refuse_default_collation


class PointDataset(Dataset[Any]):
    """A map-style data set of samples: `len(dataset)`, `dataset[i]`.

    A `DataLoader` of it needs a `collate_fn`, such as `collate` with its voxel size; torch's own raises TypeError.

    Args:
        transform: called with each `Sample`; what it returns is what `dataset[i]` returns. It must be picklable
            where a `DataLoader` has spawned workers (a function of a module, or a `functools.partial` of one).

    Attributes:
        IGNORE_LABEL: the class of points that have none; -1 where a data set does not say otherwise.
    """

    IGNORE_LABEL: int = -1

    def __init__(self, transform: Transform | None = None) -> None:
        if transform is not None and not callable(transform):
            raise TypeError(f"transform must be a function of one Sample, got {type(transform).__name__}")
        self.transform = transform

    def read(self, index: int) -> Sample:
        """The sample as it is on disk, before `transform`.

        Args:
            index: from 0 to `len(self) - 1`.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        """Number of samples."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        """Sample number `index`, from the end where it is negative."""
        number = operator.index(index)
        if number < 0:
            number += len(self)
        if not 0 <= number < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        sample = self.read(number)
        return sample if self.transform is None else self.transform(sample)


def chosen_classes(classes: Sequence[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that a user asks for, all where that is None.

    Args:
        classes: names, in the order of their labels.
        known: every class of the data set.

    Raises:
        ValueError: a name that the data set does not have, or none twice.
    """
    if classes is None:
        return known
    if isinstance(classes, str):
        raise TypeError(f"classes must be a sequence of names, got {classes!r}: pass ({classes!r},)")
    chosen = tuple(classes)
    unknown = [name for name in chosen if name not in known]
    if unknown or len(set(chosen)) != len(chosen) or not chosen:
        raise ValueError(f"classes must be different names of {', '.join(known)}, got {chosen}")
    return chosen
