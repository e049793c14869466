"""What the axes of a picture from above are called."""

from __future__ import annotations

from sparseconv.scripts.scan import Scan
from sparseconv.visualize.turning import Turn


def axis_words(scan: Scan, turn: Turn | None = None) -> tuple[str, str]:
    """What a picture from above calls its axes: forward and left for a vehicle's scan, else the file's in metres.

    Args:
        scan: a mesh's unit is its own, so that none is named.
        turn: of the scene; None: z is up.
    """
    if scan.vehicle is not None and (turn is None or turn.is_none):
        return ("x (forward)", "y (left)") if scan.vehicle == "KITTI" else ("x (right)", "y (forward)")
    turn = turn or Turn.with_up("z")
    unit = " (m)" if scan.from_mesh is None else ""
    words = []
    for axis, sign in zip(turn.axes, turn.signs, strict=True):
        name, shift = "xyz"[axis], float(scan.origin[axis])
        if shift:
            name += f" {'-' if shift > 0 else '+'} {abs(shift):,.12g}"
        if sign < 0:
            name = f"-({name})" if shift else f"-{name}"
        words.append(name + unit)
    return words[0], words[1]
