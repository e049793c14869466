"""The one relation between the two sides of a convolution, in integers only.

For tap ``t``, stride ``s``, padding ``p`` and dilation ``d``, per axis::

    fine = s * coarse - p + d * t        (taps run 0 .. k-1, last axis fastest; cross-correlation)

``fine`` is the input of a strided convolution and ``coarse`` its output. Transposed and inverse
convolution, pooling and every gradient read the same relation from the other side.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_DIMENSIONS = 4

# Site coordinates are int32 and the kernels do their arithmetic in int64. A stride or dilation of up to
# 2**16 and a kernel of up to 2**10 a side keep every product below 2**63 with room to spare.
MAX_STEP = 1 << 16
MAX_KERNEL_SIZE = 1 << 10
MAX_PADDING = 1 << 26
MAX_CELLS = (1 << 31) - 1


def per_axis(value: object, ndim: int, name: str, *, minimum: int, maximum: int) -> tuple[int, ...]:
    """Expand an int or a sequence of ``ndim`` ints, checking the bounds.

    Raises:
        TypeError: a value is not an integer.
        ValueError: the length is not ``ndim``, or a value is out of bounds.
    """
    if type(value) is int and minimum <= value <= maximum:
        # The usual case, in every call of a functional.
        return (value,) * ndim
    if getattr(value, "ndim", None) == 0:
        value = value.item()  # type: ignore[attr-defined]
    is_sequence = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    items: tuple[object, ...] = tuple(value) if is_sequence else (value,) * ndim  # type: ignore[arg-type]
    if len(items) != ndim:
        raise ValueError(f"{name} must be one integer or {ndim} of them, one for each axis, got {value!r}")
    numbers = []
    for item in items:
        if isinstance(item, bool):
            raise TypeError(f"{name} must hold integers, got {value!r}")
        try:
            number = operator.index(item)  # type: ignore[arg-type]
        except TypeError:
            raise TypeError(f"{name} must hold integers, got {value!r}") from None
        if not minimum <= number <= maximum:
            raise ValueError(f"{name} must lie in {minimum} .. {maximum}, got {value!r}")
        numbers.append(number)
    return tuple(numbers)


def _check_cells(shape: Sequence[int]) -> None:
    if max(shape) > MAX_CELLS:
        raise ValueError(
            f"the output grid would be {list(shape)}, beyond the int32 limit of {MAX_CELLS} cells on an axis: use "
            "a smaller spatial_shape, or None for an unbounded grid"
        )


@dataclass(frozen=True)
class ConvGeometry:
    """Kernel size, stride, padding and dilation, one value for each axis.

    A hashable value: it is the key under which a coordinate set keeps its kernel maps.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def create(
        cls,
        ndim: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
    ) -> ConvGeometry:
        """Build from ints or sequences, as layers take them.

        Raises:
            TypeError: a value is not an integer.
            ValueError: ``ndim`` is not 1..4, a sequence has another length, or a value is out of bounds.
        """
        if ndim not in range(1, MAX_DIMENSIONS + 1):
            raise ValueError(f"the number of spatial axes must be 1 .. {MAX_DIMENSIONS}, got {ndim}")
        return cls(
            per_axis(kernel_size, ndim, "kernel_size", minimum=1, maximum=MAX_KERNEL_SIZE),
            per_axis(stride, ndim, "stride", minimum=1, maximum=MAX_STEP),
            per_axis(padding, ndim, "padding", minimum=0, maximum=MAX_PADDING),
            per_axis(dilation, ndim, "dilation", minimum=1, maximum=MAX_STEP),
        )

    @classmethod
    def submanifold(
        cls, ndim: int, kernel_size: int | Sequence[int], dilation: int | Sequence[int] = 1
    ) -> ConvGeometry:
        """Stride 1, centred kernel: the output sites are the input's own.

        Raises:
            ValueError: a kernel side is even, so that no tap lies on the site itself.
        """
        kernel = per_axis(kernel_size, ndim, "kernel_size", minimum=1, maximum=MAX_KERNEL_SIZE)
        spread = per_axis(dilation, ndim, "dilation", minimum=1, maximum=MAX_STEP)
        if any(k % 2 == 0 for k in kernel):
            raise ValueError(
                f"a submanifold convolution needs an odd kernel_size on every axis, got {kernel}: an even "
                "kernel has no centre tap. Use an odd size, or SparseConv with stride or padding."
            )
        padding = tuple(d * (k // 2) for k, d in zip(kernel, spread, strict=True))
        return cls.create(ndim, kernel, 1, padding, spread)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel_size)

    @property
    def volume(self) -> int:
        """Number of taps."""
        count = 1
        for k in self.kernel_size:
            count *= k
        return count

    @property
    def is_submanifold(self) -> bool:
        """Whether tap ``K-1-t`` is the mirror image of tap ``t`` about the site itself."""
        return all(
            s == 1 and k % 2 == 1 and p == d * (k // 2)
            for k, s, p, d in zip(self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        )

    @property
    def is_pointwise(self) -> bool:
        """Whether the kernel is the single tap at the site itself: a linear layer."""
        return self.volume == 1 and self.is_submanifold

    def taps(self) -> list[tuple[int, ...]]:
        """All taps in weight order: row-major, last axis fastest."""
        return list(itertools.product(*(range(k) for k in self.kernel_size)))

    def offsets(self) -> list[tuple[int, ...]]:
        """For each tap, ``d * t - p``: what is added to ``s * coarse`` to give ``fine``."""
        return [
            tuple(d * t - p for d, t, p in zip(self.dilation, tap, self.padding, strict=True))
            for tap in self.taps()
        ]

    def output_shape(self, input_shape: Sequence[int]) -> list[int]:
        """Grid of a convolution's output: ``(in + 2p - d(k-1) - 1) // s + 1`` on each axis.

        Raises:
            ValueError: an axis would have no cell.
        """
        shape = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                input_shape, self.kernel_size, self.stride, self.padding, self.dilation, strict=True
            )
        ]
        if any(n < 1 for n in shape):
            raise ValueError(
                f"kernel_size {self.kernel_size} with dilation {self.dilation} is larger than the grid "
                f"{list(input_shape)} with padding {self.padding}: the output shape would be {shape}. "
                "Use a smaller kernel or dilation, more padding, or a larger spatial_shape."
            )
        _check_cells(shape)
        return shape

    def transposed_output_shape(
        self, input_shape: Sequence[int], output_padding: Sequence[int] | None = None
    ) -> list[int]:
        """Grid of a transposed convolution: ``(in-1)s - 2p + d(k-1) + output_padding + 1``.

        Raises:
            ValueError: an axis would have no cell.
        """
        extra = output_padding if output_padding is not None else (0,) * self.ndim
        shape = [
            (n - 1) * s - 2 * p + d * (k - 1) + e + 1
            for n, k, s, p, d, e in zip(
                input_shape,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                extra,
                strict=True,
            )
        ]
        if any(n < 1 for n in shape):
            raise ValueError(
                f"padding {self.padding} removes the whole output of a transposed convolution of the grid "
                f"{list(input_shape)}: the output shape would be {shape}. Use less padding."
            )
        _check_cells(shape)
        return shape

    def __str__(self) -> str:
        """Compact spelling for messages and reports."""

        def spell(values: tuple[int, ...]) -> str:
            return str(values[0]) if len(set(values)) == 1 else "(" + ",".join(map(str, values)) + ")"

        return (
            f"kernel {spell(self.kernel_size)} stride {spell(self.stride)} "
            f"padding {spell(self.padding)} dilation {spell(self.dilation)}"
        )
