"""Counts as JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparseconv.scripts.flop_counts.scans import Counts, ScanCount, layers, totals
from sparseconv.scripts.flop_counts.tables import family_shares


def write_json(path: Path, model: str, tables: Sequence[Counts], problems: Sequence[str]) -> None:
    """Every number: by scan and layer, means and spread, by voxel size."""
    first = tables[0].scans
    content = {
        "model": model,
        "unit": "macs: multiply-adds, two FLOPs each; *_bytes: bytes",
        "scans": [_scan(scan) for scan in first],
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "family": layer.family,
                "geometry": layer.geometry,
                "c_in": layer.c_in,
                "c_out": layer.c_out,
                "parameters": layer.parameters,
                **{name: asdict(spread) for name, spread in spreads.items()},
            }
            for layer, spreads in layers(first)
        ],
        "total": _total(first),
        "voxel_sizes": [
            {"voxel_size": _size(counts.scans), "scans": len(counts.scans), "total": _total(counts.scans)}
            for counts in tables
            if counts.scans
        ],
        "errors": list(problems),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _total(scans: Sequence[ScanCount]) -> dict[str, Any]:
    if not scans:
        return {}
    return {
        **{name: asdict(spread) for name, spread in totals(scans).items()},
        "parameters": scans[0].count.parameters,
        "family_shares": family_shares(scans),
    }


def _size(scans: Sequence[ScanCount]) -> tuple[float, ...] | None:
    """Of all scans; None where each has its own."""
    sizes = {scan.voxel_size for scan in scans}
    return sizes.pop() if len(sizes) == 1 else None


def _scan(scan: ScanCount) -> dict[str, Any]:
    count = scan.count
    return {
        "scan": scan.scan,
        "points": scan.points,
        "voxels": scan.voxels,
        "in_channels": scan.in_channels,
        "voxel_size": scan.voxel_size,
        "voxel_size_reason": scan.size_reason,
        "from_mesh": scan.from_mesh,
        "spatial_shape": scan.spatial_shape,
        "parameters": count.parameters,
        "macs": count.macs,
        "dilated_macs": count.dilated_macs,
        "dense_macs": count.dense_macs,
        "backward_macs": count.backward_macs,
        "sparse_bytes": count.sparse_bytes,
        "dense_bytes": count.dense_bytes,
        "layers": [asdict(layer) for layer in count.layers],
    }


def write_csv(path: Path, tables: Sequence[Counts]) -> None:
    """A line for each voxel size, scan and layer."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer: csv.DictWriter[str] | None = None
        for counts in tables:
            for scan in counts.scans:
                head = {
                    "scan": scan.scan,
                    **dict(zip(("voxel_x", "voxel_y", "voxel_z"), scan.voxel_size, strict=True)),
                    "voxels": scan.voxels,
                }
                for number, layer in enumerate(scan.count.layers):
                    row = {**head, "layer": number, **asdict(layer)}
                    if writer is None:
                        writer = csv.DictWriter(file, list(row))
                        writer.writeheader()
                    writer.writerow(row)
