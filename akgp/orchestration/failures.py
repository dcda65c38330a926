"""What went wrong in a worker, in the user's terms: an error that would come again, or a worker that died.

A worker tells its errors as one line (`told`), which the driver then sorts out (`raise_cause`): only a loss
is worth another attempt. torch is imported by the functions that need it.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from akgp.io.errors import first_line
from akgp.workspace import StageError, Task


class WorkerLost(StageError):
    """A worker or its node died; the computation can be resumed from its last step."""


class ComputationError(StageError):
    """A computation raised an error that is not ours; the same computation would raise it again."""


@contextlib.contextmanager
def told(task: Task, here: Path) -> Iterator[None]:
    """Raise errors of the block as one line that names the line of the user's code, if any, by `in_terms`.

    Args:
        here: the workspace as this worker has it, perhaps a copy: the message names the user's own.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not error.code:  # how Ray Tune stops a trial
            raise
        line = in_terms(task.label, error)
        if here != task.root and str(here) in str(line):
            line = ComputationError(str(line).replace(str(here), str(task.root)))
        if line is error:
            raise
        raise line from error


def in_terms(label: str, error: BaseException) -> BaseException:
    """`error` itself where it is about the input, or about a peer; otherwise a ComputationError that says it.

    Only types of ours and Python's survive the way to the driver for certain: others may not be unpickled.
    """
    import torch

    from akgp.io.errors import one_line
    from akgp.models.user_code import at

    error = getattr(error, "cause", None) or error  # of another task of Ray's
    where = at(error)
    plain = type(error).__module__ == "builtins" and isinstance(error, (ValueError, OSError))
    if misses_a_peer(error) or type(error).__module__.startswith("akgp.") or (plain and not where):
        return error
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return ComputationError(
            f"{label}: memory does not suffice ({first_line(error)}): lower batch_size, or take a smaller "
            "image_size or network"
        )
    return ComputationError(f"{label}: {one_line(error)}{where or f'; {_last(error)}'}")


def raise_cause(label: str, error: Exception, failures: list[Exception]) -> NoReturn:
    """Raise what went wrong in the user's terms: the input, a disk, a worker that died.

    What the computation raised would come again, so it is raised here, as `told` has phrased it.

    Args:
        error: as Ray tells it.
        failures: of the workers: what the computation raised, or an error of Ray's, with that as its `cause`
            if there is one.
    """
    raised = [cause for failure in failures if (cause := _raised(failure))]
    for cause in (*raised, *failures):
        if isinstance(cause, OSError) and cause.filename is None:  # a store's, or a full disk's
            raise StageError(
                f"{label}: a file can't be read or written ({first_line(cause)}); `dvc repro` resumes from "
                "its last epoch"
            ) from error
        if isinstance(cause, (ValueError, OSError)):
            raise cause from error
    if (ours := next((cause for cause in raised if not misses_a_peer(cause)), None)) is not None:
        raise ComputationError(f"{label}: {type(ours).__name__}: {first_line(ours)}") from error
    raise WorkerLost(
        f"{label}: a worker died ({first_line(failures[0])}); `dvc repro` resumes from its last epoch"
    ) from error


def misses_a_peer(error: BaseException) -> bool:
    """Whether a worker says that another one, with which it computes, is gone."""
    import torch

    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()


def _raised(failure: Exception) -> BaseException | None:
    """What the computation raised; None: Ray itself says that a worker is gone or cannot be started."""
    cause = getattr(failure, "cause", None)
    if isinstance(cause, BaseException):
        return cause
    return None if type(failure).__module__.partition(".")[0] == "ray" else failure


def _last(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}" if frames else "no traceback"
