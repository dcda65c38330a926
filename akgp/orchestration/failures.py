"""Errors of workers in the user's terms: one that would be raised again, or a worker that died.

A worker raises its errors as one line (`errors_in_one_line`); the driver then classifies them
(`raise_cause`): only the loss of a worker is worth another attempt. torch is imported by the functions that
need it.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from akgp.io.errors import DISK_REFUSALS, first_line
from akgp.workspace import StageError, Task


class WorkerLost(StageError):
    """A worker or its node died; the computation can be resumed from its last step."""


class ComputationError(StageError):
    """A computation raised an error of the user's code or of a library, and would raise it again."""


@contextlib.contextmanager
def errors_in_one_line(task: Task, here: Path) -> Iterator[None]:
    """Raise errors of the block as one line, with the line of the user's code if it comes from there.

    Args:
        here: this worker's workspace, perhaps a downloaded copy: messages name the user's path instead.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not error.code:  # how Ray Tune stops a trial
            raise
        line = as_user_error(task.label, error)
        if here != task.root and str(here) in str(line):
            line = ComputationError(str(line).replace(str(here), str(task.root)))
        if line is error:
            raise
        raise line from error


def as_user_error(label: str, error: BaseException) -> BaseException:
    """`error` itself if it is about the input or a lost peer; otherwise a ComputationError with its message.

    An error is pickled on its way to the driver. Types of akgp and of Python can be unpickled there; a
    library's, or one of the user's own modules, perhaps not.
    """
    import torch

    from akgp.io.errors import one_line
    from akgp.models.user_code import at

    error = getattr(error, "cause", None) or error  # Ray wraps the error of another task of its own
    where = at(error)
    # Python's own errors are about the input only where no line of the user's network raised them.
    plain = type(error).__module__ == "builtins" and isinstance(error, (ValueError, OSError))
    if misses_a_peer(error) or type(error).__module__.startswith("akgp.") or (plain and not where):
        return error
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return ComputationError(
            f"{label}: memory does not suffice ({first_line(error)}): lower batch_size, or take a smaller "
            "image_size or network"
        )
    return ComputationError(f"{label}: {one_line(error)}{where or f'; {_last_frame(error)}'}")


def raise_cause(label: str, error: Exception, failures: list[Exception]) -> NoReturn:
    """Raise the cause of a failed job in the user's terms: the input, a disk, a worker that died.

    What the computation raised is raised here as `errors_in_one_line` has phrased it.

    Args:
        error: as Ray raised it.
        failures: of the workers: what the computation raised, or an error of Ray's, with that as its `cause`
            if there is one.
    """
    raised = [cause for failure in failures if (cause := _raised_by_computation(failure))]
    # Errors of the computation first: when one worker raises, Ray ends the others, whose loss is no cause.
    for cause in (*raised, *failures):
        # A store's, which names no file, or a full disk's.
        if isinstance(cause, OSError) and (cause.filename is None or cause.errno in DISK_REFUSALS):
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
    """Whether a worker failed because another one, with which it computes, has gone."""
    import torch

    # Gloo's own errors reach Python as other types, known by their text alone.
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()


def _raised_by_computation(failure: Exception) -> BaseException | None:
    """The error that the computation raised; None: Ray's own, of a worker that died or did not start."""
    cause = getattr(failure, "cause", None)
    if isinstance(cause, BaseException):
        return cause
    return None if type(failure).__module__.partition(".")[0] == "ray" else failure


def _last_frame(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}" if frames else "no traceback"
