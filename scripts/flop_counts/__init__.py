"""``sparseconv flops``: models by name or path, counts over scans and voxel sizes, tables and pictures."""
