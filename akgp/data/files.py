"""Lists and reads files, and opens Parquet files, on a disk or in an object store.

Addresses are paths or URLs of fsspec, such as s3://. Caching is done in `cache`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from akgp.io import storage
from akgp.io.errors import first_line

LONGEST_NAME = 300
"""Characters of a path in a message; folders' names have up to 255 each."""


class DataError(ValueError):
    """Images or labels can't be used; the message names file and row."""


@dataclass(frozen=True)
class Listed:
    """A file in a listing: size in bytes (−1 on a disk), and ETag, which changes with the content, or ""."""

    size: int
    tag: str


@dataclass
class Listing:
    """The files below a path, by names relative to it.

    files: sorted by name; the one name "" if the path is a file itself.
    empty: folders with nothing in them.
    skipped: files and folders that are not looked into, and why: HIDDEN, LOOP, BROKEN or SPECIAL.
    """

    files: dict[str, Listed] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


HIDDEN, LOOP, BROKEN, SPECIAL = "hidden", "link to a folder above it", "link to nothing", "no regular file"
SYSTEM_FILES = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information",
    "thumbs.db", "ehthumbs.db", "desktop.ini",
}  # fmt: skip
"""Made by operating systems and file servers; some hold thumbnails, which must not be taken for data."""


def is_hidden(step: str) -> bool:
    """Whether a file or folder of this name does not belong to the data."""
    return step.startswith(".") or step.lower() in SYSTEM_FILES


def list_files(path: str) -> Listing:
    """The files below `path`; links are followed.

    Raises:
        DataError: there is no file, or `path` or a folder below it can't be reached.
    """
    from fsspec.implementations.local import LocalFileSystem

    with _named(path):
        filesystem, root = storage.opened(path)
        if isinstance(filesystem, LocalFileSystem):
            listing = _on_disk(root)
        else:
            entries = storage.retry_outage(path, lambda: filesystem.find(root, detail=True))
            listing = _in_store(root, entries)
    # In a store the two cannot be told apart.
    if not listing.files:
        raise DataError(f"{path}: no such directory, or nothing in it")
    listing.files = dict(sorted(listing.files.items()))
    return listing


def _on_disk(root: str) -> Listing:
    """List a folder of this machine; a link to a folder above it is not followed."""
    listing = Listing()
    if not Path(root).is_dir():
        listing.files |= {"": Listed(-1, "")} if Path(root).exists() else {}
        return listing
    # Each with the device and inode of the folders above it, by which a loop of links is recognised.
    pending: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while pending:
        folder, name, above = pending.pop()
        status = Path(folder).stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            listing.skipped[name] = LOOP
            continue
        with os.scandir(folder) as scanned:
            entries = list(scanned)
        if not entries:
            listing.empty.append(name)
        for entry in entries:
            below = f"{name}/{entry.name}" if name else entry.name
            if is_hidden(entry.name):
                listing.skipped[below] = HIDDEN
            elif _is_dir(entry):
                pending.append((entry.path, below, above | {here}))
            elif entry.is_symlink() and not Path(entry.path).exists() and not Path(entry.name).suffix:
                listing.skipped[below] = BROKEN  # by its name it may have been to a folder
            elif entry.is_symlink() or entry.is_file():  # a link to nothing is a file that can't be read
                listing.files[below] = Listed(-1, "")
            else:
                listing.skipped[below] = SPECIAL
    return listing


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _in_store(root: str, entries: dict[str, Any]) -> Listing:
    """Turn the objects of a store into a listing.

    Stores have no folders; an empty one may be represented by an object whose name ends with '/'.
    """
    listing, placeholders = Listing(), []
    start = len(root.rstrip("/")) + 1
    for file, entry in entries.items():
        name = file[start:]
        steps = name.rstrip("/").split("/")
        hidden = next((depth for depth, step in enumerate(steps, 1) if is_hidden(step)), None)
        if hidden is not None:
            listing.skipped["/".join(steps[:hidden])] = HIDDEN
        elif name.endswith("/") or entry["type"] == "directory":
            placeholders.append("/".join(steps))
        else:
            listing.files[name] = Listed(entry["size"], entry.get("ETag", ""))
    folders = {name[:place] for name in listing.files for place, sign in enumerate(name) if sign == "/"}
    listing.empty = [name for name in placeholders if name and name not in folders]
    return listing


