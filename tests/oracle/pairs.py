"""Which rows meet under which tap: the relation, looked up in a dictionary.

fine = stride * coarse - padding + dilation * tap       per axis, tap = 0 .. kernel - 1
"""

from collections.abc import Sequence

from .sites import Coords, Site, kernel_taps

Pairs = list[list[tuple[int, int]]]  # [tap][pair] -> (in_row, out_row)


def conv_pairs(
    fine: Coords,
    coarse: Coords,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Pairs:
    """Pairs (fine_row, coarse_row) of every tap, ordered by coarse_row within a tap.

    Args:
        fine: the input's sites, `[N_fine, 1 + D]`, in any order, without duplicates.
        coarse: the output's sites, `[N_coarse, 1 + D]`, in any order, without duplicates.
        kernel: taps per axis.
        stride: s per axis.
        padding: p per axis.
        dilation: d per axis.

    Returns:
        One list per tap, prod(kernel) in all, empty lists included.
    """
    row_of = _rows_by_site(fine)
    _rows_by_site(coarse)
    pairs: Pairs = []
    for tap in kernel_taps(kernel):
        of_tap: list[tuple[int, int]] = []
        for coarse_row, (batch, *position) in enumerate(coarse.tolist()):
            axes = zip(position, stride, padding, dilation, tap, strict=True)
            site = (batch, *(s * c - p + d * t for c, s, p, d, t in axes))
            if site in row_of:
                of_tap.append((row_of[site], coarse_row))
        pairs.append(of_tap)
    return pairs


def swap_pairs(pairs: Pairs) -> Pairs:
    """The same pairs with input and output exchanged, again ordered by output within a tap."""
    return [sorted(((b, a) for a, b in of_tap), key=lambda pair: (pair[1], pair[0])) for of_tap in pairs]


def _rows_by_site(coords: Coords) -> dict[Site, int]:
    row_of = {tuple(site): row for row, site in enumerate(coords.tolist())}
    if len(row_of) != len(coords):
        raise ValueError(f"{len(coords)} rows hold only {len(row_of)} distinct sites")
    return row_of
