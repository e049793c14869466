"""Pictures of voxels: from above, in space, and of a run. Needs ``sparseconv[viz]``; Open3D where it can draw.

A :class:`Scene` holds coloured voxels and boxes; it is drawn from above, in space, or shown in a window::

    scene = voxel_scene(voxels.to_sparse(), voxels.grid, "height")
    draw_from_above("above.png", scene)
    draw_in_space("space.png", scene)
"""

from sparseconv.visualize.from_above import draw_from_above
from sparseconv.visualize.in_space import draw_in_space
from sparseconv.visualize.panels import birds_eye
from sparseconv.visualize.scene import Scene, neighbour_counts, voxel_labels, voxel_scene
from sparseconv.visualize.turning import UPS
from sparseconv.visualize.window import has_display, show

__all__ = [
    "Scene",
    "UPS",
    "birds_eye",
    "draw_from_above",
    "draw_in_space",
    "has_display",
    "neighbour_counts",
    "show",
    "voxel_labels",
    "voxel_scene",
]
