"""The image files that a command names: files, folders, patterns, and `-` for standard input."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

STDIN = "-"


@dataclass
class ImageFiles:
    """The files that a command named.

    Attributes:
        files: name to show and path of each, in the order given; those of a folder by name.
        skipped: for each folder how many files are no images, by file extension.
        empty: folders and patterns without a file.
    """

    files: list[tuple[str, Path]] = field(default_factory=list)
    skipped: dict[str, Counter[str]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        """A line for each folder with files that were left out."""
        for folder, endings in self.skipped.items():
            named = ", ".join(f"{ending or 'no ending'} {count}" for ending, count in endings.most_common(5))
            yield f"{folder}: files that are no images are left out ({named})"


def image_files(named: Iterable[str], stdin: BinaryIO, scratch: Path) -> ImageFiles:
    """The files that `named` stand for.

    A folder stands for the images below it, links followed, hidden files left out; a pattern (`*`, `?`,
    `**`), where no file has that name, for what matches it. `-` is standard input: one image, or the names
    of files and folders, one a line or, as of `find -print0`, each ended by a zero byte.

    Args:
        scratch: a folder that receives the image of standard input.
    """
    collected = ImageFiles()
    for name in named:
        if name == STDIN:
            _add_stdin(collected, stdin.read(), scratch)
        else:
            _add(collected, name)
    return collected


def _add(collected: ImageFiles, name: str) -> None:
    path = Path(name)
    if path.is_dir():
        before = len(collected.files)
        for file in _below(path):
            if _is_image(file):
                collected.files.append((str(file), file))
            else:
                collected.skipped.setdefault(name, Counter())[file.suffix.lower()] += 1
        if len(collected.files) == before:
            collected.empty.append(name)
    elif path.exists() or not glob.has_magic(name):
        collected.files.append((name, path))  # one that doesn't exist is named when it is read
    elif matched := glob.glob(name, recursive=True):  # noqa: PTH207 (of absolute patterns, too)
        # Links may lead to a file by many paths: it is taken once, by the shortest; and what lies in a folder
        # that matches, with that.
        found = {os.path.realpath(one): one for one in sorted(matched, key=len)[::-1]}
        folders = {real for real in found if os.path.isdir(real)}  # noqa: PTH112 (a set of texts)
        for real, each in sorted(found.items(), key=lambda item: item[1]):
            if not any(str(parent) in folders for parent in Path(real).parents):
                _add(collected, each)
    else:
        collected.empty.append(name)


def _add_stdin(collected: ImageFiles, content: bytes, scratch: Path) -> None:
    file = scratch / "stdin"
    file.write_bytes(content)
    names = [line for line in content.split(b"\0" if b"\0" in content else b"\n") if line.strip(b"\r")]
    if _identified(file) or not names or not _are_names(names):
        collected.files.append((STDIN, file))
        return
    for line in names:
        _add(collected, os.fsdecode(line.removesuffix(b"\r")))


def _are_names(lines: list[bytes]) -> bool:
    """Whether the first line is, or could be, a file's name; that of a damaged image is not."""
    first = os.fsdecode(lines[0].removesuffix(b"\r"))
    return len(first) < 4096 and (os.path.lexists(first) or first.isprintable())


def _below(folder: Path) -> Iterator[Path]:
    """All files below `folder` that are not hidden, by name; folders that links lead to again are skipped."""
    seen = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(where)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where, name) for name in sorted(files) if not name.startswith("."))


def _is_image(file: Path) -> bool:
    """Whether it is an image by content, or by its extension: then it may turn out to be damaged."""
    from PIL import Image

    Image.init()
    kind = Image.registered_extensions().get(file.suffix.lower())
    return kind in Image.OPEN or _identified(file)


def _identified(file: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(file):
            return True
    except Exception:  # of damaged bytes Pillow's plugins raise many kinds
        return False
