"""Writes and reads the prepared splits: a Parquet table each, and summary.json."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from akgp.data.files import DataError, parquet_file
from akgp.data.images import Images
from akgp.io.errors import first_line
from akgp.params import Regime, Section

SPLITS = ("train", "calibration", "validation", "test")


class Preprocessing(Section):
    """What inference needs beside the network: how images are preprocessed, and the names of the classes."""

    classes: tuple[str, ...]
    image_size: tuple[int, int]  # height, width, pixels
    channels: int
    mean: tuple[float, ...]  # of each channel of the training images, in units of 255
    std: tuple[float, ...]
    bit_depth: int = 16  # bits that hold values in images with more than 8 a channel, see `decoded`


class Altered(Section):
    """What a regime did to all splits but test."""

    asked: Regime  # as in params.yaml
    kept: tuple[int, ...]  # images of each class, by true label, in all splits but test
    changed: dict[str, int]  # labels that are not the true one, by split


class Summary(Preprocessing):
    """The contents of summary.json: properties of the prepared images."""

    source: str
    counts: dict[str, tuple[int, ...]]  # number of images of each class, by split
    imbalance: float  # largest class / smallest class, in the training split
    skipped: int  # bad rows left out
    digest: str  # SHA-256 over pixels and labels of all splits
    regime: Altered | None = None  # None: images and labels are the source's
    not_taken: dict[str, int] = Field(default_factory=dict)  # files that are not images, by ending


def write_split(
    directory: Path, name: str, images: Images, origins: list[str], true_labels: Tensor | None = None
) -> None:
    """Write `images` as NAME.parquet: pixels (uint8 [H, W, C]), label, origin; with checksums.

    Args:
        true_labels: [N], written as true_label, to judge estimates of the noise; never read by training.
            None: no such column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Copied, as Arrow takes the strides of an array for its order of dimensions.
    pixels = np.array(images.pixels.permute(0, 2, 3, 1).numpy(), order="C")
    columns = {
        "pixels": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels),
        "label": images.labels.numpy(),
        "origin": origins,
    }
    if true_labels is not None:
        columns["true_label"] = true_labels.numpy()
    table = pa.table(columns)
    file = directory / f"{name}.parquet"
    pq.write_table(table, file, compression="zstd", row_group_size=4096, write_page_checksum=True)


def read_split(directory: Path, name: str) -> Images:
    """The images of one prepared split.

    Raises:
        DataError: the file is missing or damaged.
    """
    file = directory / f"{name}.parquet"
    try:
        with parquet_file(str(file), verify=True) as parquet:
            height, width, channels = parquet.schema_arrow.field("pixels").type.shape
            count, start = parquet.metadata.num_rows, 0
            pixels = torch.empty(count, channels, height, width, dtype=torch.uint8)
            labels = torch.empty(count, dtype=torch.int64)
            for batch in parquet.iter_batches(1024, columns=["pixels", "label"]):
                block = slice(start, start := start + len(batch))
                arrays = torch.from_numpy(batch["pixels"].to_numpy_ndarray().copy())
                pixels[block] = arrays.permute(0, 3, 1, 2)
                labels[block] = torch.from_numpy(batch["label"].to_numpy().copy())
    except DataError as error:
        raise DataError(f"{error}; `dvc repro data` writes it again") from None
    except (AttributeError, KeyError, ValueError):
        raise DataError(f"{file}: must hold pixels and label; `dvc repro data` writes it again") from None
    return Images(pixels, labels)


def read_true_labels(directory: Path, name: str) -> Tensor:
    """The labels of one prepared split before any label noise: int64 [N].

    To judge estimates of the noise; never for training or for a choice.

    Raises:
        DataError: the file is missing or damaged.
    """
    file = directory / f"{name}.parquet"
    try:
        with parquet_file(str(file), verify=True) as parquet:
            column = "true_label" if "true_label" in parquet.schema_arrow.names else "label"
            return torch.from_numpy(parquet.read(columns=[column])[column].to_numpy().copy())
    except DataError as error:
        raise DataError(f"{error}; `dvc repro data` writes it again") from None
    except KeyError:
        raise DataError(f"{file}: must hold label; `dvc repro data` writes it again") from None


def read_summary(directory: Path) -> Summary:
    """summary.json of a prepared data directory.

    Raises:
        DataError: the file is missing or not valid.
    """
    file = directory / "summary.json"
    try:
        return Summary.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file}: can't be read ({first_line(error)}); `dvc repro data` writes it again"
        ) from None
