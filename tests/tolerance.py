"""How far a result may lie from its exact value, in one place and with a reason.

A sum of ``terms`` products is taken in the accumulation type: float64 for float64, else float32. Each of its
additions errs by at most half an ulp of the partial sum, in no preferred direction, so the errors add up like
the steps of a random walk: ``eps / 2 * sqrt(terms) * scale``, ``scale`` being the size of the partial sums.
Eight such standard deviations cover millions of compared values; what is wrong by a missing or a doubled term
is off by about ``scale / sqrt(terms)``, which is thousands of times more.

The half precisions are rounded once more when the sum is stored: half an ulp of the type, at most.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_DEVIATIONS = 8.0
_HALF = (torch.float16, torch.bfloat16)


def tolerance(dtype: torch.dtype, terms: int, scale: float = 1.0) -> float:
    """Largest absolute error of a correct sum.

    Args:
        dtype: type that the result is stored in.
        terms: number of products in the sum.
        scale: size of the partial sums; the largest magnitude of the results is a good value.
    """
    accumulated_in = torch.float64 if dtype == torch.float64 else torch.float32
    error = _DEVIATIONS / 2 * torch.finfo(accumulated_in).eps * math.sqrt(max(1, terms)) * scale
    if dtype in _HALF:
        error += torch.finfo(dtype).eps / 2 * (scale + error)
    return error


def assert_close(actual: Tensor, expected: Tensor, terms: int, what: str = "result") -> None:
    """``actual`` is ``expected`` (computed in float64 from the same stored numbers) up to rounding.

    Zeros must be where they are expected: a gradient that is wrongly zero, or wrongly not, is an error at any
    size.
    """
    assert actual.shape == expected.shape, f"{what}: shape {list(actual.shape)}, not {list(expected.shape)}"
    if actual.numel() == 0:
        return
    exact = expected.detach().double()
    found = actual.detach().double()
    assert torch.isfinite(found).all(), f"{what}: not finite"
    scale = max(1.0, float(exact.abs().max()))
    limit = tolerance(actual.dtype, terms, scale)
    error = float((found - exact).abs().max())
    assert error <= limit, f"{what}: off by {error:.3g}, allowed {limit:.3g}"
    lost = (found == 0) & (exact.abs() > limit)
    assert not lost.any(), f"{what}: {int(lost.sum())} values are wrongly zero"
    made_up = (exact == 0) & (found.abs() > limit)
    assert not made_up.any(), f"{what}: {int(made_up.sum())} values are wrongly not zero"


def assert_same_zeros(actual: Tensor, expected: Tensor, what: str) -> None:
    """The exact zeros of both lie at the same places."""
    differing = (actual == 0) != (expected == 0)
    assert not differing.any(), f"{what}: {int(differing.sum())} of {actual.numel()} zeros differ"
