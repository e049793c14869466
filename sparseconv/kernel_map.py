"""The rulebook: for each kernel tap, which input row contributes to which output row."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseconv.backends import backend_for


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Pairs (input row, output row), grouped by tap.

    Invariants: within one tap no input row and no output row repeats, and the pairs of a tap are in order of
    their output rows. So scattering needs no atomics and every sum has one fixed order.

    Attributes:
        in_rows: int32 ``[P]``.
        out_rows: int32 ``[P]``.
        tap_offsets: int64 ``[K+1]`` on the CPU; tap ``t`` holds the pairs ``tap_offsets[t] .. tap_offsets[t+1]``.
        n_in: number of input rows.
        n_out: number of output rows.
        in_rows_ascend: whether the pairs of each tap are in order of their input rows as well.
    """

    in_rows: Tensor
    out_rows: Tensor
    tap_offsets: Tensor
    n_in: int
    n_out: int
    in_rows_ascend: bool

    @property
    def volume(self) -> int:
        """Number of taps ``K``."""
        return len(self.tap_offsets) - 1

    @property
    def n_pairs(self) -> int:
        """Number of pairs ``P`` over all taps."""
        return len(self.in_rows)

    @property
    def counts(self) -> Tensor:
        """Pairs of each tap: int64 ``[K]`` on the CPU."""
        return self.tap_offsets.diff()

    def pairs(self, tap: int) -> tuple[Tensor, Tensor]:
        """Input and output rows of one tap: two int32 ``[counts[tap]]``.

        Raises:
            IndexError: there is no such tap.
        """
        if not 0 <= tap < self.volume:
            raise IndexError(f"tap must lie in 0 .. {self.volume - 1}, got {tap}")
        start, stop = self.tap_offsets[tap : tap + 2].tolist()
        return self.in_rows[start:stop], self.out_rows[start:stop]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The pairs of each tap in order."""
        return (self.pairs(tap) for tap in range(self.volume))

    def transposed(self) -> KernelMap:
        """The same pairs with the two sides swapped; no search. Kept, so that it costs once."""
        return self._transposed

    @functools.cached_property
    def _transposed(self) -> KernelMap:
        in_rows, out_rows = self.out_rows, self.in_rows
        if not self.in_rows_ascend:
            backend = backend_for(in_rows.device)
            # Kept, so it must serve training after an evaluation in inference mode.
            with torch.inference_mode(False):
                in_rows, out_rows = backend.order_pairs(in_rows, out_rows, self.tap_offsets)
        return KernelMap(in_rows, out_rows, self.tap_offsets, self.n_out, self.n_in, self.in_rows_ascend)

    def macs(self, c_in: int, c_out: int, groups: int = 1) -> int:
        """Exact number of multiply-adds of a convolution over this map."""
        return self.n_pairs * (c_in // groups) * c_out

    def neighbor_table(self) -> Tensor:
        """For each output row and tap the input row, -1 where there is none: int32 ``[n_out, K]``."""
        table = torch.full((self.n_out, self.volume), -1, dtype=torch.int32, device=self.in_rows.device)
        taps = torch.arange(self.volume).repeat_interleave(self.counts).to(table.device)
        table[self.out_rows.long(), taps] = self.in_rows
        return table

    def in_counts(self) -> Tensor:
        """Number of pairs that end in each output row: int64 ``[n_out]``."""
        return self._in_counts

    @functools.cached_property
    def _in_counts(self) -> Tensor:
        with torch.inference_mode(False):
            return torch.bincount(self.out_rows, minlength=self.n_out)

    def __repr__(self) -> str:
        """Sizes only."""
        return f"KernelMap(taps={self.volume}, n_in={self.n_in}, n_out={self.n_out}, pairs={self.n_pairs})"
