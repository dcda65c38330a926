"""Sources: where images come from, as streams of undecoded samples with class names.

A source knows files and labels, local or remote; it neither decodes nor splits.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from akgp.params import REMOTE, Data

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class DataError(ValueError):
    """The images or labels can't be used; the message names file and row."""


@dataclass(frozen=True)
class Sample:
    """An image not yet decoded (encoded bytes, or pixels [H, W] uint8), its label and its origin."""

    content: bytes | np.ndarray
    label: Any
    origin: str


@dataclass(frozen=True)
class Source:
    """What a source holds: `parts` maps 'train' (and 'test', if it brings one) to its samples."""

    parts: dict[str, Iterator[Sample]]
    name: str
    classes: tuple[str, ...] | None = field(default=None)


def open_source(params: Data) -> Source:
    """The source that `params` names.

    Raises:
        DataError: it doesn't exist, can't be reached, or holds no images.
    """
    return {"digits": _digits, "cifar10": _cifar10, "image_folder": _image_folder, "parquet": _parquet}[
        params.source
    ](params)


def _digits(params: Data) -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    samples = (
        Sample(np.round(image * (255 / 16)).astype(np.uint8), int(label), f"digits#{row}")
        for row, (image, label) in enumerate(zip(digits.images, digits.target, strict=True))
    )
    return Source({"train": samples}, "scikit-learn's handwritten digits", tuple("0123456789"))


def _cifar10(params: Data) -> Source:
    path = params.path or os.environ.get("AKGP_CIFAR10")
    if path:
        parts = _parquet_parts(path, _image_column(path), "label")
        if "test" not in parts:
            raise DataError(f"{path}: no test*.parquet beside the training files")
        return Source(parts, "cifar10 (Parquet directory)", CIFAR10_CLASSES)
    from torchvision.datasets import CIFAR10

    folder = Path("~/.cache/akgp/cifar10").expanduser()
    try:
        splits = {part: CIFAR10(folder, train=part == "train", download=True) for part in ("train", "test")}
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cifar10 can't be downloaded ({error}): set data.path or AKGP_CIFAR10 to a Parquet directory of it"
        ) from None
    return Source(
        {part: _arrays(images.data, images.targets, part) for part, images in splits.items()},
        "cifar10 (torchvision)",
        CIFAR10_CLASSES,
    )


def _arrays(pixels: np.ndarray, labels: Sequence[int], part: str) -> Iterator[Sample]:
    for row, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        yield Sample(image, label, f"{part}#{row}")


def _image_folder(params: Data) -> Source:
    assert params.path is not None
    files = _list(params.path)
    root = params.path.rstrip("/")
    names: dict[str, list[tuple[str, str]]] = {}
    for file in files:
        parts = file.split("/")
        if not file.lower().endswith(IMAGE_SUFFIXES) or any(part.startswith(".") for part in parts):
            continue
        part = parts[0] if len(parts) > 2 and parts[0] in ("train", "test") else "train"
        label = parts[1] if len(parts) > 2 and parts[0] in ("train", "test") else parts[0]
        if len(parts) < 2:
            raise DataError(f"{root}/{file}: images must lie in a folder named after their class")
        names.setdefault(part, []).append((file, label))
    if not names:
        raise DataError(f"{params.path}: no images ({', '.join(IMAGE_SUFFIXES)}) in class folders")
    return Source(
        {part: _files(root, sorted(listed)) for part, listed in names.items()}, f"image folder {root}"
    )


def _files(root: str, listed: list[tuple[str, str]]) -> Iterator[Sample]:
    for file, label in listed:
        yield Sample(_read(f"{root}/{file}"), label, f"{root}/{file}")


def _parquet(params: Data) -> Source:
    assert params.path is not None
    parts = _parquet_parts(params.path, params.image_column, params.label_column)
    return Source(parts, f"Parquet {params.path}")


def _parquet_parts(path: str, image_column: str, label_column: str) -> dict[str, Iterator[Sample]]:
    files = [path] if path.endswith(".parquet") else [
        f"{path.rstrip('/')}/{file}" for file in _list(path) if file.endswith(".parquet") and "/" not in file
    ]  # fmt: skip
    if not files:
        raise DataError(f"{path}: no .parquet files")
    for file in files:
        columns = _parquet_file(file).schema_arrow.names
        for key, column in (("image_column", image_column), ("label_column", label_column)):
            if column not in columns:
                raise DataError(f"{file}: data.{key} is {column!r}, the columns are {', '.join(columns)}")
    grouped: dict[str, list[str]] = {}
    for file in sorted(files):
        part = "test" if file.rsplit("/", 1)[-1].startswith("test") else "train"
        grouped.setdefault(part, []).append(file)
    if "train" not in grouped:
        raise DataError(f"{path}: test*.parquet only, no training files")
    return {part: _rows(files, image_column, label_column) for part, files in grouped.items()}


def _image_column(path: str) -> str:
    files = [file for file in _list(path) if file.endswith(".parquet")]
    if not files:
        raise DataError(f"{path}: no .parquet files")
    names = _parquet_file(f"{path.rstrip('/')}/{files[0]}").schema_arrow.names
    return next((name for name in ("img", "image") if name in names), "image")


def _rows(files: list[str], image_column: str, label_column: str) -> Iterator[Sample]:
    for file in files:
        row = 0
        for batch in _parquet_file(file).iter_batches(1024, columns=[image_column, label_column]):
            images, labels = (batch.column(name).to_pylist() for name in (image_column, label_column))
            for image, label in zip(images, labels, strict=True):
                yield Sample(_content(image, file), label, f"{file}#{row}")
                row += 1


def _content(image: Any, file: str) -> bytes:
    """Encoded bytes of a Parquet cell: bytes, {bytes, path}, or a path beside the file."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str):
        absolute = image.startswith("/") or REMOTE.match(image)
        return _read(image if absolute else f"{file.rsplit('/', 1)[0]}/{image}")
    return image or b""


def _filesystem(path: str) -> tuple[Any, str]:
    import fsspec

    options: dict[str, Any] = {}
    if path.startswith("s3://"):
        options = {"config_kwargs": {"retries": {"max_attempts": 4}, "connect_timeout": 10}}
    return fsspec.core.url_to_fs(path, **options)


def _list(path: str) -> list[str]:
    """Files below `path`, relative to it."""
    filesystem, root = _filesystem(path)
    with _named(path):
        files = filesystem.find(root)
    if not files:
        raise DataError(f"{path}: no such directory, or nothing in it")
    return [file[len(root.rstrip("/")) + 1 :] for file in files]


def _read(path: str) -> bytes:
    filesystem, file = _filesystem(path)
    with _named(path):
        return bytes(filesystem.cat_file(file))


def _parquet_file(path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, file = _filesystem(path)
    with _named(path):
        try:
            return pq.ParquetFile(filesystem.open(file, "rb"))
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: no Parquet file ({error})") from None


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """What a file system refuses, as one line that names `path`."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file or directory") from None
    except Exception as error:  # fsspec's remote file systems raise what their client raises
        if isinstance(error, DataError):
            raise
        if isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("botocore", "aiobotocore", "aiohttp"):
            raise DataError(f"{path}: can't be read ({str(error).splitlines()[0]})") from None
        raise
