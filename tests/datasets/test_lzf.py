from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from point_file_writers import lzf_compress

from sparseconv.datasets.lzf import LARGEST_EXPANSION, lzf_decompress


@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 300)), max_size=12).map(
        lambda runs: b"".join(part * repeat for part, repeat in runs)
    )
)
@settings(deadline=None)
def test_decompression_undoes_compression(data: bytes) -> None:
    packed = lzf_compress(data)
    assert lzf_decompress(packed, len(data)) == data
    assert len(data) <= LARGEST_EXPANSION * max(len(packed), 1)


HAND_MADE = {
    "three literals": (bytes([2, 7, 8, 9]), bytes([7, 8, 9])),
    "an overlapping copy": (bytes([0, 5, (3 << 5), 0]), bytes([5] * 6)),
    "a long copy": (bytes([0, 5, (7 << 5), 255, 0]), bytes([5] * 265)),
    "a copy from two back": (bytes([1, 1, 2, (1 << 5), 1]), bytes([1, 2, 1, 2, 1])),
}


@pytest.mark.parametrize("case", HAND_MADE)
def test_hand_made_tokens(case: str) -> None:
    packed, plain = HAND_MADE[case]
    assert lzf_decompress(packed, len(plain)) == plain


BROKEN = {
    "literals past the end": (bytes([5, 1, 2]), 6, "a literal run passes the end"),
    "nothing to refer to": (bytes([0, 1, (1 << 5), 9]), 4, "points before the start"),
    "no distance": (bytes([0, 1, (1 << 5)]), 4, "is cut off at the end"),
    "no length": (bytes([0, 1, (7 << 5)]), 4, "is cut off at the end"),
    "too little": (bytes([0, 1]), 2, "does not decompress to the declared 2 bytes"),
    "too much": (bytes([1, 1, 1]), 1, "does not decompress to the declared 1 bytes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_damage_is_refused(case: str) -> None:
    packed, size, message = BROKEN[case]
    with pytest.raises(ValueError, match=message):
        lzf_decompress(packed, size)
