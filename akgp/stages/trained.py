"""What the teacher and the distill stage share: a training on the prepared splits, step by step."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from torch import nn

from akgp.data import read_split, read_summary
from akgp.params import Training
from akgp.stages.worker import Step, device
from akgp.stages.workspace import Task
from akgp.training import Objective, train


def trained(
    model: nn.Module, training: Training, objective: Objective, task: Task, state: dict[str, Any] | None
) -> Generator[Step, None, list[dict[str, float]]]:
    """Train `model` in place, a `Step` an epoch; returns the history, a row an epoch.

    The history is part of the state, so that it is whole after an interruption too.
    """
    data = task.workspace.data
    summary = read_summary(data)
    history: list[dict[str, float]] = list(state["history"]) if state else []
    for epoch in train(
        model,
        read_split(data, "train"),
        read_split(data, "validation"),
        mean=summary.mean,
        std=summary.std,
        params=training,
        objective=objective,
        seed=task.params.seed,
        device=device(task),
        state=state["training"] if state else None,
    ):
        history.append(epoch.row)
        yield Step(epoch.row, {"training": epoch.state, "history": history})
    model.cpu()
    return history


def kept_top1(history: Sequence[Mapping[str, float]], keep: str) -> float:
    """Validation top-1 (%) of the weights that were kept: those of the `best` or the `last` epoch."""
    accuracies = [row["val_top1"] for row in history]
    return max(accuracies) if keep == "best" else accuracies[-1]
