"""What of the engine and of the libraries around it works on this machine, and the remedy for what does not.

Every probe may fail in any way; what it raises becomes its finding. The package imports torch and numba before any
command starts: one of them that cannot be imported at all is not diagnosed here, but ends in its own error.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "absent", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: part of the report.
        name: what was looked at.
        state: ``"ok"``, ``"absent"`` (optional, and not here), or ``"problem"``.
        detail: what was found.
        remedy: what to do, where something is missing; else empty.
    """

    topic: str
    name: str
    state: State
    detail: str
    remedy: str = ""


# Optional libraries: module, distribution that names the version, what for, and the remedy.
LIBRARIES = (
    ("laspy", "laspy", "LAS and LAZ files", 'pip install "sparseconv[las]"'),
    ("lazrs", "lazrs", "compressed LAS (LAZ) files", 'pip install "sparseconv[las]"'),
    ("pyarrow", "pyarrow", "Waymo's files", 'pip install "sparseconv[waymo]"'),
    ("ray", "ray", "jobs on a cluster", 'pip install "sparseconv[cluster]"'),
    ("matplotlib", "matplotlib", "bird's-eye pictures", 'pip install "sparseconv[viz]"'),
    ("plotly", "plotly", "pages that turn in a browser", 'pip install "sparseconv[viz]"'),
)
_IMPORT = (
    "import importlib, sys\n"
    "for name in sys.argv[1:]:\n"
    "    try:\n"
    "        importlib.import_module(name)\n"
    "        print(name, 'ok', flush=True)\n"
    "    except BaseException as error:\n"
    "        print(name, type(error).__name__, ' '.join(str(error).split()), flush=True)\n"
)
# Ray, the slowest to load, takes 2 s on two busy cores.
_IMPORT_SECONDS = 60


