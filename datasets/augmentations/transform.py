"""Augmentations as a data set's `transform`, random in every worker and epoch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparseconv.datasets.sample import Sample

Step = Callable[[Sample, np.random.Generator], Sample]


class Augment:
    """Apply augmentations in turn, each call with a fresh generator.

    The generator is seeded by one draw from torch's global one, which a `DataLoader` seeds differently for every
    worker and epoch; after `torch.manual_seed` runs are the same again.

    Args:
        *steps: functions of a sample and a generator, such as `flip`, or `functools.partial(rotate, high=0.1)`.

    Example:
        >>> from functools import partial
        >>> transform = Augment(flip, partial(rotate, low=-0.8, high=0.8), scale)  # doctest: +SKIP
        >>> dataset = KittiObject(root, "train", transform=transform)  # doctest: +SKIP
    """

    def __init__(self, *steps: Step) -> None:
        for step in steps:
            if not callable(step):
                raise TypeError(
                    f"a step must be a function of a Sample and a Generator, got {type(step).__name__}"
                )
        self.steps = steps

    def __call__(self, sample: Sample) -> Sample:
        """The augmented sample."""
        import torch

        rng = np.random.default_rng(int(torch.randint(2**63 - 1, ())))
        for step in self.steps:
            sample = step(sample, rng)
        return sample

    def __repr__(self) -> str:
        """The steps."""
        return f"Augment({', '.join(str(step) for step in self.steps)})"
