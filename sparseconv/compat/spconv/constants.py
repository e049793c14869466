"""``spconv.constants``: switches that programs set. None of them changes a result here."""

from __future__ import annotations

SPCONV_ALLOW_TF32 = False
SPCONV_USE_DIRECT_TABLE = True
SPCONV_DO_SORT = True
SPCONV_CPP_INDICE_PAIRS = False
SPCONV_CPP_INDICE_PAIRS_IGEMM = False
SPCONV_CPP_GEMM = False
SPCONV_FX_TRACE_MODE = False
SPCONV_DEBUG_WEIGHT = False
SPCONV_BWD_SPLITK = (1, 2, 4, 8, 16, 32, 64)

# Weights are [C_out, *kernel, C_in] whatever the algorithm.
ALL_WEIGHT_IS_KRSC = True
FILTER_HWIO = False
