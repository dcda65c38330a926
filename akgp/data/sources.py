"""Sources: where images come from, as streams of undecoded samples with their labels.

A source knows files, columns and labels, local or remote; it neither decodes nor splits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from akgp.data.cache import Files, user_cache
from akgp.data.storage import DataError
from akgp.params import REMOTE, Data

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES_AT_ONCE = 64
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Sample:
    """An image not yet decoded, its label as given, and its origin: the file, and #row in a table.

    content: encoded bytes, pixels (uint8 [H, W] or [H, W, 3]), or why there is neither.
    """

    content: bytes | np.ndarray | DataError
    label: Any
    origin: str


@dataclass(frozen=True)
class Source:
    """What a source holds.

    parts: samples by 'train' and, if it brings a test split of its own, 'test'.
    classes: their names, if the source defines them: labels are then these names or their positions.
    """

    parts: dict[str, Iterator[Sample]]
    name: str
    classes: tuple[str, ...] | None = None


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
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    samples = _arrays(pixels, digits.target.tolist(), "digits")
    return Source({"train": samples}, "scikit-learn's handwritten digits", tuple("0123456789"))


def _cifar10(params: Data) -> Source:
    path = params.path or os.environ.get("AKGP_CIFAR10")
    if path:
        files = Files(path)
        parts = _parquet_parts(path, files.names)
        if "test" not in parts:
            raise DataError(f"{path}: no test*.parquet beside the training files")
        with files.parquet(parts["train"][0]) as first:
            image_column = "image" if "image" in first.schema_arrow.names else "img"
        tables = _tables(files, parts, image_column, "label")
        return Source(tables, "cifar10 (Parquet directory)", CIFAR10_CLASSES)
    from torchvision.datasets import CIFAR10

    folder = user_cache() / "cifar10"
    try:
        splits = {part: CIFAR10(folder, train=part == "train", download=True) for part in ("train", "test")}
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cifar10 can't be downloaded ({error}): set data.path or AKGP_CIFAR10 "
            "to a Parquet directory of it"
        ) from None
    return Source(
        {part: _arrays(images.data, images.targets, part) for part, images in splits.items()},
        "cifar10 (torchvision)",
        CIFAR10_CLASSES,
    )


def _arrays(pixels: np.ndarray, labels: Sequence[int], name: str) -> Iterator[Sample]:
    for row, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        yield Sample(image, label, f"{name}#{row}")


def _image_folder(params: Data) -> Source:
    """CLASS/**/image, or train/CLASS/**/image and test/CLASS/**/image."""
    assert params.path is not None
    root = params.path.rstrip("/")
    files = Files(params.path)
    images = [name.split("/") for name in files.names if _is_image(name)]
    if not images:
        raise DataError(f"{params.path}: no images ({', '.join(IMAGE_SUFFIXES)}) in class folders")
    parted = any(len(steps) > 2 and steps[0] in ("train", "test") for steps in images)
    listed: dict[str, list[tuple[str, str]]] = {}
    for steps in images:
        file = f"{root}/{'/'.join(steps)}"
        part, *below = steps if parted else ["train", *steps]
        if part not in ("train", "test"):
            raise DataError(f"{file}: beside {root}/train and {root}/test there must be no other images")
        if len(below) < 2:
            raise DataError(f"{file}: images must lie in a folder named after their class")
        listed.setdefault(part, []).append((file, below[0]))
    if "train" not in listed:
        raise DataError(f"{root}: images in {root}/test only, none in {root}/train")
    return Source({part: _images(files, each) for part, each in listed.items()}, f"image folder {root}")


def _is_image(file: str) -> bool:
    hidden = any(step.startswith(".") for step in file.split("/"))
    return file.lower().endswith(IMAGE_SUFFIXES) and not hidden


def _images(files: Files, listed: list[tuple[str, str]]) -> Iterator[Sample]:
    for start in range(0, len(listed), FILES_AT_ONCE):
        block = listed[start : start + FILES_AT_ONCE]
        for content, (file, label) in zip(files.read([file for file, _ in block]), block, strict=True):
            yield Sample(content, label, file)


def _parquet(params: Data) -> Source:
    assert params.path is not None
    files = Files(params.path)
    parts = _parquet_parts(params.path, files.names)
    tables = _tables(files, parts, params.image_column, params.label_column)
    return Source(tables, f"Parquet {params.path}")


def _parquet_parts(path: str, names: list[str]) -> dict[str, list[str]]:
    """Parquet files in `path`, or `path` itself, by part: test*.parquet, and all others to train on."""
    root = path.rstrip("/")
    grouped: dict[str, list[str]] = {}
    for name in names:
        file = f"{root}/{name}" if name else root
        if not file.endswith(".parquet") or "/" in name or name.startswith((".", "_")):
            continue
        grouped.setdefault(
            next((part for part in ("train", "test") if name.startswith(part)), ""), []
        ).append(file)
    if not grouped:
        raise DataError(f"{path}: no .parquet files")
    others = grouped.pop("", [])
    if others and "train" in grouped:
        raise DataError(
            f"{others[0]}: beside train*.parquet and test*.parquet there must be no other .parquet files"
        )
    if others:
        grouped["train"] = others
    if "train" not in grouped:
        raise DataError(f"{path}: test*.parquet only, no training files")
    return grouped


def _tables(
    files: Files, parts: dict[str, list[str]], image_column: str, label_column: str
) -> dict[str, Iterator[Sample]]:
    """The samples of each part, once both columns are known to be in every file and of a fitting type."""
    for file in (file for named in parts.values() for file in named):
        with files.parquet(file) as parquet:
            schema = parquet.schema_arrow
        for key, column, fits, needed in (
            ("image_column", image_column, _may_be_images, "encoded images, paths, or {bytes, path}"),
            ("label_column", label_column, _may_be_labels, "integers or text"),
        ):
            if column not in schema.names:
                columns = ", ".join(schema.names)
                raise DataError(f"{file}: no column {column!r} (data.{key}), the columns are {columns}")
            if not fits(schema.field(column).type):
                kind = schema.field(column).type
                raise DataError(f"{file}: column {column!r} (data.{key}) holds {kind}, must hold {needed}")
    return {part: _rows(files, named, image_column, label_column) for part, named in parts.items()}


def _may_be_images(kind: Any) -> bool:
    import pyarrow.types as is_

    if is_.is_struct(kind):
        return any(kind.field(position).name in ("bytes", "path") for position in range(kind.num_fields))
    return is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_binary_view(kind) or _is_text(kind)


def _may_be_labels(kind: Any) -> bool:
    import pyarrow.types as is_

    if is_.is_dictionary(kind):
        kind = kind.value_type
    return is_.is_integer(kind) or is_.is_floating(kind) or is_.is_boolean(kind) or _is_text(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as is_

    return is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind)


def _rows(files: Files, named: list[str], image_column: str, label_column: str) -> Iterator[Sample]:
    for file in named:
        folder, row = file.rpartition("/")[0], 0
        with files.parquet(file) as parquet:
            for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=[image_column, label_column]):
                images = _contents(files, batch.column(image_column).to_pylist(), folder)
                for content, label in zip(images, batch.column(label_column).to_pylist(), strict=True):
                    yield Sample(content, label, f"{file}#{row}")
                    row += 1


def _contents(files: Files, cells: list[Any], folder: str) -> list[bytes | DataError]:
    """What cells of an image column stand for: bytes, {bytes, path}, or a path, relative to `folder`."""
    values = [(cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell for cell in cells]
    paths = {
        value: value
        if value.startswith("/") or REMOTE.match(value)
        else f"{folder}/{value}"
        if folder
        else value
        for value in values
        if isinstance(value, str) and value
    }
    read = dict(zip(paths, files.read(list(paths.values())), strict=True))
    return [
        (read[value] if isinstance(value, str) else value) if value else DataError("no image")
        for value in values
    ]
