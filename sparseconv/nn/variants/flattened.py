"""Flattened convolution: one kernel across channels, then one along each axis."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseconv.functional.variants.placement import check_stride
from sparseconv.geometry import per_axis
from sparseconv.nn.conv import SparseConvolution
from sparseconv.nn.module import DimensionedModule, SparseModule
from sparseconv.nn.variants.base import Size, plain_convolution
from sparseconv.nn.variants.stages import product_kernel, refuse_submanifold, same_padding, stage_along
from sparseconv.tensor import SparseTensor

# Names of the stages, last axis last.
_NAMES = ("time", "depth", "vertical", "horizontal")


class FlattenedSet(SparseModule):
    """One set of a flattened convolution: :func:`sparseconv.functional.flattened_conv`."""

    def __init__(
        self,
        ndim: int,
        channels: tuple[int, int],
        window: tuple[Size, Size, Size, Size],
        bias: bool,
        subm: bool,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.ndim, self.subm, self.window = ndim, subm, window
        filters = channels[1]
        self.lateral = SparseConvolution(ndim, *channels, 1, bias=bias, subm=True, **factory)
        for axis, name in enumerate(_NAMES[-ndim:]):
            stage = stage_along(axis, ndim, (filters, filters), window, filters, bias, subm, **factory)
            self.add_module(name, stage)

    def stages(self) -> list[SparseConvolution]:
        """The lateral convolution and those along the axes, in order."""
        return [stage for stage in self.children() if isinstance(stage, SparseConvolution)]

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.flattened_conv`."""
        for stage in self.stages():
            input = stage(input)
        return input

    def to_conv(self, interior_only: bool = False) -> SparseConvolution:
        """The one convolution of rank 1 that gives the same output on the same sites.

        Args:
            interior_only: also convert a set with biases, whose result differs wherever the window has an absent
                voxel: there the biases of the earlier kernels are missing.

        Raises:
            TypeError: of a submanifold class.
            ValueError: biases, and not ``interior_only``.
        """
        refuse_submanifold(self.subm)
        lateral, *along = self.stages()
        if lateral.bias is not None and not interior_only:
            raise ValueError(
                "biases between the kernels do not fold beside absent voxels: use bias=False, or "
                "interior_only=True to get the convolution that agrees where a whole window is occupied"
            )
        with torch.no_grad():
            kernels = [stage.weight.flatten(1) for stage in along]  # [F, k_a]
            taps = product_kernel(kernels)  # [F, k_0, k_1, ..]
            alpha = lateral.weight.flatten(1)  # [F, C]
            weight = taps[..., None] * alpha.reshape(len(alpha), *(1,) * self.ndim, -1)
            bias: Tensor | None = lateral.bias
            if bias is not None:
                for stage, kernel in zip(along, kernels, strict=True):
                    assert stage.bias is not None  # all or none
                    bias = bias * kernel.sum(1) + stage.bias
        _, stride, padding, dilation = self.window
        return plain_convolution(
            weight, bias, along[-1], stride=stride, padding=padding, dilation=dilation, groups=1
        )


