"""The pipeline by DVC alone, as `make repro` runs it: `python -m flows.repro`.

A stage reports its failure or interruption itself, in one line. DVC would add lines of its own, and before
the first training one about a missing file, so its log is off. Errors that only DVC knows of (dvc.yaml, its
lock) are reported here.
"""

from __future__ import annotations

import argparse
import logging
import sys

INTERRUPTED = 130  # 128 + SIGINT, as from a shell


def reproduce() -> int:
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
    except (DvcException, OSError) as error:
        # DVC wraps the failure of a stage in one or two errors of its own.
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, StageCmdFailedError):
                return status_of(cause)
            cause = cause.__cause__
        print(f"akgp: dvc: {explanation(error)}", file=sys.stderr)
        return 1
    return 0


def explanation(error: BaseException) -> str:
    """What went wrong, in one line. DVC's ReproductionError names the stage alone; its cause says why.

    The first paragraph of a message is taken: in the next one, DVC advises to remove its files by hand.
    """
    from dvc.exceptions import ReproductionError

    text = " ".join(str(error).partition("\n\n")[0].split())
    if isinstance(error, ReproductionError) and error.__cause__ is not None:
        return f"{text}: {explanation(error.__cause__)}"
    return text or type(error).__name__


def status_of(error: BaseException) -> int:
    """Exit status of the failed stage as a shell gives it; 1 where it is not known.

    DVC's exception has it only in the message: "exited with 130".
    """
    last = str(error).rsplit(" ", 1)[-1]
    status = int(last) if last.lstrip("-").isdigit() else 1
    return 128 - status if status < 0 else status  # negative: ended by that signal


def main() -> None:
    argparse.ArgumentParser(prog="python -m flows.repro", description="Run what has changed.").parse_args()
    sys.exit(reproduce())


if __name__ == "__main__":
    main()
