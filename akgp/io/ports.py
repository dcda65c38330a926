"""Numbers of TCP ports as options of programs."""

from __future__ import annotations

import argparse


def tcp_port(text: str) -> int:
    """The number of a port: the type of an option of argparse."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"got {text!r}, must be from 1 to 65535")
    return int(text)
