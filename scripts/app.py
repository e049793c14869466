"""Entry point of the ``sparseconv`` command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; where its libraries are missing, name the remedy."""
    try:
        import rich
        import typer
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"sparseconv: the command line needs {error.name}, which is not installed: "
            'pip install "sparseconv[cli]"\n'
        )
        raise SystemExit(2) from None
    del rich
    # Read when torch is loaded: its OpenMP threads then leave the cores to the kernels and to reading processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from sparseconv.scripts.bench import bench
    from sparseconv.scripts.convert import convert
    from sparseconv.scripts.doctor import doctor
    from sparseconv.scripts.flops import flops
    from sparseconv.scripts.run import run
    from sparseconv.scripts.variants import variants
    from sparseconv.scripts.version import options
    from sparseconv.scripts.view import view
    from sparseconv.scripts.voxelize import voxelize
    from sparseconv.scripts.warmup import warmup

    app = typer.Typer(
        help="Sparse convolution on point clouds.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(options)
    app.command()(voxelize)
    app.command()(run)
    app.command()(flops)
    app.command()(view)
    app.command()(convert)
    app.command()(bench)
    app.command()(variants)
    app.command()(warmup)
    app.command()(doctor)
    app()


if __name__ == "__main__":
    main()
