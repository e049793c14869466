"""Octave convolution: some channels at half the resolution."""

from __future__ import annotations

from typing import Any

from sparseconv.functional.variants.differences import check_missing
from sparseconv.functional.variants.octave import Octaves, octave_paths
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.module import DimensionedModule
from sparseconv.nn.variants.base import Size
from sparseconv.octave_channels import low_channels, path_groups
from sparseconv.tensor import SparseTensor, check_sparse


class OctaveConvolution(DimensionedModule):
    """Octave convolution: (``[N, C_h]``, ``[M, C_l]``) to (``[n_out, O_h]``, ``[m_out, O_l]``), low at half size.

    The low frequency lies on the occupied cells ``floor(site / 2)`` of the high one. Four submanifold
    convolutions, high to high, low to high, high to low and low to low, run on the sites of their level; what
    crosses is pooled (the mean of a cell) or repeated. Stride 2 pools before it convolves, all but what goes from
    low to high. Chen et al., "Drop an Octave", arXiv 1904.05049. The function is
    :func:`sparseconv.functional.octave_conv`.

    ``alpha_in=0`` makes a first layer, which takes one tensor; ``alpha_out=0`` a last one, which returns one. In
    between, input and output are pairs (high, low). Depthwise layers have no paths between the frequencies.
    Features and parameters have one type (float32, float64, float16 or bfloat16), or are brought to that of
    autocast.

    Args:
        in_channels: ``C``; ``C_l = floor(alpha_in C)`` of them are low.
        out_channels: ``O``; ``O_l = floor(alpha_out O)`` of them are low.
        kernel_size: one odd side, or one for each axis.
        alpha_in: low share of the input channels, 0 to 1.
        alpha_out: low share of the output channels, 0 to 1.
        stride: 1 or 2.
        padding: without effect; here so that the arguments stand as in the dense layer.
        dilation: spacing of the taps, in sites of the level.
        groups: channel groups; ``ceil(alpha_in groups)`` in the low path and ``ceil((1 - alpha_in) groups)`` in
            the high one.
        bias: whether each output frequency has a bias.
        missing: ``"ignore"``: pooling takes the mean of the voxels that exist; ``"zero"``: absent ones are zeros.
        **factory: device and dtype of the parameters.

    Attributes:
        conv_hh: high to high, or None.
        conv_lh: low to high, or None.
        conv_hl: high to low, or None.
        conv_ll: low to low, or None.

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensors, or features of another type.
        ValueError: a share outside [0, 1], another stride, an even side, channels that do not divide, or an
            unknown ``missing``; in the call, a frequency that is missing, too much, of other channels or on other
            cells.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        alpha_in: float = 0.5,
        alpha_out: float = 0.5,
        stride: int = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        missing: str = "ignore",
        **factory: Any,
    ) -> None:
        super().__init__()
        del padding
        if not (0 <= alpha_in <= 1 and 0 <= alpha_out <= 1):
            raise ValueError(f"alpha_in and alpha_out must lie in 0 .. 1, got {alpha_in} and {alpha_out}")
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride}")
        check_missing(missing)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride, self.missing = stride, missing
        self.alpha_in, self.alpha_out = alpha_in, alpha_out
        in_low, out_low = low_channels(in_channels, alpha_in), low_channels(out_channels, alpha_out)
        in_high, out_high = in_channels - in_low, out_channels - out_low
        crossing = groups == 1 or groups != in_channels
        self.in_high, self.in_low = in_high, in_low
        high_groups, low_groups = path_groups(groups, in_channels, alpha_in)

        def path(
            c_in: int, c_out: int, n_groups: int, with_bias: bool, wanted: bool = True
        ) -> SparseConvolution | None:
            if not (wanted and c_in and c_out):
                return None
            return SparseConvolution(
                self._ndim,
                c_in,
                c_out,
                kernel_size,
                dilation=dilation,
                groups=n_groups,
                bias=with_bias,
                subm=True,
                **factory,
            )

        self.conv_hh = path(in_high, out_high, high_groups, bias)
        self.conv_hl = path(in_high, out_low, groups, bias, crossing)
        self.conv_lh = path(in_low, out_high, groups, bias and self.conv_hh is None, crossing)
        self.conv_ll = path(in_low, out_low, low_groups, bias and self.conv_hl is None)

    def reset_parameters(self) -> None:
        """Each convolution as a layer of its own."""
        for conv in (self.conv_hh, self.conv_lh, self.conv_hl, self.conv_ll):
            if conv is not None:
                conv.reset_parameters()

    def forward(self, input: SparseTensor | Octaves) -> SparseTensor | Octaves:
        """See :func:`sparseconv.functional.octave_conv`.

        Args:
            input: the pair (high, low), or one tensor where only one of them is there.

        Raises:
            TypeError: neither a sparse tensor nor a pair of them.
            ValueError: a frequency is missing, too much, or of other channels.
        """
        if isinstance(input, SparseTensor):
            if self.in_high and self.in_low:
                raise ValueError(
                    f"this octave layer takes a pair (high, low) of {self.in_high} and {self.in_low} channels, "
                    "got one tensor: a first layer has alpha_in=0"
                )
            input = (input, None) if self.in_high else (None, input)
        if not isinstance(input, tuple) or len(input) != 2:
            raise TypeError(
                f"an octave layer takes a SparseTensor or a pair (high, low), got {type(input).__name__}"
            )
        high, low = input
        for tensor in input:
            if tensor is not None:
                check_sparse(tensor, "each frequency of an octave layer")
        for name, tensor, channels in (("high", high, self.in_high), ("low", low, self.in_low)):
            came = 0 if tensor is None else tensor.features.shape[1]
            if came != channels:
                raise ValueError(
                    f"the {name} frequency must have {channels} channels, got {came}: the previous layer's "
                    "alpha_out must be this one's alpha_in"
                )
        paths = (self.conv_hh, self.conv_lh, self.conv_hl, self.conv_ll)
        high, low = octave_paths(high, low, paths, self.stride, self.missing)
        return high if low is None and high is not None else (high, low)

    def extra_repr(self) -> str:
        """Its arguments."""
        return (
            f"{self.in_channels}, {self.out_channels}, alpha_in={self.alpha_in}, alpha_out={self.alpha_out}, "
            f"stride={self.stride}, missing={self.missing!r}"
        )


class SparseOctaveConv1d(OctaveConvolution, ndim=1):
    """Octave convolution in 1D on the sites of two levels: pairs (high, low) to pairs.

    See :class:`OctaveConvolution`.
    """


class SparseOctaveConv2d(OctaveConvolution, ndim=2):
    """Octave convolution in 2D on the sites of two levels: pairs (high, low) to pairs.

    See :class:`OctaveConvolution`.
    """


class SparseOctaveConv3d(OctaveConvolution, ndim=3):
    """Octave convolution in 3D on the sites of two levels: pairs (high, low) to pairs.

    See :class:`OctaveConvolution`.
    """


class SparseOctaveConv4d(OctaveConvolution, ndim=4):
    """Octave convolution in 4D on the sites of two levels: pairs (high, low) to pairs.

    See :class:`OctaveConvolution`.
    """
