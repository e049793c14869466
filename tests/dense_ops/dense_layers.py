"""One layer of each dense variant, for checks that all of them must pass."""

from __future__ import annotations

import functools

from sparseconv.dense_ops.catalogue import VARIANTS

CHANNELS = 16

LAYERS = {name: functools.partial(variant.make, CHANNELS) for name, variant in VARIANTS.items()}
