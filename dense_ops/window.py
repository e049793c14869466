"""The sliding window of a dense 2D convolution, resolved for one image size: integers only.

Output pixel ``(oy, ox)`` and tap ``t`` read the input pixel ``(s_y oy + dy_t, s_x ox + dx_t)``; the tap's
offset is ``d * t - p`` with ``p`` the padding above and on the left. Padding below and on the right only
decides how many output pixels there are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparseconv.geometry import MAX_PADDING, ConvGeometry, per_axis

Size = int | Sequence[int]
Padding = int | Sequence[int] | str
Pair = tuple[int, int]

PADDING_NAMES = ("valid", "same", "full")


def _pads_of_axis(name: str, size: int, reach: int, stride: int) -> Pair:
    """Padding before and after one axis; ``reach = dilation * (kernel_size - 1)``."""
    if name == "valid":
        return 0, 0
    if name == "full":
        return reach, reach
    total = max((math.ceil(size / stride) - 1) * stride + reach + 1 - size, 0)
    return total // 2, total - total // 2


def check_padding(padding: Padding, what: str = "padding") -> None:
    """Refuse a name that is not one of the three; integers are checked with the window.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(padding, str) and padding not in PADDING_NAMES:
        raise ValueError(f"{what} must be integers or one of {', '.join(PADDING_NAMES)}, got {padding!r}")


@dataclass(frozen=True)
class Window:
    """Which input pixel each tap of each output pixel reads.

    Attributes:
        in_shape: height and width of the input.
        out_shape: height and width of the output.
        stride: step of the window.
        offsets: for each tap, what is added to ``stride * output`` to give the input pixel.
        padding: rows above and below, columns left and right.
    """

    in_shape: Pair
    out_shape: Pair
    stride: Pair
    offsets: tuple[Pair, ...]
    padding: tuple[Pair, Pair]

    @classmethod
    def create(
        cls,
        in_shape: Sequence[int],
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
    ) -> Window:
        """Resolve a convolution's parameters for one image size.

        ``Ho = floor((H + top + bottom - d(k-1) - 1) / s) + 1``. ``valid`` pads nothing, ``full`` pads
        ``d(k-1)`` on both sides, ``same`` pads until ``Ho = ceil(H / s)``, the smaller half before; ``padding``
        in numbers pads both sides alike.

        Raises:
            TypeError: a value is not an integer.
            ValueError: an unknown padding name, a value out of bounds, or a kernel larger than the padded image.
        """
        geometry = ConvGeometry.create(2, kernel_size, stride, 0, dilation)
        height, width = in_shape
        check_padding(padding)
        reach = [d * (k - 1) for d, k in zip(geometry.dilation, geometry.kernel_size, strict=True)]
        if isinstance(padding, str):
            pads = [
                _pads_of_axis(padding, n, r, s)
                for n, r, s in zip((height, width), reach, geometry.stride, strict=True)
            ]
        else:
            pads = [(p, p) for p in per_axis(padding, 2, "padding", minimum=0, maximum=MAX_PADDING)]
        out = [
            (n + sum(p) - r - 1) // s + 1
            for n, p, r, s in zip((height, width), pads, reach, geometry.stride, strict=True)
        ]
        if min(out) < 1:
            raise ValueError(
                f"kernel_size {geometry.kernel_size} with dilation {geometry.dilation} is larger than the grid "
                f"{[height, width]} with padding {padding!r}: the output shape would be {out}. Use a smaller "
                "kernel or dilation, more padding, or a larger image."
            )
        (top, _), (left, _) = pads
        offsets = tuple((dy - top, dx - left) for dy, dx in geometry.offsets())
        return cls(
            (height, width),
            (out[0], out[1]),
            (geometry.stride[0], geometry.stride[1]),
            offsets,
            (pads[0], pads[1]),
        )

    def keep(self, taps: Sequence[int]) -> Window:
        """The same window with only the taps of these numbers, in this order."""
        return dataclasses.replace(self, offsets=tuple(self.offsets[tap] for tap in taps))

    def on_padded_image(self) -> Window:
        """The same window over the image with its padding in place."""
        (top, bottom), (left, right) = self.padding
        return dataclasses.replace(
            self,
            in_shape=(self.in_shape[0] + top + bottom, self.in_shape[1] + left + right),
            offsets=tuple((dy + top, dx + left) for dy, dx in self.offsets),
            padding=((0, 0), (0, 0)),
        )

    @property
    def n_in(self) -> int:
        """Input pixels of one image."""
        return self.in_shape[0] * self.in_shape[1]

    @property
    def n_out(self) -> int:
        """Output pixels of one image."""
        return self.out_shape[0] * self.out_shape[1]

    def macs(self, c_in: int, c_out: int, groups: int = 1) -> int:
        """Multiply-adds of one image, taps in the padding counted: ``Ho Wo K O C / g``."""
        return self.n_out * len(self.offsets) * (c_in // groups) * c_out
