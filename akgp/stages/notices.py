"""Messages of a worker for the user: warnings of akgp's loggers go to the driver with the next row.

Ray's own forwarding of logs is off: a local Ray starts no log monitor.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

NOTICES = "notices"
"""Key of a row: messages for the user, which the driver logs."""


@contextlib.contextmanager
def captured_warnings() -> Iterator[list[str]]:
    """The warnings of akgp's loggers in this block, in order, once each."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() not in messages:
                messages.append(record.getMessage())

    collector, logger = Collect(logging.WARNING), logging.getLogger("akgp")
    logger.addHandler(collector)
    try:
        yield messages
    finally:
        logger.removeHandler(collector)


def with_notices(row: dict[str, Any], messages: list[str], reported: int) -> dict[str, Any]:
    """The row, with the messages after the first `reported` if there are any."""
    return row | {NOTICES: [*row.get(NOTICES, ()), *messages[reported:]]} if messages[reported:] else row
