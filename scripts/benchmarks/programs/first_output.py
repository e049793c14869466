"""A process from its start to a backbone's first output: prints the seconds of its parts as JSON."""

from __future__ import annotations

import json
import sys
import time

_START = time.perf_counter()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from sparseconv.models import build_model  # noqa: E402
from sparseconv.tensor import SparseTensor  # noqa: E402


def main() -> None:
    """Build VoxelBackBone8x and run it twice on the voxels of an .npz file."""
    imported = time.perf_counter()
    torch.set_num_threads(int(sys.argv[2]))
    with np.load(sys.argv[1]) as arrays:
        features, indices = torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["indices"])
        shape = arrays["shape"].tolist()
    model = build_model("VoxelBackBone8x", features.shape[1]).eval()
    marks = [time.perf_counter()]
    with torch.no_grad():
        for _ in range(2):
            model(SparseTensor(features, indices, shape, 1))
            marks.append(time.perf_counter())
    parts = {"import": imported - _START, "first": marks[1] - marks[0], "second": marks[2] - marks[1]}
    sys.stdout.write(json.dumps(parts))


if __name__ == "__main__":
    main()
