"""Weights of other libraries: each convention written out here as a loop, from the library's description alone.

The oracles import nothing of the package: a dictionary of sites, the library's order of offsets, a sum. A
converted weight must give the same numbers in this engine's layers.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scans import random_sites
from tolerance import assert_close
from torch import Tensor, nn

import sparseconv as sc
from sparseconv import checkpoints
from sparseconv.weight_layouts import SOURCES, convert_weight, describe_foreign

Offsets = list[tuple[int, ...]]
SHAPE = [12, 11, 10]


# What each library says of its offsets: the position of an input minus that of the (scaled) output, by weight row.


def minkowski_offsets(kernel: Sequence[int]) -> Offsets:
    """Index to coordinate by repeated division, first axis first; odd sides are centred, even ones begin at 0."""
    found = []
    for index in range(math.prod(kernel)):
        offset = []
        for side in kernel:
            offset.append(index % side - (side // 2 if side % 2 else 0))
            index //= side
        found.append(tuple(offset))
    return found


def torchsparse_offsets(kernel: Sequence[int]) -> Offsets:
    """``arange(-k // 2 + 1, k // 2 + 1)`` on each axis; an odd volume runs x fastest, an even one z fastest."""
    axes = [np.arange(-k // 2 + 1, k // 2 + 1).tolist() for k in kernel]
    if math.prod(kernel) % 2 == 1:
        return [offset[::-1] for offset in itertools.product(*axes[::-1])]
    return list(itertools.product(*axes))


def sparseconvnet_offsets(kernel: Sequence[int], subm: bool) -> Offsets:
    """A rectangular region with the last axis fastest; a submanifold region begins at the site minus k // 2."""
    low = [k // 2 if subm else 0 for k in kernel]
    return [tuple(i - l for i, l in zip(place, low, strict=True)) for place in np.ndindex(*kernel)]


def by_taps(
    x: Tensor, inputs: Tensor, outputs: Tensor, weights: Tensor, offsets: Offsets, stride: int, swap: bool = False
) -> Tensor:
    """``out[o] = sum over k of x[at stride * o + offset k] @ weights[k]``; swapped: coarse in, fine out.

    ``weights`` is ``[K, C_in, C_out]``.
    """
    row_of = {tuple(site): row for row, site in enumerate(inputs.tolist())}
    out = torch.zeros(len(outputs), weights.shape[2], dtype=torch.float64)
    for row, (batch, *place) in enumerate(outputs.tolist()):
        for k, offset in enumerate(offsets):
            if swap:
                back = [p - o for p, o in zip(place, offset, strict=True)]
                if any(b % stride for b in back):
                    continue
                site = (batch, *(b // stride for b in back))
            else:
                site = (batch, *(stride * p + o for p, o in zip(place, offset, strict=True)))
            if site in row_of:
                out[row] += x[row_of[site]].double() @ weights[k].double()
    return out


def input_tensor(channels: int, shape: Sequence[int] = SHAPE, count: int = 90) -> sc.SparseTensor:
    sites = random_sites(count, shape, (0, 1), shuffled=True)
    return sc.SparseTensor(torch.randn(count, channels), sites, list(shape), 2)


def centre(kernel: Sequence[int]) -> list[int]:
    return [k // 2 if k % 2 else 0 for k in kernel]


OFFSETS: dict[str, Callable[..., Offsets]] = {
    "minkowski": minkowski_offsets,
    "torchsparse": torchsparse_offsets,
}


@pytest.mark.parametrize("source", ["minkowski", "torchsparse"])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (5, 5, 5), (3, 1, 5), (1, 1, 3)])
def test_odd_kernels_on_the_inputs_own_sites(source: str, kernel: tuple[int, ...]) -> None:
    x = input_tensor(4)
    stored = torch.randn(math.prod(kernel), 4, 6)
    layer = sc.SubMConv3d(4, 6, kernel, bias=False)
    layer.load_state_dict({"weight": convert_weight(stored, source, kernel)})
    expected = by_taps(x.features, x.indices, x.indices, stored, OFFSETS[source](kernel), 1)
    assert_close(layer(x).features, expected, len(stored) * 4, source)


@pytest.mark.parametrize("source", ["minkowski", "torchsparse"])
@pytest.mark.parametrize(("kernel", "stride"), [((2, 2, 2), 2), ((3, 3, 3), 2), ((2, 2, 3), 2), ((3, 3, 3), 3)])
def test_strided_and_transposed(source: str, kernel: tuple[int, ...], stride: int) -> None:
    """The stride-2 kernels of both libraries in either direction, odd and even sides."""
    x = input_tensor(4)
    offsets = OFFSETS[source](kernel)
    padding = [-min(o[axis] for o in offsets) for axis in range(3)]
    assert padding == centre(kernel)
    stored, back = torch.randn(math.prod(kernel), 4, 6), torch.randn(math.prod(kernel), 6, 5)
    down = sc.SparseConv3d(4, 6, kernel, stride, padding, bias=False, indice_key="down")
    up = sc.SparseInverseConv3d(6, 5, kernel, "down", bias=False)
    net = nn.Sequential(down, up)
    state = checkpoints.convert({"0.kernel": stored, "1.kernel": back}, source, model=net)  # type: ignore[arg-type]
    net.load_state_dict(state)
    y = down(x)
    expected = by_taps(x.features, x.indices, y.indices, stored, offsets, stride)
    assert_close(y.features, expected, len(stored) * 4, source)
    expected = by_taps(y.features.detach(), y.indices, x.indices, back, offsets, stride, swap=True)
    assert_close(up(y).features, expected, len(stored) * 6, source)


def test_torchsparse_turns_its_order_with_the_parity() -> None:
    """Of two even and odd kernels, each read in the other's order would be wrong."""
    assert torchsparse_offsets((3, 3, 3))[:2] == [(-1, -1, -1), (0, -1, -1)]
    assert torchsparse_offsets((2, 2, 2))[:2] == [(0, 0, 0), (0, 0, 1)]
    assert minkowski_offsets((2, 2, 2))[:2] == [(0, 0, 0), (1, 0, 0)]
    stored = torch.randn(8, 2, 3)
    assert not torch.equal(
        convert_weight(stored, "torchsparse", (2, 2, 2)), convert_weight(stored, "minkowski", (2, 2, 2))
    )
    stored = torch.randn(27, 2, 3)
    assert torch.equal(
        convert_weight(stored, "torchsparse", (3, 3, 3)), convert_weight(stored, "minkowski", (3, 3, 3))
    )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kernel", "subm"), [((3, 3, 3), True), ((2, 2, 2), False), ((3, 2, 1), False)])
def test_sparseconvnet(kernel: tuple[int, ...], subm: bool, groups: int) -> None:
    x = input_tensor(4)
    stored = torch.randn(math.prod(kernel), groups, 4 // groups, 6 // groups)
    if subm:
        layer: sc.SparseConvolution = sc.SubMConv3d(4, 6, kernel, groups=groups, bias=False)
    else:
        layer = sc.SparseConv3d(4, 6, kernel, 2, groups=groups, bias=False)
    net = nn.Sequential(layer)
    net.load_state_dict(checkpoints.convert({"0.weight": stored}, "sparseconvnet", model=net))
    y = layer(x)
    offsets = sparseconvnet_offsets(kernel, subm)
    parts = []
    for group in range(groups):
        ins = slice(group * 4 // groups, (group + 1) * 4 // groups)
        stride = 1 if subm else 2
        parts.append(by_taps(x.features[:, ins], x.indices, y.indices, stored[:, group], offsets, stride))
    assert_close(y.features, torch.cat(parts, 1), len(stored) * 4)
    if groups == 1:  # as it was before groups came
        assert torch.equal(convert_weight(stored[:, 0], "sparseconvnet", kernel), layer.weight)


@pytest.mark.parametrize("source", ["spconv1", "mmcv", "spconv2", "spconv2_native"])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3, 3), 1), ((2, 2, 2), 2), ((3, 1, 2), 2)])
def test_spconv_in_all_its_layouts(source: str, kernel: tuple[int, ...], stride: int) -> None:
    """Cross-correlation as torch's, the last axis fastest: compared with the dense convolution."""
    x = input_tensor(4)
    as_torch = torch.randn(6, 4, *kernel)
    stored = {
        "spconv1": as_torch.permute(2, 3, 4, 1, 0),
        "mmcv": as_torch.permute(2, 3, 4, 1, 0),
        "spconv2": as_torch.permute(0, 2, 3, 4, 1),
        "spconv2_native": as_torch.permute(2, 3, 4, 0, 1),
    }[source].contiguous()
    if stride == 1:
        net = nn.Sequential(sc.SubMConv3d(4, 6, kernel))
    else:
        net = nn.Sequential(sc.SparseConv3d(4, 6, kernel, stride))
    bias = torch.randn(6)
    for model in (net, None):
        state = checkpoints.convert({"0.weight": stored, "0.bias": bias}, source, model=model)  # type: ignore[arg-type]
        net.load_state_dict(state)
        padding = 1 if stride == 1 else 0
        dense = nn.functional.conv3d(x.dense().double(), as_torch.double(), bias.double(), stride, padding)
        y = net(x)
        batch, *cells = y.indices.long().T
        assert_close(y.features, dense[batch, :, cells[0], cells[1], cells[2]], math.prod(kernel) * 4 + 1)


def test_spconv_1_inverse_convolution() -> None:
    x = input_tensor(4)
    net = nn.Sequential(
        sc.SparseConv3d(4, 6, 3, 2, 1, bias=False, indice_key="down"),
        sc.SparseInverseConv3d(6, 5, 3, "down", bias=False),
    )
    as_torch = torch.randn(5, 6, 3, 3, 3)  # of the inverse: out, in
    down = torch.randn(3, 3, 3, 4, 6)
    stored = {"0.weight": down, "1.weight": as_torch.permute(2, 3, 4, 1, 0)}
    net.load_state_dict(checkpoints.convert(stored, "spconv1", model=net))
    y = net[0](x)
    grown = nn.functional.conv_transpose3d(
        y.dense().double(), as_torch.double().transpose(0, 1), None, 2, 1, [1, 0, 1]
    )
    batch, *cells = x.indices.long().T
    assert_close(net[1](y).features, grown[batch, :, cells[0], cells[1], cells[2]], 27 * 6)


def test_axes_in_reverse_order() -> None:
    """A network on x, y, z of another library as one on z, y, x here."""
    kernel = (3, 1, 5)
    stored = torch.randn(15, 4, 6)
    x = input_tensor(4)
    sites_zyx = x.indices[:, [0, 3, 2, 1]]
    turned = sc.SparseTensor(x.features, sites_zyx.contiguous(), SHAPE[::-1], 2)
    net = nn.Sequential(sc.SubMConv3d(4, 6, kernel[::-1], bias=False))
    expected = by_taps(x.features, x.indices, x.indices, stored, minkowski_offsets(kernel), 1)
    for arguments in ({"model": net}, {"kernel_sizes": {"0": kernel}}):
        state = checkpoints.convert({"0.kernel": stored}, "minkowski", reverse_axes=True, **arguments)  # type: ignore[arg-type]
        net.load_state_dict(state)
        assert_close(net(turned).features, expected, 60)


def test_minkowskis_pointwise_kernels_wrappers_and_biases() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = sc.SubMConv3d(4, 6, 3)
            self.bn = sc.BatchNorm(6)
            self.proj = sc.SubMConv3d(6, 6, 1)
            self.head = sc.Linear(6, 2)

    block = Block()
    stored = {
        "conv.kernel": torch.randn(27, 4, 6),
        "conv.bias": torch.randn(1, 6),
        "bn.bn.weight": torch.randn(6),
        "bn.bn.bias": torch.randn(6),
        "bn.bn.running_mean": torch.randn(6),
        "bn.bn.running_var": torch.rand(6),
        "bn.bn.num_batches_tracked": torch.tensor(3),
        "proj.kernel": torch.randn(6, 6),
        "proj.bias": torch.randn(1, 6),
        "head.linear.weight": torch.randn(2, 6),
        "head.linear.bias": torch.randn(2),
    }
    for model in (block, None):
        state = checkpoints.convert(stored, "minkowski", model=model)
        block.load_state_dict(state)
    assert torch.equal(block.proj.weight.reshape(6, 6), stored["proj.kernel"].T)
    assert torch.equal(block.conv.bias, stored["conv.bias"][0])
    assert torch.equal(block.bn.running_var, stored["bn.bn.running_var"])
    # Channel by channel, [K, C].
    depthwise = nn.Sequential(sc.SubMConv3d(5, 5, 3, groups=5, bias=False))
    kernel = torch.randn(27, 5)
    depthwise.load_state_dict(checkpoints.convert({"0.kernel": kernel}, "minkowski", model=depthwise))
    x = input_tensor(5)
    columns = [
        by_taps(x.features[:, [c]], x.indices, x.indices, kernel[:, [c], None], minkowski_offsets((3, 3, 3)), 1)
        for c in range(5)
    ]
    assert_close(depthwise(x).features, torch.cat(columns, 1), 27)


def test_two_axes_and_other_kinds_of_layers_pass() -> None:
    net = nn.Sequential(sc.SubMConv2d(4, 6, 3, bias=False), nn.Conv2d(6, 6, 3), nn.Linear(3, 3))
    dense = torch.randn(6, 6, 3, 3)
    stored = {
        "0.weight": torch.randn(3, 3, 4, 6),
        "1.weight": dense,
        "1.bias": torch.randn(6),
        "2.weight": torch.eye(3),
    }
    state = checkpoints.convert(stored, "spconv1", model=net)
    assert state["1.weight"] is dense and state["0.weight"].shape == (6, 3, 3, 4)
    net.load_state_dict(state, strict=False)
    assert checkpoints.convert({"a.weight": dense}, "spconv1")["a.weight"] is dense, "no 3D weight"


def test_prefix_and_renaming() -> None:
    net = nn.ModuleDict({"stem": sc.SubMConv3d(4, 6, 3, bias=False)})
    stored = {"module.backbone.first.kernel": torch.randn(27, 4, 6), "module.head.weight": torch.randn(3, 3)}
    state = checkpoints.convert(
        stored,
        "torchsparse",
        model=net,
        prefix="module.backbone.",
        rename=lambda key: key.replace("first", "stem"),
    )
    assert list(state) == ["stem.weight"]
    net.load_state_dict(state)


def test_what_cannot_be_converted_says_why() -> None:
    with pytest.raises(ValueError, match="source must be one of spconv1"):
        checkpoints.convert({}, "caffe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the 18 taps of a\.b make no cube of 3 axes: give model"):
        checkpoints.convert({"a.b.kernel": torch.zeros(18, 2, 2)}, "minkowski")
    net = nn.Sequential(sc.SubMConv3d(4, 6, 3))
    with pytest.raises(ValueError, match=r"kernel_size \(3, 3, 3\) has shape \[27, C_in, C_out\], got \[125"):
        checkpoints.convert({"0.kernel": torch.zeros(125, 4, 6)}, "minkowski", model=net)
    with pytest.raises(ValueError, match="0: the converted weight is"):
        checkpoints.convert({"0.weight": torch.zeros(6, 3, 3, 3, 4)}, "spconv1", model=net)
    with pytest.raises(ValueError, match="does not tell its kernel_size"):
        convert_weight(torch.zeros(27, 4, 6), "minkowski")
    with pytest.raises(ValueError, match="kernel axes and two channel axes"):
        convert_weight(torch.zeros(27), "spconv1")


FOREIGN = {
    "spconv1": ("weight", (3, 3, 3, 4, 6)),
    "spconv2_native": ("weight", (3, 3, 3, 6, 4)),
    "sparseconvnet": ("weight", (27, 1, 4, 6)),
    "minkowski": ("kernel", (27, 4, 6)),
    "torchsparse": ("kernel", (27, 4, 6)),
}


@pytest.mark.parametrize("source", FOREIGN)
@pytest.mark.parametrize("strict", [True, False])
def test_loading_a_foreign_layout_names_the_remedy(source: str, strict: bool) -> None:
    import sparseconv.compat.spconv.pytorch as spconv

    name, shape = FOREIGN[source]
    for layer in (sc.SubMConv3d(4, 6, 3), spconv.SubMConv3d(4, 6, 3)):
        net = nn.Sequential(layer)
        before = layer.weight.clone()
        stored = {f"0.{name}": torch.randn(shape), "0.bias": torch.randn(6)}
        with pytest.raises(RuntimeError, match=rf'0: the {name} of shape .* source="{source}"'):
            net.load_state_dict(stored, strict=strict)
        assert torch.equal(layer.weight, before)
        net.load_state_dict(checkpoints.convert(stored, source, model=net))  # type: ignore[arg-type]


def test_shapes_that_are_nobodys_are_left_to_torch() -> None:
    assert describe_foreign("weight", (6, 5, 5, 5, 4), (6, 3, 3, 3, 4)) is None
    assert describe_foreign("weight", (6, 3, 3, 3, 4), (6, 3, 3, 3, 4)) is None
    assert "minkowski" in str(describe_foreign("kernel", (4, 6), (6, 1, 1, 1, 4)))
    with pytest.raises(RuntimeError, match="size mismatch"):
        sc.SubMConv3d(4, 6, 3).load_state_dict({"weight": torch.zeros(6, 5, 5, 5, 4), "bias": torch.zeros(6)})


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("unpickled"),))


@pytest.mark.parametrize("place", [None, "model_state", "state_dict", "model"])
def test_reading_files(place: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = {"a.weight": torch.randn(2, 3)}
    torch.save(state if place is None else {place: state, "epoch": 3}, "checkpoint.pth")
    assert torch.equal(checkpoints.read("checkpoint.pth")["a.weight"], state["a.weight"])
    torch.save({"ema": {"inner": state}}, "nested.pth")
    assert checkpoints.read("nested.pth", "ema.inner").keys() == state.keys()
    with pytest.raises(ValueError, match=r"no state dict found; the file holds: ema"):
        checkpoints.read("nested.pth")
    with pytest.raises(ValueError, match=r"no state dict at ema.outer"):
        checkpoints.read("nested.pth", "ema.outer")
    torch.save({"state_dict": state, "meta": Payload()}, "unsafe.pth")
    with pytest.raises(ValueError, match=r"other objects than tensors, which are never unpickled"):
        checkpoints.read("unsafe.pth")
    assert not Path("unpickled").exists()
    with pytest.raises(ValueError, match="no such file"):
        checkpoints.read("absent.pth")
    Path("text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pth"):
        checkpoints.read("text.pth")


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    script = "from sparseconv.scripts.app import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, "convert", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_command_line(tmp_path: Path) -> None:
    stored = {
        "module.a.kernel": torch.randn(27, 4, 6),
        "module.b.kernel": torch.randn(3, 6, 6),
        "c": torch.zeros(1),
    }
    torch.save({"model": stored}, tmp_path / "in.pth")
    options = ("--source", "minkowski", "--prefix", "module.", "--kernel", "b=3,1,1")
    found = command("in.pth", "out.pth", *options, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "out.pth: 2 tensors, 2 of them moved to this engine's layout"
    state = torch.load(tmp_path / "out.pth", weights_only=True)
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "a.weight": (6, 3, 3, 3, 4),
        "b.weight": (6, 3, 1, 1, 6),
    }
    net = nn.ModuleDict(
        {"a": sc.SubMConv3d(4, 6, 3, bias=False), "b": sc.SparseConv3d(6, 6, (3, 1, 1), bias=False)}
    )
    net.load_state_dict(state)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.pth", "out.pth", "--source", "mmcv"), "no such file"),
        (("in.pth", "out.pth", "--source", "caffe"), "--source must be one of"),
        (("in.pth", "in.pth", "--source", "mmcv"), "is the checkpoint itself"),
        (("in.pth", "out.pth", "--source", "minkowski", "--prefix", "x."), "no key begins with"),
        (("in.pth", "out.pth", "--source", "minkowski", "--kernel", "a"), "--kernel must be name=3,1,1"),
        (("in.pth", "gone/out.pth", "--source", "minkowski"), "gone"),
    ],
)
def test_command_line_refuses_in_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    torch.save({"a.kernel": torch.randn(27, 4, 6)}, tmp_path / "in.pth")
    found = command(*arguments, cwd=tmp_path)
    assert found.returncode == 2, found.stderr
    assert message in found.stderr and len(found.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


def test_all_sources_are_covered() -> None:
    assert set(SOURCES) == {
        "spconv1",
        "spconv2",
        "spconv2_native",
        "mmcv",
        "torchsparse",
        "minkowski",
        "sparseconvnet",
    }
