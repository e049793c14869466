"""One layer of each sparse variant in every family and dimension, and small inputs for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scans import random_sites
from torch import Tensor, nn

import sparseconv
from sparseconv import SparseTensor

CHANNELS = 8
WIDTH = 6


def layer_class(name: str, ndim: int) -> type[nn.Module]:
    return getattr(sparseconv, f"{name}{ndim}d")


class OctavePair(nn.Module):
    """A first and a last octave layer, from one tensor to one."""

    def __init__(self, ndim: int, missing: str = "ignore") -> None:
        super().__init__()
        kind = layer_class("SparseOctaveConv", ndim)
        self.first = kind(CHANNELS, CHANNELS, 3, 0, 0.5, bias=True)
        self.middle = kind(CHANNELS, CHANNELS, 3, 0.5, 0.5, missing=missing)
        self.last = kind(CHANNELS, WIDTH, 3, 0.5, 0, bias=True)

    def forward(self, input: SparseTensor) -> SparseTensor:
        return self.last(self.middle(self.first(input)))


def _patterns(ndim: int) -> dict[tuple[int, ...], int]:
    return {(0,) * ndim: 3, tuple(axis % 2 for axis in range(1, ndim + 1)): 3}


# Name: how to build the layer of `ndim` axes.
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "subm_central": lambda d: layer_class("SubMCentralDifferenceConv", d)(CHANNELS, WIDTH, bias=True),
    "subm_central_ignore": lambda d: layer_class("SubMCentralDifferenceConv", d)(
        CHANNELS, WIDTH, missing="ignore", groups=2
    ),
    "sparse_central_ignore": lambda d: layer_class("SparseCentralDifferenceConv", d)(
        CHANNELS, WIDTH, 3, 2, missing="ignore"
    ),
    "subm_cross_hv": lambda d: layer_class("SubMCrossCentralDifferenceConv", d)(CHANNELS, WIDTH),
    "sparse_cross_dg": lambda d: layer_class("SparseCrossCentralDifferenceConv", d)(
        CHANNELS, WIDTH, stride=2, direction="dg"
    ),
    "subm_apdc": lambda d: layer_class("SubMPixelDifferenceConv", d)(CHANNELS, WIDTH, kind="APDC", theta=0.6),
    "subm_rpdc_ignore": lambda d: layer_class("SubMPixelDifferenceConv", d)(
        CHANNELS, WIDTH, kind="RPDC", missing="ignore", theta=0.8
    ),
    "sparse_cpdc": lambda d: layer_class("SparsePixelDifferenceConv", d)(CHANNELS, WIDTH, stride=2, kind="CPDC"),
    "subm_circle": lambda d: layer_class("SubMCircleConv", d)(CHANNELS, WIDTH, 3),
    "sparse_circle": lambda d: layer_class("SparseCircleConv", d)(CHANNELS, WIDTH, 3, 2, 1),
    "subm_coord": lambda d: layer_class("SubMCoordConv", d)(CHANNELS, WIDTH, 3, with_r=True, extent="sample"),
    "sparse_coord": lambda d: layer_class("SparseCoordConv", d)(CHANNELS, WIDTH, 3, 2, 1, extent="sample"),
    "subm_separable": lambda d: layer_class("SubMSpatiallySeparableConv", d)(CHANNELS, WIDTH, 3, 5),
    "sparse_separable": lambda d: layer_class("SparseSpatiallySeparableConv", d)(CHANNELS, WIDTH, 3, 5, 2),
    "subm_flattened": lambda d: layer_class("SubMFlattenedConv", d)(CHANNELS, WIDTH, 3, num_sets=2),
    "sparse_flattened": lambda d: layer_class("SparseFlattenedConv", d)(CHANNELS, WIDTH, 3, 2),
    "subm_depthwise": lambda d: layer_class("SubMDepthwiseSeparableConv", d)(CHANNELS, WIDTH, multiplier=2),
    "sparse_depthwise": lambda d: layer_class("SparseDepthwiseSeparableConv", d)(CHANNELS, WIDTH, 3, 2),
    "subm_inception": lambda d: layer_class("SubMICConv", d)(_patterns(d), CHANNELS, WIDTH, 3, bias=True),
    "sparse_inception": lambda d: layer_class("SparseICConv", d)(_patterns(d), CHANNELS, WIDTH, 3, 2),
    "subm_cond": lambda d: layer_class("SubMCondConv", d)(CHANNELS, WIDTH, bias=True),
    "sparse_cond": lambda d: layer_class("SparseCondConv", d)(CHANNELS, WIDTH, 3, 2, 1, groups=2),
    "subm_dynamic": lambda d: layer_class("SubMDynamicConv", d)(CHANNELS, WIDTH, 3),
    "sparse_dynamic": lambda d: layer_class("SparseDynamicConv", d)(CHANNELS, WIDTH, 3, stride=2, padding=1),
    "subm_dynet": lambda d: layer_class("SubMDyNetConv", d)(CHANNELS, WIDTH, 3, group_size=2, hidden=4),
    "sparse_dynet": lambda d: layer_class("SparseDyNetConv", d)(CHANNELS, WIDTH, 3, 2, 1, group_size=2),
    "subm_omni": lambda d: layer_class("SubMODConv", d)(CHANNELS, WIDTH, 3, kernel_num=2),
    "sparse_omni": lambda d: layer_class("SparseODConv", d)(CHANNELS, WIDTH, 3, 2, 1, groups=2, norm="layer"),
    "subm_region": lambda d: layer_class("SubMDRConv", d)(CHANNELS, WIDTH, 3, 3, num_kernels=2, bias=True),
    "sparse_region": lambda d: layer_class("SparseDRConv", d)(CHANNELS, WIDTH, 3, 3, 2, 1, num_kernels=2),
    "subm_involution": lambda d: layer_class("SubMInvolution", d)(CHANNELS, 3, group_channels=4),
    "sparse_involution": lambda d: layer_class("SparseInvolution", d)(CHANNELS, 3, 2, group_channels=4),
    "subm_deform": lambda d: layer_class("SubMDeformConv", d)(CHANNELS, WIDTH, 3, groups=2, missing="ignore"),
    "subm_deform_modulated": lambda d: layer_class("SubMDeformConv", d)(
        CHANNELS, WIDTH, 3, offset_groups=2, modulated=True
    ),
    "octave": OctavePair,
    "octave_zero": lambda d: OctavePair(d, "zero"),
}

SHAPES = {1: (40,), 2: (9, 10), 3: (6, 7, 8), 4: (4, 4, 5, 4)}


def settled(name: str, ndim: int = 3, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A layer in evaluation mode whose parameters are all away from special values."""
    torch.manual_seed(1)
    layer = LAYERS[name](ndim).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer.eval()


