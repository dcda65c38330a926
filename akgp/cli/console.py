"""Text output in any locale: UTF-8 for files and their names, and on a terminal what it can show."""

from __future__ import annotations

import io
import os
import sys

UTF8_MODE = "PYTHONUTF8"


def set_up() -> None:
    """Let this program and those it starts read file names as UTF-8, and print without failing.

    Without a UTF-8 locale Python may take file names as ASCII, as would Ray's workers. The interpreter reads
    the setting when it starts, so it is started again in the same process.
    """
    # The variable is set before: a second start that changed nothing must not lead to a third.
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get(UTF8_MODE) != "1":
        os.environ[UTF8_MODE] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        show_what_can_be_shown(stream)


def show_what_can_be_shown(stream: object) -> None:
    """Let a stream print `?` for letters that its encoding lacks, such as × or − in ASCII."""
    if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
        stream.reconfigure(errors="replace")
