"""The 3D backbones of SECOND and CenterPoint, with OpenPCDet's layer names, so that its state dicts map.

Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018; the residual one: Yin et al.,
"Center-based 3D Object Detection and Tracking", CVPR 2021.

Both read a tensor on a z, y, x grid. Published detectors give z one cell more than the point cloud range holds:
the range 0, -40, -3, 70.4, 40, 1 in voxels of 0.05 x 0.05 x 0.1 m has 40 cells on z, and its sparse_shape is
``[41, 1600, 1408]``. The strides of 8 then lead to ``[5, 200, 176]``, and ``conv_out`` to ``[2, 200, 176]``.
A bounded grid needs at least 25 cells on z for that; an unbounded one has no such limit.
"""

from __future__ import annotations

from torch import Tensor

from sparseconv.models.blocks import BackboneOutput, BasicBlock, conv_block
from sparseconv.nn import Sequential, SparseConv3d, SparseModule, SubMConv3d
from sparseconv.tensor import SparseTensor

# z is not padded at the last stride: 11 cells become 5.
_PADDINGS: dict[int, int | tuple[int, int, int]] = {2: 1, 3: 1, 4: (0, 1, 1)}


def strided_block(
    in_channels: int, channels: int, level: int, padding: int | tuple[int, int, int] = 1
) -> Sequential:
    """The 3x3x3 convolution of stride 2 that leads to a level; its map is named ``spconv{level}``."""
    conv = SparseConv3d(in_channels, channels, 3, 2, padding, bias=False, indice_key=f"spconv{level}")
    return conv_block(conv, channels)


def submanifold_block(in_channels: int, channels: int, level: int) -> Sequential:
    """A 3x3x3 submanifold convolution on a level; its map is named ``subm{level}``."""
    return conv_block(
        SubMConv3d(in_channels, channels, 3, bias=False, indice_key=f"subm{level}"),
        channels,
    )


def residual_pair(channels: int, level: int) -> list[BasicBlock]:
    """The two residual blocks of a level; their map is named ``res{level}``."""
    return [BasicBlock(channels, channels, bias=True, indice_key=f"res{level}") for _ in range(2)]


class SecondEncoder(SparseModule):
    """What both backbones share: the order of the stages. Subclasses set ``conv1`` .. ``conv4``.

    Args:
        input_channels: C_in.
        last_channels: channels of ``conv4``.
        last_padding: padding of ``conv_out``.
    """

    conv1: Sequential
    conv2: Sequential
    conv3: Sequential
    conv4: Sequential

    def __init__(self, input_channels: int, last_channels: int, last_padding: int) -> None:
        super().__init__()
        self.conv_input = submanifold_block(input_channels, 16, 1)
        self.conv_out = conv_block(
            SparseConv3d(
                last_channels,
                128,
                (3, 1, 1),
                (2, 1, 1),
                last_padding,
                bias=False,
                indice_key="spconv_down2",
            ),
            128,
        )

    def encode(self, input: SparseTensor) -> dict[str, SparseTensor]:
        """The levels ``x_conv1`` .. ``x_conv4``, at strides 1, 2, 4, 8."""
        x = self.conv_input(input)
        stages = {}
        for name in ("conv1", "conv2", "conv3", "conv4"):
            x = stages[f"x_{name}"] = getattr(self, name)(x)
        return stages

    def forward(self, input: SparseTensor) -> BackboneOutput:
        """Run the backbone.

        Args:
            input: ``[N, C_in]`` on a z, y, x grid.

        Returns:
            ``encoded`` with 128 channels at stride 8 (16 on z), and the stages ``x_conv1`` .. ``x_conv4``.
        """
        stages = self.encode(input)
        return BackboneOutput(self.conv_out(stages["x_conv4"]), stages)


class VoxelBackBone8x(SecondEncoder):
    """SECOND's backbone: widths 16, 16, 32, 64, 64, 128; two submanifold convolutions after each stride.

    Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018, as OpenPCDet builds it.

    Args:
        input_channels: channels of the voxels.
        last_padding: padding of ``conv_out``.
    """

    def __init__(self, input_channels: int = 4, last_padding: int = 0) -> None:
        super().__init__(input_channels, 64, last_padding)
        self.conv1 = Sequential(submanifold_block(16, 16, 1))
        self.conv2 = self._stage(16, 32, 2)
        self.conv3 = self._stage(32, 64, 3)
        self.conv4 = self._stage(64, 64, 4)

    @staticmethod
    def _stage(in_channels: int, channels: int, level: int) -> Sequential:
        return Sequential(
            strided_block(in_channels, channels, level, _PADDINGS[level]),
            submanifold_block(channels, channels, level),
            submanifold_block(channels, channels, level),
        )


class VoxelResBackBone8x(SecondEncoder):
    """The residual backbone: widths 16, 16, 32, 64, 128, 128; two residual blocks on each level.

    Yin et al., "Center-based 3D Object Detection and Tracking", CVPR 2021, as OpenPCDet builds it: the
    convolutions of the residual blocks have a bias.

    Args:
        input_channels: channels of the voxels.
        last_padding: padding of ``conv_out``.
    """

    def __init__(self, input_channels: int = 4, last_padding: int = 0) -> None:
        super().__init__(input_channels, 128, last_padding)
        self.conv1 = Sequential(*residual_pair(16, 1))
        self.conv2 = self._stage(16, 32, 2)
        self.conv3 = self._stage(32, 64, 3)
        self.conv4 = self._stage(64, 128, 4)

    @staticmethod
    def _stage(in_channels: int, channels: int, level: int) -> Sequential:
        return Sequential(
            strided_block(in_channels, channels, level, _PADDINGS[level]),
            *residual_pair(channels, level),
        )


def to_bev(encoded: SparseTensor) -> Tensor:
    """Dense bird's eye view of a backbone's result, heights stacked as channels: ``[B, C * D, H, W]``.

    Args:
        encoded: ``[N, C]`` on a bounded grid ``[D, H, W]``.

    Raises:
        ValueError: the grid does not have three axes, or is unbounded.
    """
    if encoded.ndim != 3:
        raise ValueError(f"a bird's eye view needs a z, y, x grid, got a tensor with {encoded.ndim} spatial axes")
    return encoded.dense().flatten(1, 2)
