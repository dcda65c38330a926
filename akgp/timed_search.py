"""A search that may take long: what it is doing, when it has to end, and a thread to watch it from.

`search` is set around it; `doing`, `counted` and `ended` are called within it, by whatever it calls.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


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


def watched(compute: Callable[[], T], every: float) -> Generator[str, None, T]:
    """What `compute` gives or raises; until then, every so many seconds, what it is doing."""
    start = time.monotonic()
    with search() as current:
        context, future = copy_context(), Future[T]()

        def run() -> None:
            try:
                future.set_result(context.run(compute))
            except BaseException as error:
                future.set_exception(error)

        Thread(target=run, daemon=True).start()  # so that Ctrl-C need not wait for it
        while True:
            try:
                return future.result(timeout=every)
            except TimeoutError:
                if future.done():
                    raise
                yield f"{current}, {time.monotonic() - start:.0f} s"
