"""KITTI's calibration files: cameras, rectification, LiDAR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .numeric_text import numbered_lines
from .point_file import PathLike, PointFileError, read_bytes
from .sample import Float64

_SHAPES = {
    "P0": (3, 4),
    "P1": (3, 4),
    "P2": (3, 4),
    "P3": (3, 4),
    "R0_rect": (3, 3),
    "Tr_velo_to_cam": (3, 4),
    "Tr_imu_to_velo": (3, 4),
}
_OPTIONAL = "Tr_imu_to_velo"


def read_matrices(path: PathLike) -> dict[str, Float64]:
    """Read lines `NAME: numbers`, KITTI's way to write matrices.

    Args:
        path: the file.

    Returns:
        Name to flat float64 numbers, in the order of the file.

    Raises:
        PointFileError: a line has no name, or something that is no finite number.
    """
    found: dict[str, Float64] = {}
    for number, line in numbered_lines(read_bytes(path)):
        name, colon, values = line.partition(":")
        if not colon:
            raise PointFileError(path, f"line {number} has no 'NAME:' before its numbers: it is no calibration")
        try:
            found[name.strip()] = np.array([float(value) for value in values.split()], np.float64)
        except ValueError:
            raise PointFileError(path, f"line {number} holds something that is not a number") from None
        if not np.isfinite(found[name.strip()]).all():
            raise PointFileError(path, f"line {number} holds a number that is not finite")
    return found


def homogeneous(matrix: Float64) -> Float64:
    """A `[3, 3]` or `[3, 4]` matrix as `[4, 4]`."""
    result = np.eye(4)
    result[:3, : matrix.shape[1]] = matrix
    return result


@dataclass(frozen=True, eq=False, repr=False)
class KittiCalibration:
    """One frame's calibration, in the devkit's terms.

    The rectified camera frame is x right, y down, z ahead; the LiDAR's is x ahead, y left, z up; metres both.

    Attributes:
        projections: `[4, 3, 4]` float64, P0 to P3: rectified camera frame to pixels of each camera.
        rectification: `[3, 3]`, R0_rect.
        lidar_to_camera: `[3, 4]`, Tr_velo_to_cam.
        imu_to_lidar: `[3, 4]`, Tr_imu_to_velo, or None where the file has none.
    """

    projections: Float64
    rectification: Float64
    lidar_to_camera: Float64
    imu_to_lidar: Float64 | None = None

    @classmethod
    def read(cls, path: PathLike) -> KittiCalibration:
        """Read a file of `training/calib`.

        Raises:
            PointFileError: a matrix is missing, has another size or cannot be inverted.
        """
        flat = read_matrices(path)
        matrices: dict[str, Float64] = {}
        for name, shape in _SHAPES.items():
            if name not in flat:
                if name == _OPTIONAL:
                    continue
                raise PointFileError(path, f"has no {name}: it is no calibration of KITTI's object benchmark")
            if flat[name].size != shape[0] * shape[1]:
                raise PointFileError(
                    path, f"has {flat[name].size} numbers for {name} where {shape[0]} x {shape[1]} are expected"
                )
            matrices[name] = flat[name].reshape(shape)
        calibration = cls(
            np.stack([matrices[f"P{camera}"] for camera in range(4)]),
            matrices["R0_rect"],
            matrices["Tr_velo_to_cam"],
            matrices.get(_OPTIONAL),
        )
        if abs(np.linalg.det(calibration.rect_from_lidar[:3, :3])) < 1e-6:
            raise PointFileError(path, "has an R0_rect or a Tr_velo_to_cam that cannot be inverted: it is damaged")
        return calibration

    @property
    def rect_from_lidar(self) -> Float64:
        """`[4, 4]`: LiDAR to the rectified camera frame."""
        return homogeneous(self.rectification) @ homogeneous(self.lidar_to_camera)

    def lidar_to_rect(self, xyz: np.ndarray) -> Float64:
        """Points `[N, 3]` of the LiDAR in the rectified camera frame, float64."""
        matrix = self.rect_from_lidar
        return np.asarray(xyz, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]

    def rect_to_lidar(self, xyz: np.ndarray) -> Float64:
        """Points `[N, 3]` of the rectified camera frame in the LiDAR's, float64."""
        matrix = np.linalg.inv(self.rect_from_lidar)
        return np.asarray(xyz, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]

    def rect_to_image(self, xyz: np.ndarray, camera: int = 2) -> tuple[Float64, Float64]:
        """Pixels of points in the rectified camera frame.

        Args:
            xyz: `[N, 3]`.
            camera: 0 to 3; 2 is the left colour camera, whose images the labels describe.

        Returns:
            `[N, 2]` pixels (column, row), meaningless where the depth is not positive, and `[N]` depth in metres
            from that camera.
        """
        matrix = self.projections[camera]
        projected = np.asarray(xyz, np.float64) @ matrix[:, :3].T + matrix[:, 3]
        depth = projected[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            return projected[:, :2] / depth[:, None], depth

    def lidar_to_image(self, xyz: np.ndarray, camera: int = 2) -> tuple[Float64, Float64]:
        """Pixels and depth of the LiDAR's points; see `rect_to_image`."""
        return self.rect_to_image(self.lidar_to_rect(xyz), camera)

    def in_image(self, xyz: np.ndarray, image_shape: tuple[int, int], camera: int = 2) -> np.ndarray:
        """Which of the LiDAR's points a camera sees, were nothing in between.

        Args:
            xyz: `[N, 3]`.
            image_shape: height and width in pixels.
            camera: 0 to 3.

        Returns:
            `[N]` bool: in front of the camera and inside its image.
        """
        pixels, depth = self.lidar_to_image(xyz, camera)
        height, width = image_shape
        with np.errstate(invalid="ignore"):
            inside = (pixels >= 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
        return inside & (depth > 0)
