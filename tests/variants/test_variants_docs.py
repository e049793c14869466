"""The examples of docs/variants.md run, in order, and its table names what exists."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import sparseconv
from sparseconv import dense_ops
from sparseconv.nn import variants

PAGE = (Path(__file__).parents[2] / "docs" / "variants.md").read_text()


def test_the_examples_run() -> None:
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 6
    names: dict = {}
    for block in blocks:
        exec(compile(block, "variants.md", "exec"), names)


def test_the_table_names_every_class() -> None:
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| ") and "`" in line][1:]
    named = set()
    for _, sparse, dense, _, _ in rows:
        for name in re.findall(r"`(\w+)`", sparse):
            families = [""] if name.startswith(("SubM", "Sparse")) else ["SubM", "Sparse"]
            for family in families:
                assert hasattr(sparseconv, family + name), family + name
                named.add(family + name)
        for name in re.findall(r"`(\w+)`", dense):
            assert hasattr(dense_ops, name), name
    in_3d = {name for name in variants.__all__ if name.endswith("3d")} | {"SparseAddCoords"}
    assert in_3d <= named
