"""What an error of another library says, as a part of one line of ours."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Of its message; its type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def one_line(error: BaseException) -> str:
    """Its kind and its whole message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def message(error: BaseException) -> str:
    """Its whole message, with its kind where the message would not say that."""
    text = " ".join(str(error).split())
    plain = isinstance(error, (RuntimeError, ValueError)) and text
    return text if plain else f"{type(error).__name__}: {text}".removesuffix(": ")
