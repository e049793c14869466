"""Circle and ball convolution: the taps of a square kernel moved onto concentric circles or spheres."""

from __future__ import annotations

from torch import Tensor

from sparseconv.circle_taps import Radius, ball_matrix
from sparseconv.compilation import eager
from sparseconv.functional.kernel_axes import check_kernel_axes
from sparseconv.functional.variants.folded import convolve_folded
from sparseconv.functional.variants.placement import Size, finish, placed
from sparseconv.tensor import SparseTensor, check_sparse


@eager
def circle_conv(
    input: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    radius: Radius = None,
    angles: str = "grid",
    subm: bool = False,
    indice_key: str | None = None,
) -> SparseTensor:
    """Convolution whose taps lie on circles (2D) or spheres (3D), run as one folded kernel ``T^T W``.

    He et al., "Integrating Large Circular Kernels into CNNs through Neural Architecture Search", arXiv
    2107.02451, in 2D; the ball is this library's. See :func:`ball_matrix`.

    Args:
        input: ``[N, C]``.
        weight: ``[O, k, .., k, C / groups]``, k odd.
        bias: ``[O]`` or None.
        stride: as in :func:`sparse_conv`; 1 with ``subm``.
        padding: as in :func:`sparse_conv`; without effect with ``subm``.
        dilation: as in :func:`sparse_conv`.
        groups: channel groups.
        radius: as in :func:`ball_matrix`.
        angles: as in :func:`ball_matrix`.
        subm: keep the input's sites.
        indice_key: a name for the map.

    Returns:
        ``[n_out, O]`` on every site in reach, sorted; with ``subm`` ``[N, O]`` on the input's sites.

    Raises:
        TypeError: no sparse tensor, or types differ.
        ValueError: a kernel whose sides are not equal and odd, or shapes that do not fit.
    """
    check_sparse(input, "circle_conv")
    kernel_size = check_kernel_axes(weight, input.ndim)
    if len(set(kernel_size)) != 1:
        raise ValueError(f"a circle kernel has equal sides, got the weight {list(weight.shape)}")
    matrix = ball_matrix(kernel_size[0], input.ndim, radius, angles)
    record = placed(input, kernel_size, stride, padding, dilation, subm=subm)
    return finish(input, convolve_folded(input.features, weight, matrix, bias, record, groups), record, indice_key)
