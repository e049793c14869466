"""The rulebook: for each kernel tap, which input row contributes to which output row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import InitVar, dataclass

import torch
from torch import Tensor

from sparseconv.backends import backend_for
from sparseconv.memoized import memoized


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
        trusted: skip all checks; for maps that the engine built.

    Raises:
        TypeError: rows are not int32, or offsets not int64.
        ValueError: shapes do not fit, a row is out of range, or the invariants do not hold.
    """

    in_rows: Tensor
    out_rows: Tensor
    tap_offsets: Tensor
    n_in: int
    n_out: int
    in_rows_ascend: bool
    trusted: InitVar[bool] = False

    def __post_init__(self, trusted: bool) -> None:
        """Refuse what would make a kernel leave its arrays."""
        if trusted:
            return
        for name, rows, count in (("in_rows", self.in_rows, self.n_in), ("out_rows", self.out_rows, self.n_out)):
            if rows.dtype != torch.int32:
                raise TypeError(f"{name} must be int32, got {rows.dtype}")
            if rows.dim() != 1 or not rows.is_contiguous() or len(rows) != len(self.in_rows):
                raise ValueError(
                    f"in_rows and out_rows must be contiguous and of one length, got {list(rows.shape)}"
                )
            low, high = (int(bound) for bound in torch.aminmax(rows)) if len(rows) else (0, -1)
            if low < 0 or high >= count:
                raise ValueError(f"{name} must lie in 0 .. {count - 1}, got {low} .. {high}")
        if self.tap_offsets.dtype != torch.int64 or self.tap_offsets.device.type != "cpu":
            raise TypeError(
                f"tap_offsets must be int64 on the CPU, got {self.tap_offsets.dtype} on {self.tap_offsets.device}"
            )
        offsets = self.tap_offsets
        if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(self.in_rows) or (offsets.diff() < 0).any():
            raise ValueError(
                f"tap_offsets must ascend from 0 to the number of pairs, {len(self.in_rows)}, got "
                f"{offsets.tolist()}"
            )
        self._check_order()

    def _check_order(self) -> None:
        """Kernels place a tap's pairs by bisection, and add without atomics."""
        taps = torch.arange(self.volume, device="cpu").repeat_interleave(self.counts).to(self.in_rows.device)
        same_tap = taps[1:] == taps[:-1]
        if bool((same_tap & (self.out_rows.diff() <= 0)).any()):
            raise ValueError("out_rows must ascend within each tap, without repeats: sort the pairs of each tap")
        if not bool((same_tap & (self.in_rows.diff() <= 0)).any()):
            return
        if self.in_rows_ascend:
            raise ValueError("in_rows do not ascend within each tap: pass in_rows_ascend=False")
        if len(torch.unique(taps * self.n_in + self.in_rows)) < self.n_pairs:
            raise ValueError("in_rows repeat within a tap: give each repetition a tap of its own")

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

    @memoized
    def _transposed(self) -> KernelMap:
        in_rows, out_rows = self.out_rows, self.in_rows
        if not self.in_rows_ascend:
            backend = backend_for(in_rows.device)
            # Kept, so it must serve training after an evaluation in inference mode.
            with torch.inference_mode(False):
                in_rows, out_rows = backend.order_pairs(in_rows, out_rows, self.tap_offsets)
        return KernelMap(
            in_rows, out_rows, self.tap_offsets, self.n_out, self.n_in, self.in_rows_ascend, trusted=True
        )

    def macs(self, c_in: int, c_out: int, groups: int = 1) -> int:
        """Exact number of multiply-adds of a convolution over this map."""
        return self.n_pairs * (c_in // groups) * c_out

    def neighbor_table(self) -> Tensor:
        """For each output row and tap the input row, -1 where there is none: int32 ``[n_out, K]``."""
        table = torch.full((self.n_out, self.volume), -1, dtype=torch.int32, device=self.in_rows.device)
        taps = torch.arange(self.volume, device="cpu").repeat_interleave(self.counts).to(table.device)
        table[self.out_rows.long(), taps] = self.in_rows
        return table

    def in_counts(self) -> Tensor:
        """Number of pairs that end in each output row: int64 ``[n_out]``."""
        return self._in_counts

    @memoized
    def _in_counts(self) -> Tensor:
        with torch.inference_mode(False):
            return torch.bincount(self.out_rows, minlength=self.n_out)

    def __repr__(self) -> str:
        """Sizes only."""
        return f"KernelMap(taps={self.volume}, n_in={self.n_in}, n_out={self.n_out}, pairs={self.n_pairs})"
