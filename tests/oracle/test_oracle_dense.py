"""The parts of the dense oracle that are not one call of torch."""

import pytest
import torch

from . import at_sites, dense_conv, dense_conv_transpose, to_dense


def test_to_dense_and_back() -> None:
    coords = torch.tensor([[1, 0, 2], [0, 1, 0]], dtype=torch.int32)
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    dense = to_dense(features, coords, (2, 3), 2)
    assert dense.shape == (2, 2, 2, 3)
    assert dense[1, :, 0, 2].tolist() == [1.0, 2.0]
    assert dense[0, :, 1, 0].tolist() == [3.0, 4.0]
    assert dense.sum().item() == 10.0
    torch.testing.assert_close(at_sites(dense, coords), features)
    assert torch.autograd.grad(dense.sum(), features)[0].tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_four_axes_by_definition() -> None:
    # Every output of a four-axis convolution, from the equation itself.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 3, 3, 4, generator=generator, dtype=torch.float64)
    w = torch.randn(3, 2, 1, 2, 3, 2, generator=generator, dtype=torch.float64)
    s, p, d = (2, 1, 2, 1), (1, 0, 1, 2), (2, 1, 1, 2)
    y = dense_conv(x, w, None, s, p, d)
    expected = torch.zeros_like(y)
    for out in torch.cartesian_prod(*(torch.arange(n) for n in y.shape[2:])).tolist():
        for tap in torch.cartesian_prod(*(torch.arange(k) for k in w.shape[1:-1])).tolist():
            at = [s[a] * out[a] - p[a] + d[a] * tap[a] for a in range(4)]
            if all(0 <= at[a] < x.shape[2 + a] for a in range(4)):
                expected[(0, slice(None), *out)] += w[(slice(None), *tap)] @ x[(0, slice(None), *at)]
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_transposed_is_the_adjoint_of_the_convolution(ndim: int, groups: int) -> None:
    # <conv(x), y> = <x, conv_transpose(y)>, with each group's channels exchanged in the weight.
    generator = torch.Generator().manual_seed(1)
    shape, kernel = (5, 4, 6, 5)[:ndim], (3, 2, 3, 1)[:ndim]
    options = (2, 1, 3, 1)[:ndim], (1, 1, 0, 0)[:ndim], (1, 2, 1, 1)[:ndim]
    w = torch.randn(8, *kernel, 4 // groups, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 4, *shape, generator=generator, dtype=torch.float64)
    y = dense_conv(x, w, None, *options, groups)
    g = torch.randn(y.shape, generator=generator, dtype=torch.float64)

    back = torch.cat([block.movedim(0, -1).movedim(-2, 0) for block in w.chunk(groups)])
    extra = [
        n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
        for n, m, k, s, p, d in zip(shape, y.shape[2:], kernel, *options, strict=True)
    ]
    x_back = dense_conv_transpose(g, back, None, *options, extra, groups)
    assert x_back.shape == x.shape
    torch.testing.assert_close((y * g).sum(), (x * x_back).sum())