class FlattenedConvolution(DimensionedModule):
    """Sets of a convolution across channels and one along each axis of each channel: ``[N, C]`` to ``[n_out, F]``.

    The Sparse classes make the sites of each stage, sorted; without biases one set is one convolution of rank 1
    (:meth:`to_conv`). **The submanifold classes are another operator**: they keep the N sites, row for row, and a
    path over an absent voxel is lost. Jin et al., "Flattened Convolutional Neural Networks for Feedforward
    Acceleration", arXiv 1412.5474. The function of one set is :func:`sparseconv.functional.flattened_conv`.

    Features and parameters have one type (float32, float64, float16 or bfloat16), or are brought to that of
    autocast.

    Args:
        in_channels: ``C`` of the first set; the others have ``out_channels``.
        out_channels: ``F``.
        kernel_size: one side, or one for each axis; odd in the submanifold classes.
        stride: step of the first set's windows, in sites; the others have 1. 1 in the submanifold classes.
        padding: of every set; ``dilation * (kernel_size // 2)`` by default; without effect in the submanifold
            classes.
        num_sets: sets one after the other; the paper stacks 2.
        bias: whether each convolution has a bias.
        dilation: spacing of the taps, in sites.
        **factory: device and dtype of the parameters.

    Attributes:
        sets: each with ``lateral`` and, by axis, ``vertical`` and ``horizontal`` (after ``depth`` in 3D and
            ``time`` in 4D).

    Raises:
        TypeError: a size that is no integer; in the call, no sparse tensor, or features of another type.
        ValueError: ``num_sets`` is not positive, or a size that cannot work; in the call, features of other
            channels or axes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size | None = None,
        num_sets: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        **factory: Any,
    ) -> None:
        super().__init__()
        per_axis(num_sets, 1, "num_sets", minimum=1, maximum=1 << 16)
        if self._subm:
            check_stride(stride, self._ndim)
        pads = same_padding(kernel_size, dilation, self._ndim) if padding is None else padding
        self.sets = nn.ModuleList(
            FlattenedSet(
                self._ndim,
                (out_channels if number else in_channels, out_channels),
                (kernel_size, 1 if number else stride, pads, dilation),
                bias,
                self._subm,
                **factory,
            )
            for number in range(num_sets)
        )

    def _sets(self) -> list[FlattenedSet]:
        return [one for one in self.sets if isinstance(one, FlattenedSet)]

    def reset_parameters(self) -> None:
        """Each convolution as a layer of its own."""
        for one in self._sets():
            for stage in one.stages():
                stage.reset_parameters()

    def forward(self, input: SparseTensor) -> SparseTensor:
        """See :func:`sparseconv.functional.flattened_conv`."""
        for one in self.sets:
            input = one(input)
        return input

    def to_conv(self, interior_only: bool = False) -> SparseConvolution:
        """The one convolution that gives the same output; see :meth:`FlattenedSet.to_conv`.

        Raises:
            TypeError: of a submanifold class.
            ValueError: several sets, or biases and not ``interior_only``.
        """
        if len(self.sets) > 1:
            raise ValueError(
                f"only one set folds to one kernel, got {len(self.sets)} sets: convert each one by itself"
            )
        return self._sets()[0].to_conv(interior_only)


class SubMFlattenedConv1d(FlattenedConvolution, ndim=1, subm=True):
    """Flattened convolution in 1D on the input's sites: ``[N, C]`` to ``[N, F]``.

    See :class:`FlattenedConvolution`.
    """


class SubMFlattenedConv2d(FlattenedConvolution, ndim=2, subm=True):
    """Flattened convolution in 2D on the input's sites: ``[N, C]`` to ``[N, F]``.

    See :class:`FlattenedConvolution`.
    """


class SubMFlattenedConv3d(FlattenedConvolution, ndim=3, subm=True):
    """Flattened convolution in 3D on the input's sites: ``[N, C]`` to ``[N, F]``.

    See :class:`FlattenedConvolution`.
    """


class SubMFlattenedConv4d(FlattenedConvolution, ndim=4, subm=True):
    """Flattened convolution in 4D on the input's sites: ``[N, C]`` to ``[N, F]``.

    See :class:`FlattenedConvolution`.
    """


class SparseFlattenedConv1d(FlattenedConvolution, ndim=1):
    """Flattened convolution in 1D on every site in reach: ``[N, C]`` to ``[n_out, F]``.

    See :class:`FlattenedConvolution`.
    """


class SparseFlattenedConv2d(FlattenedConvolution, ndim=2):
    """Flattened convolution in 2D on every site in reach: ``[N, C]`` to ``[n_out, F]``.

    See :class:`FlattenedConvolution`.
    """


class SparseFlattenedConv3d(FlattenedConvolution, ndim=3):
    """Flattened convolution in 3D on every site in reach: ``[N, C]`` to ``[n_out, F]``.

    See :class:`FlattenedConvolution`.
    """


class SparseFlattenedConv4d(FlattenedConvolution, ndim=4):
    """Flattened convolution in 4D on every site in reach: ``[N, C]`` to ``[n_out, F]``.

    See :class:`FlattenedConvolution`.
    """
