"""Opens the sources of images: samples by split with their labels, from files or libraries.

Files may be local or remote. Nothing is decoded or split here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np

from akgp.data import parquet
from akgp.data.cache import Files, user_cache
from akgp.data.files import DataError, printable
from akgp.data.folders import classes_by_split
from akgp.data.formats import IMAGE_SUFFIXES, RAW_SUFFIXES, begins_like_an_image, ending, not_taken
from akgp.data.samples import Sample, Samples, Source
from akgp.params import CIFAR10_VARIABLE, Data

log = logging.getLogger(__name__)

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES_AT_ONCE = 64  # read concurrently from a store, and held in memory


def open_source(params: Data) -> Source:
    """The source that `params` names.

    Raises:
        DataError: it doesn't exist, can't be reached, or holds no images.
    """
    return SOURCES[params.source](params)


def _digits(params: Data) -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # values are 0 to 16
    samples = Samples(partial(_arrays, pixels, digits.target.tolist(), "digits"))
    return Source({"train": samples}, "scikit-learn's handwritten digits", tuple("0123456789"))


def _cifar10(params: Data) -> Source:
    path = params.path or os.environ.get(CIFAR10_VARIABLE)
    if path:
        files = Files(path)
        tables = parquet.tables_by_split(path, files.names)
        if "test" not in tables:
            raise DataError(f"{path}: no test*.parquet beside the training files")
        # Hugging Face's cifar10 calls it img.
        with files.parquet(tables["train"][0].address) as first:
            image_column = "image" if "image" in first.schema_arrow.names else "img"
        parts = parquet.samples(files, tables, image_column, "label")
        others = [name for name in files.names if name and not parquet.is_table(name)]
        return Source(
            parts, "cifar10 (Parquet directory)", CIFAR10_CLASSES, _not_taken(path, others, files.skipped)
        )
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
        {
            part: Samples(partial(_arrays, images.data, images.targets, part))
            for part, images in splits.items()
        },
        "cifar10 (torchvision)",
        CIFAR10_CLASSES,
    )


def _arrays(pixels: np.ndarray, labels: Sequence[int], name: str) -> Iterator[Sample]:
    for row, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        yield Sample(image, label, f"{name}#{row}")


def _image_folder(params: Data) -> Source:
    """The images below a folder; `folders` decides what is a class."""
    assert params.path is not None
    root = params.path.rstrip("/")
    files = Files(params.path)
    if files.names == [""]:
        raise DataError(f"{params.path}: is a file: must be a directory of class folders")
    images = _images_among(files, root)
    taken = set(images)
    others = [name for name in files.names if name not in taken]
    if not images:
        raise DataError(
            f"{params.path}: no images in class folders, only {_counted(not_taken(others, files.skipped))}"
        )
    parts = classes_by_split(root, images, others, files.empty)
    read: dict[str, Samples] = {}
    for part, listed in parts.items():
        below = [(f"{root}/{name}", label) for name, label in listed]
        read[part] = Samples(partial(_files, files, below), partial(_unread, below))
    return Source(read, f"image folder {root}", None, _not_taken(root, others, files.skipped))


def _images_among(files: Files, root: str) -> list[str]:
    """Names of the images; where the ending of a name doesn't tell, the first bytes are read."""
    ends = {name: ending(name) for name in files.names}
    known = IMAGE_SUFFIXES | RAW_SUFFIXES
    unclear = iter([name for name, end in ends.items() if end not in known])
    images = {name for name, end in ends.items() if end in IMAGE_SUFFIXES}
    while block := list(islice(unclear, FILES_AT_ONCE)):
        heads = files.heads([f"{root}/{name}" for name in block])
        images.update(
            name
            for name, head in zip(block, heads, strict=True)
            if isinstance(head, DataError) or begins_like_an_image(head)  # what can't be read is a bad row
        )
    return [name for name in files.names if name in images]


def _not_taken(root: str, names: list[str], skipped: dict[str, str]) -> dict[str, int]:
    """The number of files that are not part of the data, by ending; logged in one line, too."""
    counts = not_taken(names, skipped)
    if counts:
        example = printable(next(iter([*names, *skipped])))
        log.warning("not taken: %s, such as %s/%s", _counted(counts), root, example)
    return counts


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {end}" for end, count in counts.items()) or "nothing"


def _unread(listed: list[tuple[str, str]]) -> Iterator[Sample]:
    for file, label in listed:
        yield Sample(b"", label, printable(file))


def _files(files: Files, listed: list[tuple[str, str]]) -> Iterator[Sample]:
    for start in range(0, len(listed), FILES_AT_ONCE):
        block = listed[start : start + FILES_AT_ONCE]
        for content, (file, label) in zip(files.read([file for file, _ in block]), block, strict=True):
            yield Sample(content, label, printable(file))


def _parquet(params: Data) -> Source:
    assert params.path is not None
    files = Files(params.path)
    tables = parquet.tables_by_split(params.path, files.names)
    parts = parquet.samples(files, tables, params.image_column, params.label_column)
    by_path = parquet.may_hold_paths(files, tables, params.image_column)
    others = [
        name
        for name in files.names
        if name and not parquet.is_table(name) and not (by_path and ending(name) in IMAGE_SUFFIXES)
    ]
    not_taken = _not_taken(params.path.rstrip("/"), others, files.skipped)
    names = parquet.hugging_face_names(files, tables, params.label_column)
    return Source(parts, f"Parquet {params.path}", None, not_taken, names)


SOURCES: dict[str, Callable[[Data], Source]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "image_folder": _image_folder,
    "parquet": _parquet,
}
