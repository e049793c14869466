"""Imports point down: a file may import what stands below it, never beside or above."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"dense_ops": "sparseconv.dense_ops", "datasets": "sparseconv.datasets", "scripts": "sparseconv.scripts"}

# From the ground up. A module belongs to the longest prefix that names it, and may import its own layer's
# modules and every lower layer.
LAYERS = (
    (
        "sparseconv.geometry",
        "sparseconv.compilation",
        "sparseconv.memoized",
        "sparseconv.weight_layouts",
        "sparseconv.cache_folder",
        "sparseconv.uninterrupted",
        "sparseconv.circle_taps",
        "sparseconv.octave_channels",
        "sparseconv.omni_attention",
        "sparseconv.difference_taps",
        "sparseconv.dilation_patterns",
    ),
    ("sparseconv.backends.site_keys", "sparseconv.backends"),
    ("sparseconv.kernel_map",),
    ("sparseconv.coordinates",),
    ("sparseconv.tensor",),
    ("sparseconv.ops",),
    ("sparseconv.voxel_grid", "sparseconv.voxelization", "sparseconv.devoxelization"),
    ("sparseconv.functional", "sparseconv.dense_ops"),
    ("sparseconv.nn",),
    ("sparseconv.models", "sparseconv.flops", "sparseconv.visualize", "sparseconv.datasets", "sparseconv.warm_up"),
    ("sparseconv.compat", "sparseconv.checkpoints"),
    ("sparseconv.scripts", "sparseconv.__main__"),
)
# Beyond the order of layers: what a folder must never touch.
FORBIDDEN = {
    "sparseconv.datasets": ("sparseconv.nn", "sparseconv.backends", "sparseconv.models"),
    "sparseconv.dense_ops": (
        "sparseconv.coordinates",
        "sparseconv.tensor",
        "sparseconv.nn",
        "sparseconv.functional",
    ),
    "sparseconv.nn": ("sparseconv.backends", "sparseconv.ops"),
    "sparseconv.models": ("sparseconv.backends", "sparseconv.ops"),
    "sparseconv.ops": ("sparseconv.coordinates", "sparseconv.tensor"),
    "sparseconv.backends.cpu": ("sparseconv.backends.reference", "sparseconv.backends.cuda"),
    "sparseconv.backends.cuda": ("sparseconv.backends.reference", "sparseconv.backends.cpu"),
    "sparseconv.backends.reference": ("sparseconv.backends.cpu", "sparseconv.backends.cuda", "numba"),
}
# Heavy libraries stay behind the functions that need them.
LAZY = ("open3d", "laspy", "matplotlib", "numba", "typer", "rich", "triton")


def modules() -> dict[str, Path]:
    found = {}
    for folder in ("sparseconv", *FOLDERS):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join((FOLDERS.get(folder, folder), *parts[1:]))
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports_of(name: str, path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found.update({module for module in inner if module in MODULES} or {base})
    return found


def is_in(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def layer_of(module: str) -> int:
    ranks = [(len(prefix), rank) for rank, layer in enumerate(LAYERS) for prefix in layer if is_in(module, prefix)]
    assert ranks, f"{module} belongs to no layer: name it in LAYERS"
    return max(ranks)[1]


@pytest.mark.parametrize("name", [name for name in MODULES if name != "sparseconv"])
def test_imports_point_down(name: str) -> None:
    for imported in imports_of(name, MODULES[name]):
        if is_in(imported, "sparseconv"):
            assert imported != "sparseconv", f"{name} imports the top of the package"
            assert layer_of(imported) <= layer_of(name), f"{name} imports {imported}, which stands above it"
        for folder, banned in FORBIDDEN.items():
            if is_in(name, folder):
                assert not any(is_in(imported, prefix) for prefix in banned), f"{name} must not import {imported}"


def test_the_import_rules_can_fail() -> None:
    assert layer_of("sparseconv.nn.conv") > layer_of("sparseconv.ops.conv")
    assert "sparseconv.ops" in imports_of("sparseconv.functional.pool", MODULES["sparseconv.functional.pool"])
    assert is_in("sparseconv.nn.conv", "sparseconv.nn") and not is_in("sparseconv.nnx", "sparseconv.nn")


def test_files_hold_one_idea_each() -> None:
    for name, path in MODULES.items():
        assert path.stem not in ("utils", "helpers", "common", "misc"), name
        assert len(path.read_text().splitlines()) <= 450, f"{path} is too long for one idea"


def test_import_needs_no_heavy_library() -> None:
    script = (
        "import sys, sparseconv, sparseconv.datasets, sparseconv.models\n"
        f"print([name for name in {LAZY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
