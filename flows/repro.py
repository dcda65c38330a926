"""The pipeline by DVC alone, as `make repro` runs it: `python -m flows.repro`.

A stage reports its failure or interruption itself, in one line. DVC would add lines of its own, and before
the first training one about a missing file, so its log is off. Errors that only DVC knows of (dvc.yaml, its
lock) are reported here.
"""

from __future__ import annotations

import logging
import sys

INTERRUPTED = 130  # 128 + SIGINT, as from a shell


def main() -> int:
    """Run what has changed; returns the status: that of the stage which failed, 130 after Ctrl-C."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.exceptions import StageCmdFailedError

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    try:
        with Repo() as repo:
            repo.reproduce()
    except KeyboardInterrupt:
        print("akgp: interrupted; run it again to resume", file=sys.stderr)
        return INTERRUPTED
    except DvcException as error:
        # DVC wraps the failure of a stage, or of a disk, in one or two errors of its own.
        cause: BaseException = error
        while not isinstance(cause, StageCmdFailedError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, StageCmdFailedError):
            return status_of(cause)
        reason = f" ({cause})" if isinstance(cause, OSError) else ""
        print(f"akgp: dvc: {' '.join(f'{error}{reason}'.split())}", file=sys.stderr)
        return 1
    return 0


def status_of(error: BaseException) -> int:
    """Exit status of the failed stage as a shell gives it; 1 where it is not known.

    DVC's exception has it only in the message: "exited with 130".
    """
    last = str(error).rsplit(" ", 1)[-1]
    status = int(last) if last.lstrip("-").isdigit() else 1
    return 128 - status if status < 0 else status  # negative: ended by that signal


if __name__ == "__main__":
    sys.exit(main())
