"""Augmentations: plain functions of samples and a generator, which change points, boxes and labels together.

Each takes a `Sample` and an explicit `numpy.random.Generator`, and returns a new `Sample`; equal generators give
equal results. The motions behind the random ones (`flip_along`, `rotate_by`, `scale_by`, `translate_by`) take
their amount instead. `Augment` makes a data set's `transform` of several.
"""

from .ground_truth import ObjectDatabase, paste_objects
from .mixing import concatenate, laser_mix, polar_mix
from .motions import flip_along, rotate_by, scale_by, translate_by
from .random_motions import flip, rotate, scale, translate
from .random_points import drop_points, jitter, shuffle
from .transform import Augment

__all__ = [
    "Augment",
    "ObjectDatabase",
    "concatenate",
    "drop_points",
    "flip",
    "flip_along",
    "jitter",
    "laser_mix",
    "paste_objects",
    "polar_mix",
    "rotate",
    "rotate_by",
    "scale",
    "scale_by",
    "shuffle",
    "translate",
    "translate_by",
]
