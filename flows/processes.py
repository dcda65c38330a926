"""Runs commands as processes that end with the flow: none is left computing after a cancellation."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, NoReturn

RUN_WITH_PARENT = str(Path(__file__).with_name("run_with_parent.py"))
GRACE_SECONDS = 10  # between SIGTERM and SIGKILL: a stage needs some to stop its Ray
TAIL_LINES = 5


class CommandError(RuntimeError):
    """A command ended with a status other than 0; the message has its last lines."""

    @property
    def stage_status(self) -> int | None:
        """The status of the stage that a `dvc repro` ran, which it says; None if it says none."""
        said = re.findall(r"exited with (-?\d+)", str(self))
        return int(said[-1]) if said else None


def run(command: list[str], folder: Path) -> str:
    """Run `python -m command` of this environment in `folder`; returns its standard output.

    Its standard error is forwarded as it comes. The command leads a new process group, which is terminated
    as a whole if waiting for it is interrupted by any exception, and killed GRACE_SECONDS later. If this
    process is killed, the command is terminated too (on Linux).

    Raises:
        CommandError: its status is not 0.
    """
    programs = Path(sys.executable).parent  # first in PATH, as in an activated environment
    tail, output, ending = bytearray(), bytearray(), threading.Event()
    with subprocess.Popen(
        [sys.executable, "-P", RUN_WITH_PARENT, str(os.getpid()), *command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
    ) as process:
        threads = []
        try:
            for source, content, screen in (
                (process.stderr, tail, sys.stderr),
                (process.stdout, output, None),
            ):
                assert source is not None
                copying = (source, content, screen, ending)
                threads.append(threading.Thread(target=_copy, args=copying, daemon=True))
                threads[-1].start()
            status = process.wait()
        except BaseException:  # a KeyboardInterrupt, or Prefect's cancellation
            ending.set()
            _end(process)
            raise
        finally:
            for thread in threads:
                if thread.ident is not None:  # it was started before an interruption
                    thread.join()
    if status != 0:
        raise CommandError(f"{' '.join(command)}: exit status {status}\n{_last_lines(tail)}".rstrip())
    return output.decode(errors="replace")


def end_as_by_ctrl_c() -> None:
    """Let SIGTERM, and a closed terminal's SIGHUP, end this process and what it started, as Ctrl-C does.

    Only the first does: a shell may repeat its terminal's SIGHUP, which would cut the ending short.
    Where SIGHUP is ignored, as under nohup, it stays so.
    """

    def interrupt(_number: int, _frame: object) -> NoReturn:
        for number in caught:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    ends = (signal.SIGTERM, signal.SIGHUP)
    caught = [number for number in ends if signal.getsignal(number) is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, interrupt)


def _copy(source: IO[bytes], content: bytearray, screen: IO[str] | None, ending: threading.Event) -> None:
    """Read `source` into `content` and forward it by chunks, as a progress bar has no line ends.

    Nothing is forwarded once `ending` is set: an interruption is said once, by the one who interrupts.
    """
    shown = b""
    while chunk := os.read(source.fileno(), 65536):
        content += chunk
        if screen is not None and not ending.is_set():
            shown = chunk
            with contextlib.suppress(OSError):  # nobody reads it any more; the process must not wait for that
                screen.write(chunk.decode(errors="replace"))
                screen.flush()
    if screen is not None and shown and not shown.endswith(b"\n"):
        with contextlib.suppress(OSError):
            screen.write("\n")  # the next line is not of this progress bar


def _last_lines(error: bytes | bytearray) -> str:
    """The last lines as a terminal would show them: a carriage return starts a line over."""
    lines = (
        line.rpartition("\r")[2] for line in error.decode(errors="replace").replace("\r\n", "\n").split("\n")
    )
    return "\n".join(deque((line for line in lines if line.strip()), maxlen=TAIL_LINES))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the process group, then kill what is left of it."""
    number: int
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_SECONDS
        while _signalled(process, number) and time.monotonic() < deadline:
            number = 0  # signal 0 only tests whether a process is left
            time.sleep(0.05)


def _signalled(process: subprocess.Popen[bytes], number: int) -> bool:
    process.poll()  # a zombie, until it is waited for, is still a member of its group
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
