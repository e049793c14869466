"""LZF decompression, the codec of `DATA binary_compressed` in PCD files."""

from __future__ import annotations

# A token of 3 bytes copies at most 7 + 255 + 2 bytes.
LARGEST_EXPANSION = 264 // 3


def lzf_decompress(source: bytes, size: int) -> bytearray:
    """Undo LZF, with every length and every back-reference checked.

    A control byte below 32 announces `control + 1` literal bytes. Any other is a back-reference:
    its top 3 bits are the length less 2 (7: a further byte adds to it), its low 5 bits and the
    last byte of the token are the distance less 1.

    Args:
        source: the compressed bytes.
        size: how many bytes they must give.

    Returns:
        Exactly `size` bytes.

    Raises:
        ValueError: the data is corrupt or gives another number of bytes.
    """
    output = bytearray()
    position, end = 0, len(source)
    try:
        while position < end and len(output) <= size:
            control = source[position]
            position += 1
            if control < 32:
                stop = position + control + 1
                if stop > end:
                    raise ValueError("a literal run passes the end of the compressed data")
                output += source[position:stop]
                position = stop
                continue
            length = (control >> 5) + 2
            if length == 9:
                length += source[position]
                position += 1
            distance = ((control & 31) << 8) + source[position] + 1
            position += 1
            start = len(output) - distance
            if start < 0:
                raise ValueError("a back-reference points before the start of the data")
            if distance >= length:
                output += output[start : start + length]
            else:
                # The copy overlaps its own result, which repeats the last `distance` bytes.
                pattern = bytes(output[start:])
                output += (pattern * (length // distance + 1))[:length]
    except IndexError:
        raise ValueError("a back-reference is cut off at the end of the data") from None
    if len(output) != size:
        raise ValueError(f"the data does not decompress to the declared {size} bytes")
    return output
