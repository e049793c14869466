"""What functions and containers say about arguments of another kind, and the remedy that they name."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from scans import random_sites

import sparseconv
from sparseconv import SparseTensor
from sparseconv import functional as F


def tensor(ndim: int = 3) -> SparseTensor:
    sites = random_sites(20, (5, 6, 7)[:ndim], (0, 1))
    return SparseTensor(torch.randn(20, 4), sites, (5, 6, 7)[:ndim], 2)


WEIGHT = torch.ones(2, 3, 3, 3, 4)

CASES: dict[str, tuple[Callable[[SparseTensor], object], type[Exception], str]] = {
    "a layer of other axes": (
        lambda x: sparseconv.SubMConv2d(4, 2, 3)(x),
        ValueError,
        r"with 3 kernel axes, got \[2, 3, 3, 4\]: the input has 3 spatial axes, so use a layer .* ends in 3d",
    ),
    "a variant of other axes": (
        lambda x: sparseconv.SubMCondConv2d(4, 2, 3)(x),
        ValueError,
        r"\[E, C_out, \*kernel, C_in / groups\] with 3 kernel axes, .* whose name ends in 3d",
    ),
    "no key": (
        lambda x: F.inverse_conv(x, WEIGHT),
        ValueError,
        "needs the indice_key of the layer that it undoes",
    ),
    "rows as a target": (
        lambda x: F.conv_onto(x, x.indices, WEIGHT),  # type: ignore[arg-type]
        TypeError,
        r"target must be a SparseTensor or Coordinates, got Tensor: .* Coordinates\(indices",
    ),
    "a list to add": (
        lambda x: F.add([x, x]),  # type: ignore[arg-type]
        TypeError,
        r"one by one, add\(first, second, \.\.\), got a (list|tuple)",
    ),
    "a list to concatenate": (
        lambda x: sparseconv.Concatenate()((x, x)),  # type: ignore[arg-type]
        TypeError,
        r"one by one, cat\(first, second, \.\.\), got a (list|tuple)",
    ),
    "row numbers to keep": (
        lambda x: F.prune(x, torch.arange(3)),
        TypeError,
        r"bool mask .*, got torch\.int64: compare .* or set rows of torch\.zeros",
    ),
    "an array to keep": (
        lambda x: F.prune(x, (x.features[:, 0] > 0).numpy()),  # type: ignore[arg-type]
        TypeError,
        "got ndarray",
    ),
    "keep on another device": (
        lambda x: F.prune(x, torch.ones(20, dtype=torch.bool, device="meta")),
        ValueError,
        "keep is on meta and the sites on cpu: move one of them",
    ),
    "features to dense": (
        lambda x: sparseconv.ToDense()(x.features),  # type: ignore[arg-type]
        TypeError,
        "ToDense takes a SparseTensor, got Tensor",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_error_names_the_remedy(case: str) -> None:
    call, kind, message = CASES[case]
    with pytest.raises(kind, match=message):
        call(tensor())


def test_row_numbers_become_a_mask_as_the_error_says() -> None:
    x = tensor()
    keep = torch.zeros(len(x), dtype=torch.bool)
    keep[torch.tensor([4, 2])] = True
    assert torch.equal(F.prune(x, keep).indices, x.indices[[2, 4]])


def test_unpooling_leaves_what_fed_nothing_at_zero() -> None:
    """A window of 1 at stride 2 passes over odd sites."""
    x = SparseTensor(torch.ones(3, 1), torch.tensor([[0, 0], [0, 1], [0, 2]]), [4], 1)
    pooled = F.avg_pool(x, 1, 2, indice_key="down")
    assert F.unpool(pooled, "down").features[:, 0].tolist() == [1, 0, 1]


# One tensor and nothing else, or the arguments of another function, which the docstring names.
SHORT = {"global_max_pool", "global_avg_pool", "global_sum_pool", "avg_pool", "sum_pool", "instance_norm"}


@pytest.mark.parametrize("name", sorted(set(F.__all__) - SHORT))
def test_the_docstring_explains_every_argument_and_the_result(name: str) -> None:
    function = getattr(F, name)
    if inspect.isclass(function):
        return
    text = inspect.getdoc(function)
    arguments = text.partition("Args:")[2].partition("Raises:")[0]
    for parameter in inspect.signature(function).parameters.values():
        stars = "*" * (parameter.kind is parameter.VAR_POSITIONAL)
        assert f"\n    {stars}{parameter.name}: " in arguments, parameter.name
    assert "Raises:" in text and ("Returns:" in text or name == "ball_matrix")
