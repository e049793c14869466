"""The one place that imports Open3D, which may be absent or unable to load."""

from __future__ import annotations

from types import ModuleType

INSTALL_REMEDY = 'Open3D is not installed: pip install "sparseconv[open3d]"'
LIBRARY_REMEDY = "Open3D is installed but cannot load ({library} is missing): apt-get install {package}"

# The system libraries that a bare Linux image lacks, by the package that has them.
_PACKAGES = {
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libGL.so.1": "libgl1",
    "libgomp.so.1": "libgomp1",
    "libX11.so.6": "libx11-6",
}


def open3d_or_none() -> ModuleType | None:
    """Import Open3D if that is possible.

    Returns:
        The module, or None where `open3d_problem` says why not.
    """
    return _load()[0]


def open3d_problem() -> str | None:
    """Why Open3D cannot be used here.

    Returns:
        One sentence with the remedy, or None where Open3D loads.
    """
    return _load()[1]


def _load() -> tuple[ModuleType | None, str | None]:
    try:
        import open3d
    except ModuleNotFoundError as error:
        if error.name == "open3d":
            return None, INSTALL_REMEDY
        return None, f"Open3D is installed but cannot load ({error}): reinstall it"
    except (ImportError, OSError) as error:
        return None, describe_load_failure(error)
    return open3d, None


def describe_load_failure(error: ImportError | OSError) -> str:
    """The remedy for an Open3D that is installed and fails while loading.

    Args:
        error: what `import open3d` raised.

    Returns:
        One sentence; it names the system package where the missing library is known.
    """
    text = " ".join(str(error).split())
    for library, package in _PACKAGES.items():
        if library in text:
            return LIBRARY_REMEDY.format(library=library, package=package)
    return f"Open3D is installed but cannot load ({text}): reinstall it"
