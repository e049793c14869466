"""A process of its own that draws meshes without a display: ``python open3d_child.py INPUT.npz OUTPUT.npy``.

Drawing without a display loads Mesa with its LLVM. In a process that later imports Triton, whose library brings
another LLVM, that ends in a crash; so nothing of the engine is imported here, and nothing of Mesa there.

Input: ``vertices [V, 3]``, ``triangles [T, 3]``, ``colours [V, 3]``, ``width``, ``height``, ``focal``,
``extrinsic [4, 4]``, ``near``, ``far``. Output: the picture, float32 ``[height, width, 3]``. Exit code 3: nothing
to draw with.
"""

import os
import sys
import tempfile

import numpy as np

NO_CONTEXT = 3


def main() -> int:
    """Draw, and write the picture."""
    import open3d

    with np.load(sys.argv[1]) as archive:
        given = dict(archive)
    width, height = int(given["width"]), int(given["height"])
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    visualizer = open3d.visualization.Visualizer()
    if not visualizer.create_window(width=width, height=height, visible=False):
        return NO_CONTEXT
    mesh = open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(given["vertices"]), open3d.utility.Vector3iVector(given["triangles"])
    )
    mesh.vertex_colors = open3d.utility.Vector3dVector(given["colours"])
    set_up(visualizer, [mesh], given)
    visualizer.poll_events()
    visualizer.update_renderer()
    picture = np.asarray(visualizer.capture_screen_float_buffer(do_render=True))
    np.save(sys.argv[2], picture.astype(np.float32))
    return 0


def set_up(visualizer, meshes, view) -> None:  # type: ignore[no-untyped-def]
    """Meshes, flat light, white ground, and the camera of ``view``: the keys of the input from ``width`` on."""
    import open3d

    for mesh in meshes:
        visualizer.add_geometry(mesh)
    options = visualizer.get_render_option()
    options.light_on = False
    options.mesh_show_back_face = True
    options.background_color = np.ones(3)
    width, height, focal = int(view["width"]), int(view["height"]), float(view["focal"])
    parameters = open3d.camera.PinholeCameraParameters()
    parameters.intrinsic = open3d.camera.PinholeCameraIntrinsic(
        width, height, focal, focal, width / 2 - 0.5, height / 2 - 0.5
    )
    parameters.extrinsic = np.asarray(view["extrinsic"])
    control = visualizer.get_view_control()
    control.convert_from_pinhole_camera_parameters(parameters, allow_arbitrary=True)
    control.set_constant_z_near(float(view["near"]))
    control.set_constant_z_far(float(view["far"]))


if __name__ == "__main__":
    # Mesa complains about a missing run-time folder.
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        sys.exit(main())
