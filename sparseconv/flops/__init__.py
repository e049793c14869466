"""Exact multiply-adds and memory of a network from its kernel maps, and what dense layers would need.

A sparse convolution does one multiply-add for each pair, input channel of a group and output channel. Its dense
twin does that for every output cell and tap of the whole grid, padding included (the usual count). One
multiply-add is two FLOPs. ``docs/flops.md`` has the formulas.
"""

from sparseconv.flops.counts import ForwardCount, LayerCount
from sparseconv.flops.passes import count_forward, count_training

__all__ = ["ForwardCount", "LayerCount", "count_forward", "count_training"]
