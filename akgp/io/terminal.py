"""Output of commands: text for a terminal of 80 columns, and JSON for programs."""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
from collections.abc import Generator, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
WIDTH = 80
"""Columns of the usual terminal; the output of commands fits into them, also through a pipe."""


def as_json(content: Any) -> str:
    """One JSON document: non-ASCII text is not escaped; NaN and infinities, which JSON lacks, are null."""
    return json.dumps(_finite(content), indent=2, ensure_ascii=False)


def wrapped(text: str, hanging: int = 0) -> str:
    """`text` in lines of at most WIDTH columns, all but the first indented by `hanging`."""
    return textwrap.fill(
        text, WIDTH, subsequent_indent=" " * hanging, break_on_hyphens=False, drop_whitespace=True
    )


def aligned(rows: Iterable[Iterable[str]], left: frozenset[int] = frozenset({0})) -> str:
    """Rows of cells as lines with columns two spaces apart, right-aligned except for those in `left`."""
    lines = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def aligned_blocks(rows: Iterable[Iterable[str]]) -> str:
    """Rows of cells as right-aligned columns, in as many blocks below each other as WIDTH requires.

    Every block begins with the first column, which names the rows. A cell that is too long for a block is
    cut.
    """
    first, *columns = zip(*rows, strict=True)
    space = WIDTH - max(map(len, first))
    blocks: list[list[list[str]]] = [[]]
    used = 0
    for column in columns:
        cells = [cell if len(cell) <= space - 2 else f"{cell[: space - 3]}…" for cell in column]
        width = 2 + max(map(len, cells))
        if used + width > space:
            blocks, used = [*blocks, []], 0
        blocks[-1].append(cells)
        used += width
    return "\n\n".join(aligned(zip(first, *block, strict=True), left=frozenset()) for block in blocks)


def shown(running: Generator[str, None, T]) -> T:
    """What `running` gives, its lines on standard error: in one place of a terminal, else a line each."""
    place = sys.stderr.isatty()
    while True:
        try:
            line = next(running)
        except StopIteration as end:
            if place:
                print(end="\r\033[K", file=sys.stderr, flush=True)
            result: T = end.value
            return result
        print(
            f"\r\033[K{line[:WIDTH]}" if place else line,
            end="" if place else "\n",
            file=sys.stderr,
            flush=True,
        )


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, float) and content - content != 0:  # NaN and both infinities
        return None
    return content


class UnbrokenStderr:
    """Standard error that ignores a closed pipe, as when the flow that reads it was killed.

    With an exception tqdm would keep its lock, for which the stage would then wait forever.
    It equals standard error, so that tqdm clears the bar before a line of the log.
    """

    def __eq__(self, other: object) -> bool:
        return other is sys.stderr

    __hash__ = None  # type: ignore[assignment]

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def first_of(texts: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more