def scene(
    ndim: int = 3,
    count: int = 60,
    batches: tuple[int, ...] = (0, 2),
    batch_size: int = 3,
    *,
    shuffled: bool = True,
    bounded: bool = True,
    channels: int = CHANNELS,
    dtype: torch.dtype = torch.float64,
) -> SparseTensor:
    """Unsorted sites in a small grid; the middle sample is empty."""
    sites = random_sites(count, SHAPES[ndim], batches, seed=3, shuffled=shuffled)
    features = torch.randn(len(sites), channels, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return SparseTensor(features.to(dtype), sites, SHAPES[ndim] if bounded else None, batch_size)


def with_features(tensor: SparseTensor, features: Tensor) -> SparseTensor:
    """On fresh coordinates, so that no map of an earlier run is found."""
    return SparseTensor(features, tensor.indices.clone(), tensor.spatial_shape, tensor.batch_size)


def full_grid(image: Tensor) -> SparseTensor:
    """Every cell of ``[B, C, *shape]`` as a site."""
    shape = image.shape[2:]
    indices = torch.cartesian_prod(*(torch.arange(side) for side in (image.shape[0], *shape))).int()
    return SparseTensor(image.movedim(1, -1).reshape(-1, image.shape[1]), indices, list(shape), image.shape[0])
