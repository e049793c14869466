"""The one decorator for CPU kernels, and the on-disk cache of their machine code.

Kernels are serial, release the GIL and are compiled at their first call. The compiled code is kept on
disk, so that the next process starts without compiling:

* one file for each compiled signature, written under a temporary name and renamed, so that two
  processes that fill the cache at once cannot mix their entries;
* the folder's name holds a digest of every source file of this backend, so that an edit anywhere in it
  starts an empty folder (Numba's own cache looks only at the file of the kernel itself);
* each file begins with the digest of its content, since damaged machine code would run;
* a folder that cannot be written or an entry that cannot be used costs a compilation, never an error;
* an interrupt is heard when the kernel that is being compiled or loaded is done.

The folder is ``$SPARSECONV_CACHE_DIR``, or ``~/.cache/sparseconv`` where that is not set.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, _Cache

from sparseconv.backends.cpu.vector_unit import REGISTERS, VECTOR_BYTES
from sparseconv.cache_folder import cache_folder
from sparseconv.uninterrupted import uninterrupted

_DIGEST_BYTES = hashlib.sha256().digest_size


@functools.cache
def _sources_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def cache_directory() -> Path | None:
    """Folder for the code of these sources, this Numba and this vector unit; None where there is no home."""
    root = cache_folder()
    if root is None:
        return None
    checks = "-boundscheck" if numba.config.BOUNDSCHECK else ""  # type: ignore[attr-defined]
    unit = f"{8 * VECTOR_BYTES}x{REGISTERS}"
    return root / f"numba-{numba.__version__}-{unit}-{_sources_digest()}{checks}"


@functools.cache
def _announce_compilation() -> None:
    """Say once, on a terminal, why the first call takes its time."""
    if sys.stderr is not None and sys.stderr.isatty():
        kept = cache_directory()
        where = f"kept in {kept}" if kept is not None else "not kept: there is no home folder"
        sys.stderr.write(f"sparseconv: compiling kernels for this machine, about 10 s ({where})\n")
        sys.stderr.flush()


class _KernelCache(_Cache):
    """One file for each compiled signature of one kernel."""

    def __init__(self, py_func: Callable[..., Any]) -> None:
        self._name = f"{py_func.__module__.rsplit('.', 1)[-1]}.{py_func.__qualname__}"
        self._code = hashlib.sha256(py_func.__code__.co_code).hexdigest()
        self._directory = cache_directory() or Path()
        # Reused for what it knows of serialising a compile result, never for its file locations.
        self._impl = object.__new__(CompileResultCacheImpl)
        self._enabled = cache_directory() is not None

    @property
    def cache_path(self) -> str:
        return str(self._directory)

    def enable(self) -> None:
        self._enabled = cache_directory() is not None

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        if not self._enabled:
            return
        for path in self._directory.glob(f"{self._name}.*.nbc"):
            path.unlink(missing_ok=True)

    def _path(self, sig: Any, codegen: Any) -> Path:
        key = repr((sig, codegen.magic_tuple(), self._code))
        return self._directory / f"{self._name}.{hashlib.sha256(key.encode()).hexdigest()[:32]}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = self._load(sig, target_context) if self._enabled else None
        if found is None:
            _announce_compilation()
        return found

    def _load(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        try:
            content = self._path(sig, target_context.codegen()).read_bytes()
            digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.sha256(payload).digest() != digest:
                return None
            return self._impl.rebuild(target_context, pickle.loads(payload))
        except Exception:
            # Absent, half of another version, or damaged: the kernel is compiled again.
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if not self._enabled or not self._impl.check_cachable(data):
            return
        path = self._path(sig, data.codegen)
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            payload = pickle.dumps(self._impl.reduce(data), protocol=pickle.HIGHEST_PROTOCOL)
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
                temporary = Path(file.name)
                file.write(hashlib.sha256(payload).digest())
                file.write(payload)
            temporary.replace(path)
        except OSError:
            # A read-only home or a full disk: this process keeps its compiled kernel in memory.
            if temporary is not None:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel at its first call: serial, GIL released, cached on disk.

    Kernels and what they call stand in this backend's folder, so that the digest covers them.
    """
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    # Under NUMBA_DISABLE_JIT the function comes back as it is.
    if dispatcher is not function:
        dispatcher._cache = _KernelCache(function)
        compile_for_args = dispatcher._compile_for_args
        # What Numba calls where it has no code for the arguments.
        dispatcher._compile_for_args = lambda *args: uninterrupted(functools.partial(compile_for_args, *args))
    return dispatcher
