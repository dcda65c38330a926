"""The command `akgp`, run in this process."""

from __future__ import annotations

import signal
import sys

import pytest

from akgp import cli


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of `akgp arguments`, run in this process."""
    monkeypatch.setattr(sys, "argv", ["akgp", *arguments])
    before = signal.getsignal(signal.SIGTERM)
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0
