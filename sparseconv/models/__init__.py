"""Published networks on :mod:`sparseconv.nn`, and a registry of them by name.

All share one contract: built from the number of input channels alone, called with one
:class:`~sparseconv.SparseTensor` of three axes, they return a :class:`BackboneOutput`, whose ``encoded`` is the
network's result and whose ``stages`` are its levels::

    model = build_model("VoxelBackBone8x", in_channels=4).eval()
    output = model(x)
    output.encoded  # SparseTensor
"""

from collections.abc import Callable

from torch import nn

from sparseconv.models.blocks import BackboneOutput, BasicBlock
from sparseconv.models.minkunet import MinkUNet, MinkUNet14, MinkUNet18, MinkUNet34
from sparseconv.models.second import VoxelBackBone8x, VoxelResBackBone8x, to_bev
from sparseconv.models.unet import UNetOutput, UNetV2
from sparseconv.models.voxelnext import VoxelNeXtBackbone

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "VoxelBackBone8x": VoxelBackBone8x,
    "VoxelResBackBone8x": VoxelResBackBone8x,
    "UNetV2": UNetV2,
    "VoxelNeXtBackbone": VoxelNeXtBackbone,
    "MinkUNet14": MinkUNet14,
    "MinkUNet18": MinkUNet18,
    "MinkUNet34": MinkUNet34,
}


def build_model(name: str, in_channels: int) -> nn.Module:
    """A network of the registry, in training mode, with random weights.

    Args:
        name: a key of ``MODELS``.
        in_channels: channels of the voxels.

    Raises:
        ValueError: no such name.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}; the models are {', '.join(MODELS)}")
    return MODELS[name](in_channels)


__all__ = [
    "MODELS",
    "BackboneOutput",
    "BasicBlock",
    "MinkUNet",
    "MinkUNet14",
    "MinkUNet18",
    "MinkUNet34",
    "UNetOutput",
    "UNetV2",
    "VoxelBackBone8x",
    "VoxelNeXtBackbone",
    "VoxelResBackBone8x",
    "build_model",
    "to_bev",
]
