"""Half precisions are storage only: sums are taken in float32."""

from __future__ import annotations

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def widen(tensor: Tensor) -> Tensor:
    """The tensor in the type that sums are taken in: float32 for the half precisions, else its own."""
    return tensor.float() if tensor.dtype in _HALF else tensor


def multiplied(tensor: Tensor, halves: tuple[torch.dtype, ...]) -> Tensor:
    """The tensor in a type that a backend multiplies: as it is in one of ``halves``, else widened."""
    return tensor if tensor.dtype in halves else widen(tensor)
