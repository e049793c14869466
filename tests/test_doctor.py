"""``sparseconv doctor`` on machines that lack things."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import sparseconv
from sparseconv.scripts import checkup
from sparseconv.scripts.checkup import Finding, findings
from sparseconv.scripts.doctor import doctor

HIDDEN = ("laspy", "numba_cuda", "cuda", "triton", "open3d")


def by_name(found: list[dict]) -> dict[str, dict]:
    assert len({line["name"] for line in found}) == len(found)
    return {line["name"]: line for line in found}


def run_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "sparseconv.scripts.app", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)


def test_machine_that_lacks_most_things(tmp_path: Path) -> None:
    (tmp_path / "plotly.py").write_text("import os\nos._exit(7)\n")
    (tmp_path / "matplotlib.py").write_text("raise ImportError('broken\\nin two lines')\n")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        f"for name in {HIDDEN!r}:\n"
        "    sys.modules[name] = None\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {HIDDEN!r}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    result = run_in(tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["works"] is True
    lines = by_name(report["findings"])
    assert lines["cpu backend"]["state"] == lines["reference backend"]["state"] == "ok"
    assert lines["plotly"]["state"] == "problem" and "exit code 7" in lines["plotly"]["detail"]
    assert lines["matplotlib"]["state"] == "problem" and "broken in two lines" in lines["matplotlib"]["detail"]
    assert "sparseconv[viz]" in lines["matplotlib"]["remedy"]
    remedies = {"laspy": "[las]", "numba-cuda": "[cuda]", "Triton": "[cuda]", "Open3D": "[open3d]"}
    for name, remedy in remedies.items():
        assert lines[name]["state"] in ("absent", "problem"), lines[name]
        assert remedy in lines[name]["remedy"], lines[name]


def run_here() -> tuple[int, str]:
    app = typer.Typer()
    app.command()(doctor)
    result = CliRunner().invoke(app, [])
    return result.exit_code, result.output


@pytest.fixture(autouse=True)
def _no_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "_imported", lambda names: dict.fromkeys(names, "ok"))


def test_machine_here() -> None:
    found = list(findings())
    assert {line.topic for line in found} == {"machine", "engine", "gpu", "libraries"}
    lines = by_name([line.__dict__ for line in found])
    assert all(line.detail for line in found)
    assert lines["cpu backend"]["detail"] == "convolves two voxels on cpu"
    assert "AVX" in lines["processor"]["detail"] or "NEON" in lines["processor"]["detail"]
    assert lines["sparseconv"]["detail"] == sparseconv.__version__
    assert checkup.engine_works(found)


def test_code_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder can be made in a file")
    (tmp_path / "warm").mkdir()
    (tmp_path / "warm" / "a.nbc").write_bytes(bytes(3 << 19))
    expected = {
        None: ("problem", "no home", "SPARSECONV_CACHE_DIR"),
        tmp_path / "file" / "cache": ("problem", "cannot be written", "SPARSECONV_CACHE_DIR"),
        tmp_path / "new" / "cache": ("ok", "the first call compiles", "sparseconv warmup"),
        tmp_path / "warm": ("ok", "1 kernels, 1.5 MB, warm", ""),
    }
    for folder, (state, detail, remedy) in expected.items():
        monkeypatch.setattr("sparseconv.backends.cpu.jit.cache_directory", lambda folder=folder: folder)
        found = checkup._code_cache()
        assert found.state == state and detail in found.detail and remedy in found.remedy, found
    assert not (tmp_path / "new").exists()


def test_every_probe_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Finding:
        raise RuntimeError("no such\nthing [red]")

    for name in ("_python", "_cores", "_code_cache", "_gpu", "_driver", "_open3d", "_libraries"):
        monkeypatch.setattr(checkup, name, fail)
    code, output = run_here()
    assert code == 0 and "RuntimeError: no such thing [red]" in " ".join(output.split())
    assert "The engine works. Problems: Python, cores, code cache" in " ".join(output.split())


@pytest.mark.parametrize("values", [[320.0, 211.0], None])
def test_exit_code_says_that_the_engine_itself_fails(
    values: list[float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        if values is None:
            raise OSError("cannot load")
        import torch

        from sparseconv.tensor import SparseTensor

        return SparseTensor(torch.tensor(values)[:, None], torch.tensor([[0, 4], [0, 5]]), [9], 1)

    monkeypatch.setattr("sparseconv.functional.subm_conv", broken)
    code, output = run_here()
    assert code == 1 and "The engine cannot run here." in output
    assert ("cannot load" if values is None else "320.0, 211.0") in " ".join(output.split())


def test_every_remedy_is_an_extra() -> None:
    for module, _, _, remedy in checkup.LIBRARIES:
        assert remedy.startswith('pip install "sparseconv['), module
