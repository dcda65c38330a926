"""The prepared splits on disk: a Parquet table each, and summary.json."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from akgp.data.images import Images
from akgp.data.sources import DataError
from akgp.params import Section

SPLITS = ("train", "calibration", "validation", "test")


class Summary(Section):
    """What the prepared images are like; summary.json."""

    source: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]  # height, width, pixels
    channels: int
    counts: dict[str, tuple[int, ...]]  # images of each class, by split
    mean: tuple[float, ...]  # of each channel of the training images, in units of 255
    std: tuple[float, ...]
    imbalance: float  # largest class / smallest class, in the training split
    skipped: int  # bad rows left out
    digest: str  # SHA-256 over pixels and labels of all splits


def write_split(directory: Path, name: str, images: Images, origins: list[str]) -> None:
    """Write `images` as NAME.parquet: pixels (uint8 [H, W, C]), label, origin."""
    pixels = np.ascontiguousarray(images.pixels.permute(0, 2, 3, 1).numpy())
    table = pa.table({
        "pixels": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels),
        "label": images.labels.numpy(),
        "origin": origins,
    })  # fmt: skip
    pq.write_table(table, directory / f"{name}.parquet", compression="zstd", row_group_size=4096)


def read_split(directory: Path, name: str) -> Images:
    """The images of one prepared split.

    Raises:
        DataError: the file is missing or damaged.
    """
    file = directory / f"{name}.parquet"
    try:
        table = pq.read_table(file, columns=["pixels", "label"])
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{file}: can't be read ({str(error).splitlines()[0]}); `dvc repro data` makes it") from None
    pixels = table["pixels"].combine_chunks().to_numpy_ndarray()
    return Images(
        torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(table["label"].to_numpy().copy()),
    )


def read_summary(directory: Path) -> Summary:
    """summary.json of a prepared data directory.

    Raises:
        DataError: the file is missing or not valid.
    """
    file = directory / "summary.json"
    try:
        return Summary.model_validate_json(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: can't be read ({str(error).splitlines()[0]}); `dvc repro data` makes it") from None


def content_digest(splits: dict[str, Images]) -> str:
    sha = hashlib.sha256()
    for name in SPLITS:
        sha.update(splits[name].pixels.numpy().tobytes())
        sha.update(splits[name].labels.numpy().tobytes())
    return sha.hexdigest()
