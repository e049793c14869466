"""Point clouds from files, and simulated ones where there is no file.

Importing this package loads NumPy and nothing heavier; Open3D and laspy are imported by the one
function that needs them.
"""

from .files import SUPPORTED_SUFFIXES, read_points
from .point_cloud import PointCloud
from .point_file import PointFileError
from .simulated_street import SimulatedStreet

__all__ = ["PointCloud", "PointFileError", "read_points", "SUPPORTED_SUFFIXES", "SimulatedStreet"]
