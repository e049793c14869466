"""A data set whose samples are kept as plain arrays after they were read once: text and meshes read slowly."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import read_npz_arrays
from .point_dataset import PointDataset, Transform
from .point_file import PathLike, PointFileError
from .sample import Sample
from .stable_digest import stable_digest

_TEXT = ("fields", "name", "path", "source")
_OPTIONAL = ("labels", "instances", "class_id", "pose")


class CachedDataset(PointDataset):
    """Another data set, read from NPZ files where they are there, and written to them where they are not.

    Made for S3DIS, ScanNet, ModelNet40 and ShapeNetPart: a million points of S3DIS take 1.5 s from their text and
    0.04 s from here. Several processes may fill one folder at a time.

    A file holds a digest of the data set's attributes (its options, and its `root` in full), so that one written
    for others is read anew. Changed files of the data set itself are not noticed: empty the folder then.

    What the data set has beyond samples, such as `classes` and `IGNORE_LABEL`, is had from here too.

    Args:
        dataset: without a `transform`: what it does would be kept.
        folder: for the files; made if it is missing.
        transform: see `PointDataset`.

    Raises:
        ValueError: the data set has a transform. When reading: a sample has boxes or a calibration; those data
            sets read quickly as they are.
        TypeError: the data set has an attribute without a content to go by: see `stable_digest`.
    """

    def __init__(self, dataset: PointDataset, folder: PathLike, *, transform: Transform | None = None) -> None:
        super().__init__(transform)
        if dataset.transform is not None:
            raise ValueError("give the transform to CachedDataset: what the inner one does would be kept for ever")
        self.dataset = dataset
        self.IGNORE_LABEL = dataset.IGNORE_LABEL
        self._source = _source_of(dataset)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def __getattr__(self, name: str) -> Any:
        """What the data set has beyond samples."""
        # While a pickle is being read there is no data set yet.
        if name.startswith("_") or "dataset" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def read(self, index: int) -> Sample:
        """See `PointDataset.read`."""
        path = self.folder / f"{index:06d}.npz"
        if path.is_file():
            kept = _load(path, self._source)
            if kept is not None:
                return kept
        sample = self.dataset.read(index)
        _save(path, sample, self._source)
        return sample


def _source_of(dataset: PointDataset) -> str:
    parts = []
    for name, value in sorted(vars(dataset).items()):
        # A relative root is another one in another working folder.
        option = Path(value) if name == "root" and isinstance(value, str) else value
        try:
            parts.append((name, stable_digest(option, name)))
        except TypeError as error:
            raise TypeError(
                f"{type(dataset).__name__} cannot be told from one of other options: {error}. Keep numbers, text, "
                "paths, arrays and functions of a module in its attributes"
            ) from None
    return stable_digest((type(dataset), parts)).hex()


def _save(path: Path, sample: Sample, source: str) -> None:
    if sample.boxes is not None or sample.calibration is not None or sample.augmentation is not None:
        raise ValueError(f"sample {sample.name!r} has boxes, a calibration or an augmentation, which are not kept")
    arrays: dict[str, Any] = {"points": sample.points}
    texts = ("\n".join(sample.fields), sample.name, "" if sample.path is None else os.fspath(sample.path), source)
    for name, text in zip(_TEXT, texts, strict=True):
        arrays[name] = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)
    for name in _OPTIONAL:
        if getattr(sample, name) is not None:
            arrays[name] = np.asarray(getattr(sample, name))
    for name, values in sample.point_data.items():
        if values.dtype.kind not in "fiub":
            raise ValueError(
                f"sample {sample.name!r} has point_data[{name!r}] of {values.dtype}, which is not kept"
            )
        arrays[f"point_data.{name}"] = values
    # Another process sees the whole file or none.
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _load(path: Path, source: str) -> Sample | None:
    """The sample, or None where the file was written for other options, or is damaged."""
    try:
        arrays = read_npz_arrays(path)
        texts = {name: arrays[name].astype(np.uint8).tobytes().decode(errors="surrogateescape") for name in _TEXT}
        if texts["source"] != source:
            return None
        prefix = "point_data."
        return Sample(
            arrays["points"],
            tuple(texts["fields"].split("\n")),
            texts["name"],
            Path(texts["path"]) if texts["path"] else None,
            labels=arrays.get("labels"),
            instances=arrays.get("instances"),
            class_id=int(arrays["class_id"]) if "class_id" in arrays else None,
            pose=arrays.get("pose"),
            point_data={name.removeprefix(prefix): v for name, v in arrays.items() if name.startswith(prefix)},
        )
    except (PointFileError, ValueError, TypeError, KeyError):
        return None
