"""Whole checkpoints: keys, shapes, files, the command, and loading without converting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparseconv as sc
from sparseconv import checkpoints
from sparseconv.weight_layouts import SOURCES, convert_weight, describe_foreign


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
