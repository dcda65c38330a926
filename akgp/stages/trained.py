"""What the stages that train share: a training judged on the validation split, step by step."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from akgp.data import Summary
from akgp.params import Training
from akgp.stages.worker import Step, device
from akgp.stages.workspace import Task
from akgp.training import JUDGED_BY, Epoch

Row = dict[str, float]

ACCURACIES = ("val_top1", "val_balanced_top1")


def options(task: Task, training: Training, summary: Summary, state: dict[str, Any] | None) -> dict[str, Any]:
    """What every training of a task is told besides its network, images and objective.

    Args:
        state: of a `Step` of `steps`, from which to go on.
    """
    return {
        "mean": summary.mean,
        "std": summary.std,
        "params": training,
        "seed": task.params.seed,
        "device": device(task),
        "state": state["training"] if state else None,
    }


def steps(
    epochs: Iterator[Epoch], state: dict[str, Any] | None
) -> Generator[Step, None, tuple[list[Row], dict[str, Any]]]:
    """A `Step` an epoch; returns the history, a row an epoch, and the training's last state.

    The history is part of the state, so that it is whole after an interruption too. An epoch of a
    branch is no part of it: its step repeats the last row.
    """
    history: list[Row] = list(state["history"]) if state else []
    training = state["training"] if state else {}
    for epoch in epochs:
        training = epoch.state
        if "branch" not in epoch.row:
            history.append(epoch.row)
        yield Step(history[-1], {"training": training, "history": history})
    return history, training


def kept(history: Sequence[Mapping[str, float]], keep: str) -> Row:
    """ACCURACIES (%) of the epoch whose weights are kept by `Training.keep`."""
    row = max(history, key=lambda row: row[JUDGED_BY[keep]])
    return {key: row[key] for key in ACCURACIES}
