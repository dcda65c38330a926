"""Atomic files and folders: written beside their destination, then moved into place."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from akgp.io.errors import DISK_REFUSALS


@contextlib.contextmanager
def atomic_directory(destination: Path) -> Iterator[Path]:
    """A new, empty folder that replaces `destination` when the block ends without an error.

    Until then the old one stays as it is; a block that raises leaves nothing behind. Whenever the
    process is killed, either the old folder or the new one is in place, complete: they are exchanged in
    one step where the system can do that (Linux); elsewhere the next call puts the old one back.
    """
    destination = _followed(destination)
    new, old = (destination.with_name(f".{destination.name}.{which}") for which in ("new", "old"))
    # A process was killed between the two renames below.
    if old.exists() and not destination.exists():
        old.rename(destination)
    for leftover in (new, old):
        _cleared(leftover)
    new.mkdir(parents=True)
    try:
        with _refusals_named(destination, new):
            yield new
            if not destination.exists():
                new.rename(destination)
            elif not _exchanged(new, destination):
                destination.rename(old)
                new.rename(destination)
    finally:
        _cleared(new)
        _cleared(old)


def _followed(destination: Path) -> Path:
    """What a symbolic link refers to, which is replaced in its place: it may lie on a larger disk."""
    return destination.resolve() if destination.is_symlink() else destination


def _cleared(leftover: Path) -> None:
    if leftover.is_symlink():
        leftover.unlink()
    shutil.rmtree(leftover, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders of one file system in one step; False if this system cannot."""
    # Python has no function for it, and older C libraries have none either.
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of renameat2(2)
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(here, bytes(one), here, bytes(other), exchange) == 0


@contextlib.contextmanager
def atomic_file(destination: Path) -> Iterator[Path]:
    """A path to write to, which replaces `destination` on disk when the block ends without an error.

    A reader of `destination` gets all of the old content or all of the new, whenever the process is killed.
    """
    destination = _followed(destination)
    beside = destination.with_name(f".{destination.name}.new")
    try:
        with _refusals_named(destination, beside):
            yield beside
            with beside.open("rb") as written:
                os.fsync(written.fileno())  # otherwise the name could be on disk before the content
            beside.replace(destination)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _refusals_named(destination: Path, beside: Path) -> Iterator[None]:
    """Let an error about `beside` name `destination`, and that of a full disk, which names no file."""
    try:
        yield
    except OSError as error:
        about_it = str(error.filename) == str(beside)
        if not about_it and (error.filename is not None or error.errno not in DISK_REFUSALS):
            raise
        raise OSError(error.errno, error.strerror, str(destination)) from error


def write_json(file: Path, content: Any) -> None:
    """Write JSON by `atomic_file`; keys keep their order."""
    with atomic_file(file) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys, which become the header, by `atomic_file`."""
    with atomic_file(file) as beside, beside.open("w", newline="", encoding="utf-8") as text:
        table = csv.DictWriter(text, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
