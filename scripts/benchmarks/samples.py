"""Timings of one program on one case, and their statistics."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sparseconv.scripts.benchmarks.cases import Case


@dataclass
class Timing:
    """What one program did on one case.

    Attributes:
        peer: the library behind the program.
        seconds: every sample, round after round.
        threads: the setting that it settled on.
        problem: why there are none: an error, or how its output differs.
        difference: how its output differs, where it does: that of an untrusted program withholds nothing.
    """

    peer: str
    seconds: list[float] = field(default_factory=list)
    threads: int | None = None
    problem: str | None = None
    difference: str | None = None

    @property
    def quartiles(self) -> tuple[float, float, float, float]:
        """Minimum, lower quartile, median, upper quartile in seconds."""
        low, first, median, third = np.quantile(self.seconds, [0, 0.25, 0.5, 0.75])
        return float(low), float(first), float(median), float(third)

    @property
    def median(self) -> float | None:
        """Median in seconds; None where nothing was measured or the output was wrong."""
        return self.quartiles[2] if self.seconds and self.problem is None else None


@dataclass
class CaseResult:
    """All programs on one case.

    Attributes:
        case: what was run.
        timings: by the programs' names; ours is ``"ours"``.
        macs: multiply-adds of one run, 0 where none are counted.
        rows: voxels or points that go in.
        peak_bytes: memory that one run of ours takes beyond its input, where it was measured.
    """

    case: Case
    timings: dict[str, Timing]
    macs: int
    rows: int
    peak_bytes: int | None = None

    @property
    def reached(self) -> float | None:
        """The ratio that the case's target is about: to the fastest setting of the peer that it names."""
        if self.case.target is None:
            return None
        names = [name for name, timing in self.timings.items() if timing.peer == self.case.target.peer]
        return min(filter(None, map(self.ratio, names)), default=None)

    def ratio(self, name: str) -> float | None:
        """How many times as long as ours a program takes."""
        ours = self.timings["ours"].median if "ours" in self.timings else None
        theirs = self.timings[name].median
        return theirs / ours if ours and theirs else None

    def rate(self, name: str) -> float | None:
        """Billions of floating point operations a second."""
        median = self.timings[name].median
        return 2e-9 * self.macs / median if median and self.macs else None
