"""Files where they lie, on a disk or in an object store: listed, read, opened as Parquet.

Addresses are paths or URLs of fsspec, such as s3://; what they hold is not kept here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from akgp import remote


class DataError(ValueError):
    """The images or labels can't be used; the message names file and row."""


@dataclass(frozen=True)
class Listed:
    """What a store says of a file: its size in bytes, and the tag that changes with its content, or ""."""

    size: int
    tag: str


def list_files(path: str) -> dict[str, Listed]:
    """Files below `path` by their names relative to it, sorted; the one name "" if `path` is a file itself.

    Raises:
        DataError: there are none, or `path` can't be reached.
    """
    with _named(path):
        filesystem, root = remote.opened(path)
        files: dict[str, Any] = remote.patiently(path, lambda: filesystem.find(root, detail=True))
    if not files:
        raise DataError(f"{path}: no such directory, or nothing in it")
    return {
        file[len(root.rstrip("/")) + 1 :]: Listed(entry["size"], entry.get("ETag", ""))
        for file, entry in sorted(files.items())
    }


def read_files(paths: Sequence[str]) -> list[bytes | DataError]:
    """What the files hold, read side by side where they are remote; an error for each that isn't there.

    Raises:
        DataError: a file that is there can't be read.
    """
    places: dict[str, tuple[Any, str]] = {}
    for path in paths:
        with _named(path):
            places[path] = remote.opened(path)
    found: dict[str, bytes | DataError] = {}
    for filesystem in dict.fromkeys(filesystem for filesystem, _ in places.values()):
        here = {path: file for path, (owner, file) in places.items() if owner == filesystem}
        first = next(iter(here))
        with _named(first):
            contents = remote.patiently(first, partial(_contents, filesystem, list(here.values())))
        for path, content in zip(here, contents, strict=True):
            if isinstance(content, (FileNotFoundError, IsADirectoryError)):
                found[path] = DataError(f"{path}: no such file")
            elif isinstance(content, Exception):
                with _named(path):
                    raise content
            else:
                found[path] = bytes(content)
    return [found[path] for path in paths]


def _contents(filesystem: Any, files: list[str]) -> list[bytes | Exception]:
    """What each file holds, or why it can't be read; an outage is raised."""
    # Not `cat`: it takes brackets in a file's name for a pattern.
    contents: list[bytes | Exception] = filesystem.cat_ranges(files, None, None, on_error="return")
    for content in contents:
        if isinstance(content, Exception) and remote.unanswered(content):
            raise content
    return contents


def download(path: str, destination: Path) -> None:
    """Copy a remote file to this disk, also one that does not fit into memory.

    Raises:
        DataError: it isn't there, can't be read, or the disk is full.
    """
    with _named(path):
        filesystem, file = remote.opened(path)
        remote.patiently(path, lambda: filesystem.get_file(file, str(destination)))


@contextlib.contextmanager
def parquet_file(path: str, *, name: str | None = None, verify: bool = False) -> Iterator[Any]:
    """An open pyarrow.parquet.ParquetFile.

    Args:
        name: what errors call it; None: `path`.
        verify: check the checksums of what is read.

    Raises:
        DataError: it can't be read, now or inside the `with` block, or is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = name or path
    with _named(name):
        filesystem, file = remote.opened(path)
        try:
            with (
                filesystem.open(file, "rb") as stream,
                pq.ParquetFile(stream, page_checksum_verification=verify) as parquet,
            ):
                yield parquet
        except pa.ArrowInvalid as error:
            raise DataError(f"{name}: no Parquet file, or a damaged one ({remote.line(error)})") from None


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """What a file system refuses, as one line that names `path`."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file or directory") from None
    except ImportError as error:
        raise DataError(f"{path}: can't be read ({remote.line(error)}); akgp[pipeline] brings s3fs") from None
    except Exception as error:  # fsspec's remote file systems raise what their client raises
        if remote.refused(error):
            raise DataError(f"{path}: can't be read ({remote.line(error)})") from None
        raise
