"""The end of the command `akgp`: messages and exit statuses.

An error about the input is one line on standard error and status 1, what a gate rejects status 3; an
interruption is one line and status 130 (143 after SIGTERM, 129 where its terminal was closed).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from akgp.io.errors import DISK_REFUSALS
from akgp.workspace import GateError

INTERRUPTED = 128 + signal.SIGINT

_received: list[int] = []  # signals to end but SIGINT, which Python and asyncio turn into an exception
_resumable: list[bool] = []  # whether the command that runs can be resumed


def run(command: Callable[[], object]) -> None:
    """Run `command`, then exit as described above. AKGP_TRACEBACK=1 shows an error's traceback."""
    _received.clear()
    _resumable.clear()
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, _terminate)
    try:
        command()
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else None
        if _received or code == INTERRUPTED or isinstance(error, KeyboardInterrupt):
            # By the signal: libraries turn it into an exit, an interruption or an error of their own.
            complain("interrupted; run it again to resume" if _resumable else "interrupted")
            sys.exit(128 + _received[0] if _received else INTERRUPTED)
        if not isinstance(error, (ValueError, OSError)):
            raise
        if os.environ.get("AKGP_TRACEBACK") or not is_for_the_user(error):
            raise
        complain(str(error) or type(error).__name__)
        sys.exit(error.status if isinstance(error, GateError) else 1)


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Mark a block that resumes from its last epoch when the command is run again."""
    _resumable.append(True)
    yield
    _resumable.pop()


def complain(text: str) -> None:
    """Print on standard error, each line with the prefix `akgp:`; a closed pipe is no error."""
    with contextlib.suppress(OSError):
        for line in text.splitlines():
            print(f"akgp: {line}", file=sys.stderr, flush=True)


def is_for_the_user(error: Exception) -> bool:
    """Whether `error` is about the input: of a type of akgp's, or a ValueError raised in akgp's own code.

    An OSError counts too if it names a file, or says that a disk takes no more.
    """
    if isinstance(error, OSError):
        return error.filename is not None or error.errno in DISK_REFUSALS
    if type(error).__module__.startswith("akgp."):
        return True
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].startswith("akgp.") and not frames[-1].startswith("akgp.cli")


def _terminate(signum: int, _frame: object) -> NoReturn:
    _received.append(signum)
    if signum == signal.SIGHUP:  # which a shell may repeat: it would cut the ending short
        signal.signal(signum, signal.SIG_IGN)
    sys.exit(128 + signum)  # unwinds, so that Ray is stopped and half-written folders are removed
