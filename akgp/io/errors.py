"""Messages of other libraries' errors as parts of one-line messages; what a disk says that takes no more."""

from __future__ import annotations

import errno

DISK_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""The disk or a quota is full, a file would be too large, the file system is read-only."""


def first_line(error: BaseException) -> str:
    """The first non-empty line of an error's message, or its type if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def one_line(error: BaseException) -> str:
    """An error's type and whole message in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def message_or_type(error: BaseException) -> str:
    """An error's whole message in one line, or its type if there is none."""
    return " ".join(str(error).split()) or type(error).__name__


def message(error: BaseException) -> str:
    """An error's whole message in one line, after its type unless that is a mere RuntimeError or ValueError.

    A KeyError's message, for one, is only the key.
    """
    text = " ".join(str(error).split())
    speaks_for_itself = isinstance(error, (RuntimeError, ValueError)) and text
    return text if speaks_for_itself else f"{type(error).__name__}: {text}".removesuffix(": ")