def _guarded(topic: str, name: str, probe: Callable[[], Finding]) -> Finding:
    """The probe's finding, or what it raised."""
    try:
        return probe()
    except Exception as error:
        return Finding(topic, name, "problem", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _python() -> Finding:
    detail = f"{platform.python_version()} at {sys.executable}, {platform.platform()}"
    return Finding("machine", "Python", "ok", detail)


def _processor() -> Finding:
    import llvmlite.binding as llvm

    from sparseconv.backends.cpu.vector_unit import REGISTERS, VECTOR_BYTES

    features = llvm.get_host_cpu_features()
    names = {
        "avx2": "AVX2",
        "fma": "FMA",
        "avx512f": "AVX-512",
        "avx512bf16": "AVX-512 bfloat16",
        "amx-tile": "AMX",
        "neon": "NEON",
    }
    present = [title for name, title in names.items() if features.get(name)]
    detail = (
        f"{platform.machine()}, {', '.join(present) or 'no vector extension that is used'}; "
        f"tiles of {REGISTERS} registers of {8 * VECTOR_BYTES} bits"
    )
    return Finding("machine", "processor", "ok", detail)


def _cores() -> Finding:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    detail = f"{usable} of {os.cpu_count()} cores may be used; torch and the kernels use {threads} threads"
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        share, _, period = quota.read_text().strip().partition(" ")
        if share != "max":
            granted = int(share) / int(period)
            detail += f"; the container grants {granted:g} cores of time"
            if threads > max(1, granted):
                remedy = (
                    f"torch.set_num_threads({max(1, int(granted))}), or OMP_NUM_THREADS={max(1, int(granted))}"
                )
                return Finding("machine", "cores", "problem", detail, remedy)
    return Finding("machine", "cores", "ok", detail)


def _package() -> Finding:
    return Finding("engine", "sparseconv", "ok", importlib.metadata.version("sparseconv"))


def _torch() -> Finding:
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    built = f"ROCm {torch.version.hip}" if torch.version.hip else built
    return Finding("engine", "torch", "ok", f"{torch.__version__}, built with {built}")


def _numba() -> Finding:
    import numba

    return Finding("engine", "numba", "ok", f"{numba.__version__}, llvmlite {_version('llvmlite')}")


def _is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or in what it would be made in."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _code_cache() -> Finding:
    from sparseconv.backends.cpu.jit import cache_directory

    folder = cache_directory()
    remedy = "set SPARSECONV_CACHE_DIR to a folder that can be written"
    if folder is None:
        return Finding("engine", "code cache", "problem", "no home folder: every process compiles again", remedy)
    files = list(folder.glob("*.nbc")) if folder.is_dir() else []
    size = sum(file.stat().st_size for file in files)
    detail = f"{folder}: {len(files)} kernels, {size / 2**20:.1f} MB"
    if not _is_writable(folder):
        return Finding("engine", "code cache", "problem", f"{detail}, cannot be written", remedy)
    if not files:
        return Finding("engine", "code cache", "ok", f"{detail}; the first call compiles", "sparseconv warmup")
    return Finding("engine", "code cache", "ok", f"{detail}, warm")


def _self_test(backend: str, device: str = "cpu") -> Finding:
    """A submanifold convolution of two neighbouring voxels, by hand: each sees itself and the other."""
    import torch

    from sparseconv.backends import use_backend
    from sparseconv.functional import subm_conv
    from sparseconv.tensor import SparseTensor

    weight = torch.arange(1.0, 4.0, device=device).reshape(1, 3, 1)
    sites = torch.tensor([[0, 4], [0, 5]], dtype=torch.int32, device=device)
    with use_backend(backend), torch.no_grad():
        features = torch.tensor([[10.0], [100.0]], device=device)
        found = subm_conv(SparseTensor(features, sites, [9], 1), weight).features
    # Taps 1, 2, 3 weigh the site before, itself, and the one behind.
    if found.flatten().tolist() != [320.0, 210.0]:
        return Finding(
            "engine", f"{backend} backend", "problem", f"computed {found.flatten().tolist()}, not 320, 210"
        )
    return Finding("engine", f"{backend} backend", "ok", f"convolves two voxels on {device}")


def _cuda_backend() -> Finding:
    import torch

    from sparseconv.backends import cuda_problem

    if not torch.cuda.is_available():
        return Finding("gpu", "cuda backend", "absent", "no GPU to run on")
    problem = cuda_problem()
    if problem is not None:
        what, _, remedy = problem.partition(": ")
        return Finding("gpu", "cuda backend", "problem", f"{what}; plain torch executes on the GPU", remedy)
    tested = _self_test("cuda", "cuda")
    return Finding("gpu", tested.name, tested.state, tested.detail)


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        devices = []
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            memory = properties.total_memory / 2**30
            devices.append(f"{properties.name} (sm_{properties.major}{properties.minor}, {memory:.0f} GB)")
        return Finding("gpu", "devices", "ok", ", ".join(devices))
    if torch.version.cuda is None and torch.version.hip is None:
        remedy = "with an NVIDIA GPU: install torch's CUDA build, see pytorch.org/get-started"
        return Finding("gpu", "devices", "absent", "this torch is built without CUDA", remedy)
    return Finding("gpu", "devices", "absent", "torch finds none: no GPU, or no driver")


def _driver() -> Finding:
    path = Path("/proc/driver/nvidia/version")
    if not path.exists():
        return Finding("gpu", "NVIDIA driver", "absent", "not loaded")
    return Finding("gpu", "NVIDIA driver", "ok", path.read_text().splitlines()[0])


def _extra_of_gpu(module: str, distribution: str, title: str, use: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding("gpu", title, "absent", f"not installed: {use}", 'pip install "sparseconv[cuda]"')
    return Finding("gpu", title, "ok", f"{_version(distribution)}: {use}")


def _open3d() -> Finding:
    from sparseconv.datasets.open3d_import import open3d_problem

    problem = open3d_problem()
    if problem is None:
        name = next((n for n in ("open3d", "open3d-cpu") if _version(n) != "unknown version"), "open3d")
        return Finding("libraries", "Open3D", "ok", f"{_version(name)}: meshes, ray casting, point files")
    what, _, remedy = problem.rpartition(": ")
    installed = importlib.util.find_spec("open3d") is not None
    return Finding("libraries", "Open3D", "problem" if installed else "absent", what, remedy)


def _imported(names: list[str]) -> dict[str, str]:
    """How the import of each module ends, in processes of their own: a library may take its process with it."""
    results: dict[str, str] = {}
    rest = list(names)
    while rest:
        try:
            command = [sys.executable, "-c", _IMPORT, *rest]
            run = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False)
            printed, ending = run.stdout, f"import ended the process (exit code {run.returncode})"
        except subprocess.TimeoutExpired as error:
            printed = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
            ending = f"import took more than {_IMPORT_SECONDS} s"
        for line in printed.splitlines():
            name, _, result = line.partition(" ")
            if name in rest:
                results[name] = result
                rest.remove(name)
        if rest:
            results[rest.pop(0)] = ending
    return results


def _libraries() -> Iterator[Finding]:
    found = [module for module, *_ in LIBRARIES if importlib.util.find_spec(module) is not None]
    results = _imported(found)
    for module, distribution, use, remedy in LIBRARIES:
        if module not in found:
            yield Finding("libraries", module, "absent", f"not installed: {use}", remedy)
        elif results[module] == "ok":
            yield Finding("libraries", module, "ok", f"{_version(distribution)}: {use}")
        else:
            again = remedy.replace("pip install", "pip install --force-reinstall")
            yield Finding("libraries", module, "problem", f"{_version(distribution)}: {results[module]}", again)


def findings() -> Iterator[Finding]:
    """Everything, in order of topics; never raises."""
    probes: tuple[tuple[str, str, Callable[[], Finding]], ...] = (
        ("machine", "Python", _python),
        ("machine", "processor", _processor),
        ("machine", "cores", _cores),
        ("engine", "sparseconv", _package),
        ("engine", "torch", _torch),
        ("engine", "numba", _numba),
        ("engine", "code cache", _code_cache),
        ("engine", "cpu backend", lambda: _self_test("cpu")),
        ("engine", "reference backend", lambda: _self_test("reference")),
        ("gpu", "NVIDIA driver", _driver),
        ("gpu", "devices", _gpu),
        ("gpu", "numba-cuda", lambda: _extra_of_gpu("numba_cuda", "numba-cuda", "numba-cuda", "the kernels")),
        ("gpu", "Triton", lambda: _extra_of_gpu("triton", "triton", "Triton", "the fused convolution")),
        ("gpu", "cuda backend", _cuda_backend),
        ("libraries", "Open3D", _open3d),
    )
    for topic, name, probe in probes:
        yield _guarded(topic, name, probe)
    try:
        yield from _libraries()
    except Exception as error:
        yield Finding("libraries", "imports", "problem", f"{type(error).__name__}: {error}")


def engine_works(found: list[Finding]) -> bool:
    """Whether the engine runs on this machine's processor."""
    needed = {"cpu backend", "reference backend"}
    return needed == {line.name for line in found if line.name in needed and line.state == "ok"}


def as_json(found: list[Finding]) -> str:
    """The report for programs."""
    return json.dumps(
        {
            "version": _version("sparseconv"),
            "works": engine_works(found),
            "findings": [line.__dict__ for line in found],
        },
        indent=2,
    )
