"""What a worker has to say on its way: warnings of akgp's loggers travel to the driver with the next row."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

SAID = "said"
"""Key of a row: messages for the user, which the driver logs."""


@contextlib.contextmanager
def noticed() -> Iterator[list[str]]:
    """The messages that akgp's loggers warn of in this block, in order; once each."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() not in messages:
                messages.append(record.getMessage())

    keep, logger = Keep(logging.WARNING), logging.getLogger("akgp")
    logger.addHandler(keep)
    try:
        yield messages
    finally:
        logger.removeHandler(keep)


def with_notices(row: dict[str, Any], messages: list[str], told: int) -> dict[str, Any]:
    """The row with the messages after the first `told`, if there are any."""
    return row | {SAID: [*row.get(SAID, ()), *messages[told:]]} if messages[told:] else row
