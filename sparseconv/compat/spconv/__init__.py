"""spconv's modules on this engine: ``spconv`` in its 1.x spelling, ``spconv.pytorch`` in that of 2.x.

``sparseconv.compat.install_spconv()`` lets ``import spconv`` find them; ``python -m sparseconv.compat.spconv
script.py`` runs a script that way. Or import this package itself: ``import sparseconv.compat.spconv.pytorch as
spconv``.
"""

from sparseconv.compat.spconv import constants, core, pytorch
from sparseconv.compat.spconv import voxel_generators as utils
from sparseconv.compat.spconv.core import ConvAlgo
from sparseconv.compat.spconv.pytorch import (
    AddTable,
    ConcatTable,
    Identity,
    JoinTable,
    RemoveGrid,
    SparseConv1d,
    SparseConv2d,
    SparseConv3d,
    SparseConv4d,
    SparseConvolution,
    SparseConvTranspose1d,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
    SparseConvTranspose4d,
    SparseInverseConv1d,
    SparseInverseConv2d,
    SparseInverseConv3d,
    SparseInverseConv4d,
    SparseModule,
    SparseSequential,
    SubMConv1d,
    SubMConv2d,
    SubMConv3d,
    SubMConv4d,
    ToDense,
    conv,
    functional,
    identity,
    modules,
    ops,
    pool,
    strict_max_pool,
    tables,
)
from sparseconv.compat.spconv.version1 import SparseConvTensor, SparseMaxPool2d, SparseMaxPool3d

# The release whose surface this is; programs compare it.
__version__ = "2.3.8"
SPCONV_VERSION_NUMBERS = [int(number) for number in __version__.split(".")]

__all__ = [
    "AddTable",
    "ConcatTable",
    "ConvAlgo",
    "Identity",
    "JoinTable",
    "RemoveGrid",
    "SparseConv1d",
    "SparseConv2d",
    "SparseConv3d",
    "SparseConv4d",
    "SparseConvTensor",
    "SparseConvTranspose1d",
    "SparseConvTranspose2d",
    "SparseConvTranspose3d",
    "SparseConvTranspose4d",
    "SparseConvolution",
    "SparseInverseConv1d",
    "SparseInverseConv2d",
    "SparseInverseConv3d",
    "SparseInverseConv4d",
    "SparseMaxPool2d",
    "SparseMaxPool3d",
    "SparseModule",
    "SparseSequential",
    "SubMConv1d",
    "SubMConv2d",
    "SubMConv3d",
    "SubMConv4d",
    "ToDense",
    "constants",
    "conv",
    "core",
    "functional",
    "identity",
    "modules",
    "ops",
    "pool",
    "pytorch",
    "strict_max_pool",
    "tables",
    "utils",
]
