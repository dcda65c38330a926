"""What a search for a budget is doing, and when it has to end: set around it, asked within it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Search:
    """What is asked of a search, and how far it is.

    Attributes:
        seconds: it may take; None: as long as it needs.
        end: of these, by `time.monotonic`.
        doing, counted: in words, for a person who waits; what it is at, and how much of that is done.
    """

    seconds: float | None = None
    end: float = math.inf
    doing: str = "preparing"
    counted: str = ""

    def __str__(self) -> str:
        return f"{self.doing}, {self.counted}" if self.counted else self.doing


_CURRENT: ContextVar[Search | None] = ContextVar("search", default=None)


@contextlib.contextmanager
def search(seconds: float | None = None) -> Iterator[Search]:
    """Let searches in this block, and in one around it, end after so many seconds with the best so far."""
    current = _CURRENT.get() or Search()
    before = current.seconds, current.end
    if seconds is not None:
        current.seconds, current.end = seconds, time.monotonic() + seconds
    token = _CURRENT.set(current)
    try:
        yield current
    finally:
        _CURRENT.reset(token)
        current.seconds, current.end = before


def doing(what: str) -> None:
    """Note what the search is at."""
    if current := _CURRENT.get():
        current.doing, current.counted = what, ""


def counted(done: int, total: int, unit: str) -> None:
    """Note how much is done of what the search is at; `unit` in the plural, such as modules."""
    if current := _CURRENT.get():
        current.counted = f"{done} of {total} {unit}"


def ended() -> str | None:
    """Why the search has to end now; None if it may go on."""
    current = _CURRENT.get()
    if current is None or time.monotonic() <= current.end:
        return None
    return f"the search ended after {current.seconds:g} s (time_limit)"
