"""Sites for the checks of this folder."""

from __future__ import annotations

import torch
from torch import Tensor


def make_sites(count: int, is_sorted: bool, shape: tuple[int, ...] = (4, 5, 40)) -> Tensor:
    """Distinct sites of three samples, the middle one empty, with negative coordinates: int32 ``[count, 1+D]``."""
    cells = torch.randperm(2 * int(torch.tensor(shape).prod()))[:count]
    if is_sorted:
        cells = cells.sort().values
    columns = []
    for extent in reversed(shape):
        columns.append(cells % extent - 3)
        cells = cells // extent
    return torch.stack([cells * 2, *reversed(columns)], 1).int()