def read_files(paths: Sequence[str], first_bytes: int | None = None) -> list[bytes | DataError]:
    """The contents of files, with an error for each that doesn't exist; remote ones are read concurrently.

    Args:
        first_bytes: how many bytes to read of each file, none of which may be empty; None: all.

    Raises:
        DataError: an existing file can't be read.
    """
    places: dict[str, tuple[Any, str]] = {}
    by_path: dict[str, bytes | DataError] = {}
    for path in paths:
        if why := storage.unknown(path):
            by_path[path] = DataError(f"{_brief(path)}: {why}")
            continue
        with _named(path):
            places[path] = storage.opened(path)
    for filesystem in dict.fromkeys(filesystem for filesystem, _ in places.values()):
        here = {path: file for path, (owner, file) in places.items() if owner == filesystem}
        first = next(iter(here))
        with _named(first):
            contents = storage.retry_outage(
                first, partial(_contents, filesystem, list(here.values()), first_bytes)
            )
        for path, content in zip(here, contents, strict=True):
            if isinstance(content, (FileNotFoundError, IsADirectoryError)) or _is_no_name(content):
                by_path[path] = DataError(f"{_brief(path)}: no such file")
            elif isinstance(content, Exception):
                with _named(path):
                    raise content
            else:
                by_path[path] = bytes(content)
    return [by_path[path] for path in paths]


def _contents(filesystem: Any, files: list[str], end: int | None) -> list[bytes | Exception]:
    """The content of each file up to `end`, or the error; raises what `retry_outage` may retry."""
    # Not `cat`, which takes brackets in a file's name for a pattern.
    start = None if end is None else 0
    contents: list[bytes | Exception] = filesystem.cat_ranges(files, start, end, on_error="return")
    for content in contents:
        if isinstance(content, Exception) and storage.unanswered(content):
            raise content
    return contents


def download(path: str, destination: Path) -> None:
    """Copy a remote file to this disk, without holding it in memory.

    Raises:
        DataError: it doesn't exist, can't be read, or the disk is full.
    """
    with _named(path):
        filesystem, file = storage.opened(path)
        storage.retry_outage(path, lambda: filesystem.get_file(file, str(destination)))


@contextlib.contextmanager
def parquet_file(path: str, *, name: str | None = None, verify: bool = False) -> Iterator[Any]:
    """An open pyarrow.parquet.ParquetFile.

    Args:
        name: of the file in errors; None: `path`.
        verify: check the checksums of what is read.

    Raises:
        DataError: it can't be read, now or inside the `with` block, or is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = name or path
    with _named(name):
        filesystem, file = storage.opened(path)
        try:
            with (
                filesystem.open(file, "rb") as stream,
                pq.ParquetFile(stream, page_checksum_verification=verify) as parquet,
            ):
                yield parquet
        except pa.ArrowInvalid as error:
            raise DataError(f"{name}: no Parquet file, or a damaged one ({first_line(error)})") from None


def printable(name: str) -> str:
    r"""`name` with \xNN for bytes that are not UTF-8, which Python represents as lone surrogates."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_no_name(content: bytes | Exception) -> bool:
    """Whether no file can be called so: too long, or with a zero byte."""
    return isinstance(content, ValueError) or getattr(content, "errno", None) == errno.ENAMETOOLONG


def _brief(path: str) -> str:
    """A path that may be anything that stood in a table, such as an image as text."""
    text = printable(path)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Turn an error of a file system in the block into a DataError of one line that names `path`."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file or directory") from None
    except ImportError as error:
        more = "; akgp[pipeline] brings s3fs" if path.startswith("s3://") else ""
        raise DataError(f"{path}: can't be read ({first_line(error)}){more}") from None
    except Exception as error:  # fsspec's remote file systems raise what their client raises
        if storage.refused(error):
            raise DataError(f"{path}: can't be read ({first_line(error)})") from None
        raise
