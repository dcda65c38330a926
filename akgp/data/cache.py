"""Files below a path; of an object store only new and changed ones are downloaded, others come from a cache.

A copy in the user's cache is named after the file's address, ETag and size, and moved there when it is
complete. So a name always stands for the same content, no index is needed, and a process that is killed
leaves at most a partial file, never taken for a copy. Stores without ETags, and disks, are read directly.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from akgp.data.files import DataError, download, list_files, parquet_file, read_files
from akgp.data.formats import HEAD_BYTES

PART_SECONDS = 24 * 3600.0  # an older partial file was left by a process that was killed
PART = ".part"
HEAD = ".head"  # the first bytes of a file that may not be an image


def user_cache() -> Path:
    """The folder of downloads: $XDG_CACHE_HOME/akgp, by default ~/.cache/akgp."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "akgp"


class Files:
    """The files below `path`, as they were when this was made.

    Making it removes cached copies of files that have changed or no longer exist.

    Attributes:
        names: relative to `path`, sorted; the one name "" if `path` is a file itself.
        empty: folders with nothing in them.
        skipped: what is not looked into, and why; see `list_files`.

    Raises:
        DataError: there are no files, or `path` can't be reached.
    """

    def __init__(self, path: str) -> None:
        listing = list_files(path)
        root = path.rstrip("/")
        self.names, self.empty, self.skipped = list(listing.files), listing.empty, listing.skipped
        self._folder = user_cache() / "sources" / _digest(root)
        self._copies: dict[str, tuple[Path, int]] = {}  # address of the original -> copy, size
        self._sizes: dict[str, int] = {}
        for name, entry in listing.files.items():
            address = f"{root}/{name}" if name else root
            self._sizes[address] = entry.size
            if entry.tag:
                copy = self._folder / _digest(address, str(entry.size), entry.tag)
                self._copies[address] = (copy, entry.size)
        self._sweep()

    def read(self, addresses: Sequence[str]) -> list[bytes | DataError]:
        """The contents of files, listed or not, with an error for each that doesn't exist.

        Raises:
            DataError: an existing file can't be read, or a copy can't be written.
        """
        contents: dict[str, bytes | DataError] = {
            address: content for address in addresses if (content := self._copied(address)) is not None
        }
        missing = [address for address in dict.fromkeys(addresses) if address not in contents]
        for address, read in zip(missing, read_files(missing), strict=True):
            contents[address] = read
            if address in self._copies and isinstance(read, bytes):
                with self._part(self._copies[address][0]) as part:
                    part.write_bytes(read)
        return [contents[address] for address in addresses]

    def heads(self, addresses: Sequence[str]) -> list[bytes | DataError]:
        """The first `HEAD_BYTES` of the files, otherwise as `read`; cached like whole files."""
        heads_by_address: dict[str, bytes | DataError] = {}
        for address in addresses:
            if self._sizes.get(address) == 0:  # a range of an empty object is an error in S3
                heads_by_address[address] = b""
            elif address in self._copies:
                for copy in (self._copies[address][0], self._head(address)):
                    with contextlib.suppress(OSError), copy.open("rb") as stream:
                        heads_by_address[address] = stream.read(HEAD_BYTES)
        missing = [address for address in addresses if address not in heads_by_address]
        for address, head in zip(missing, read_files(missing, HEAD_BYTES), strict=True):
            heads_by_address[address] = head
            if address in self._copies and isinstance(head, bytes):
                with self._part(self._head(address)) as part:
                    part.write_bytes(head)
        return [heads_by_address[address] for address in addresses]

    def _head(self, address: str) -> Path:
        copy, _ = self._copies[address]
        return copy.with_name(copy.name + HEAD)

    @contextlib.contextmanager
    def parquet(self, address: str) -> Iterator[Any]:
        """An open pyarrow.parquet.ParquetFile, as by `parquet_file`; a cached copy where files have ETags."""
        if address not in self._copies:
            with parquet_file(address) as parquet:
                yield parquet
            return
        copy, size = self._copies[address]
        if not copy.exists() or copy.stat().st_size != size:
            with self._part(copy) as part:
                download(address, part)
        with parquet_file(str(copy), name=address) as parquet:
            yield parquet

    def _copied(self, address: str) -> bytes | None:
        """The content of a complete copy; None if there is none."""
        if address not in self._copies:
            return None
        copy, size = self._copies[address]
        try:
            content = copy.read_bytes()
        except OSError:
            return None
        return content if len(content) == size else None

    @contextlib.contextmanager
    def _part(self, copy: Path) -> Iterator[Path]:
        """A file to write to, which becomes the copy if the block does not raise."""
        # By process, so that two that download the same file don't write into each other's.
        part = copy.with_name(f"{copy.name}.{os.getpid()}{PART}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield part
            part.replace(copy)
        except OSError as error:
            raise DataError(
                f"{copy}: can't be written ({error.strerror or error}): free some space, "
                "or let XDG_CACHE_HOME name another place for downloads"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    def _sweep(self) -> None:
        """Remove copies of files that are not listed, and partial files of interrupted downloads."""
        current = {copy.name + end for copy, _ in self._copies.values() for end in ("", HEAD)}
        old = time.time() - PART_SECONDS
        for file in self._folder.iterdir() if self._folder.exists() else ():
            with contextlib.suppress(OSError):  # another process may remove it at the same time
                if file.name not in current and (file.suffix != PART or file.stat().st_mtime < old):
                    file.unlink()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
