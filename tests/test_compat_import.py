"""`import spconv` finds the drop-in: every spelling that programs use, in processes of their own."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import sparseconv.compat
import sparseconv.compat.spconv.pytorch as spconv


def run(script: str, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    text = textwrap.dedent(script)
    return subprocess.run(
        [sys.executable, *(command or ("-c", text))], capture_output=True, text=True, cwd=cwd, check=False
    )


SPELLINGS = """
    import spconv
    if float(spconv.__version__[2:]) >= 2.2:
        spconv.constants.SPCONV_USE_DIRECT_TABLE = False
    assert spconv.__version__ >= "2.0.0"
    from spconv import SparseConv3d, SubMConv3d, SparseConvTensor, SparseSequential, SparseModule, ToDense
    from spconv.modules import SparseModule as Module, is_spconv_module
    from spconv.conv import SparseConvolution
    import spconv.pytorch as spconv
    import spconv.pytorch.functional as F
    from spconv.pytorch import functional as Fsp, ops, SparseConv2d, SparseInverseConv3d, SparseMaxPool3d
    from spconv.pytorch.conv import SparseConvolution as Conv, SubMConv2d
    from spconv.pytorch.core import SparseConvTensor as Tensor, IndiceData, ImplicitGemmIndiceData, scatter_nd
    from spconv.pytorch.hash import HashTable
    from spconv.pytorch.modules import SparseBatchNorm, SparseReLU, SparseSyncBatchNorm
    from spconv.pytorch.pool import SparseGlobalAvgPool, SparseAvgPool3d
    from spconv.pytorch.tables import AddTableMisaligned, JoinTable
    from spconv.pytorch.utils import PointToVoxel, gather_features_by_pc_voxel_id
    from spconv.pytorch.identity import Identity
    from spconv.core import ConvAlgo
    from spconv.utils import Point2VoxelCPU1d, Point2VoxelCPU3d, Point2VoxelCPU4d, Point2VoxelGPU3d
    from spconv.utils import VoxelGenerator, VoxelGeneratorV2
    import cumm.tensorview as tv
    from cumm import tensorview
    assert Conv is SparseConvolution and Module is spconv.SparseModule and tv is tensorview
    assert isinstance(spconv.SubMConv3d(1, 1, 3), spconv.conv.SparseConvolution)
    assert SubMConv3d is spconv.SubMConv3d and is_spconv_module(spconv.Identity())
    assert issubclass(SparseConvTensor, Tensor) and F is Fsp and spconv.ConvAlgo is ConvAlgo
    try:
        import spconv.pytorch.quantization
    except ModuleNotFoundError:
        print("fine", spconv.__name__)
"""


def test_every_spelling_after_installing() -> None:
    script = "import sparseconv.compat\nsparseconv.compat.install_spconv()\nsparseconv.compat.install_spconv()\n"
    found = run(script + textwrap.dedent(SPELLINGS))
    assert found.returncode == 0, found.stderr
    assert found.stdout == "fine sparseconv.compat.spconv.pytorch\n"


def test_a_script_runs_unchanged(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 7\n")
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(SPELLINGS)
        + "import sys, beside\nprint(sys.argv[1:], beside.VALUE, __name__)\nraise SystemExit(3)\n"
    )
    found = run("", "-m", "sparseconv.compat.spconv", str(script), "--epochs", "2")
    assert found.returncode == 3, found.stderr
    assert found.stdout.splitlines()[1] == "['--epochs', '2'] 7 __main__"
    module = run("", "-m", "sparseconv.compat.spconv", "-m", "train", "x", cwd=tmp_path)
    assert module.returncode == 3 and "['x'] 7 __main__" in module.stdout, module.stderr


def test_running_without_or_with_a_wrong_script() -> None:
    assert run("", "-m", "sparseconv.compat.spconv").returncode == 2
    found = run("", "-m", "sparseconv.compat.spconv", "absent.py")
    assert found.returncode == 2 and found.stderr == "sparseconv: absent.py: no such file\n"


@pytest.mark.parametrize("name", ["spconv", "cumm"])
def test_the_real_library_is_never_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    script = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import {name}
        from sparseconv.compat import install_spconv
        try:
            install_spconv()
        except RuntimeError as error:
            print(error)
        assert sys.modules[{name!r}].__file__.startswith({str(tmp_path)!r})
        assert not [name for name in sys.modules if name.startswith(("spconv.", "cumm."))]
    """
    found = run(script)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(f"{name} is imported already, from {tmp_path}")
    assert "before the first import of" in found.stdout


def test_installing_touches_nothing_else() -> None:
    found = run(
        """
        import sys
        import sparseconv.compat
        assert "spconv" not in sys.modules
        sparseconv.compat.install_spconv()
        print([name for name in ("numba", "typer", "open3d") if name in sys.modules])
        """
    )
    assert found.stdout.strip() == "[]", found.stderr


def test_every_installed_name_exists() -> None:
    for target in sparseconv.compat._MODULES.values():
        module = importlib.import_module(f"sparseconv.compat.{target}")
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{target}.{name}"
    assert spconv.utils.PointToVoxel and spconv.hash.HashTable and spconv.core.IndiceData


def test_a_pickled_model_of_the_program_loads_again(tmp_path: Path) -> None:
    """A model pickled under `import spconv` names this package's classes, not the alias."""
    script = f"""
        import sparseconv.compat, torch, pickle, pathlib
        sparseconv.compat.install_spconv()
        import spconv.pytorch as spconv
        net = spconv.SparseSequential(spconv.SubMConv3d(1, 2, 3))
        pathlib.Path({str(tmp_path / "net.pkl")!r}).write_bytes(pickle.dumps(net))
    """
    assert run(script).returncode == 0
    found = run(
        f"import pickle, pathlib; print(pickle.loads(pathlib.Path({str(tmp_path / 'net.pkl')!r}).read_bytes()))"
    )
    assert "SubMConv3d(1, 2" in found.stdout, found.stderr
