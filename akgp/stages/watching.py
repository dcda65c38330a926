"""Runs what may take long in a thread, and says meanwhile what it is doing."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread
from typing import TypeVar

from akgp.io.search import search

T = TypeVar("T")


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
