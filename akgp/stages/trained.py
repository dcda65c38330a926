"""What the stages that train share: a training judged on the validation split, step by step."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from akgp.data import Summary
from akgp.params import Training
from akgp.stages.worker import Step, device
from akgp.stages.workspace import Task
from akgp.training import Epoch

Row = dict[str, float]


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


def kept_top1(history: Sequence[Mapping[str, float]], keep: str) -> float:
    """Validation top-1 (%) of the weights that were kept: those of the `best` or the `last` epoch."""
    accuracies = [row["val_top1"] for row in history]
    return max(accuracies) if keep == "best" else accuracies[-1]
