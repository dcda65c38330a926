"""The pipeline by DVC alone, as `make repro` runs it: `python -m flows.repro`.

A stage says itself, in one line, what went wrong or that it was interrupted. DVC would add its own lines,
and where nothing was trained yet one about a missing file. What it alone knows of (dvc.yaml, its lock)
is said here.
"""

from __future__ import annotations

import logging
import sys

INTERRUPTED = 130


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
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, StageCmdFailedError):
                return status_of(cause)
            cause = cause.__cause__
        print(f"akgp: dvc: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def status_of(error: BaseException) -> int:
    """Exit status of the failed stage as a shell gives it; 1 where it is not known.

    DVC knows it, but of its exception only the message says it: "exited with 130".
    """
    last = str(error).rsplit(" ", 1)[-1]
    status = int(last) if last.lstrip("-").isdigit() else 1
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main())
