"""What the stages that train share: steps, history, and checks on the validation split."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

from akgp.data import Summary
from akgp.params import Training
from akgp.params.training_defaults import dense_training
from akgp.training import Epoch, merit
from akgp.workspace import StageError, Step, Task

log = logging.getLogger(__name__)

Row = dict[str, float]

ACCURACIES = ("val_top1", "val_balanced_top1")


def options(task: Task, training: Training, state: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments of every training of a dense network besides it, its images and objective.

    Args:
        state: that of a `Step` of `epochs_to_steps`, to resume from.
    """
    assert task.network is not None
    return {
        "params": training,
        "seed": task.params.seed_of(task.network),
        "device": task.device,
        "state": state["training"] if state else None,
    }


def epochs_to_steps(
    epochs: Iterable[Epoch], state: dict[str, Any] | None
) -> Generator[Step, None, list[Row]]:
    """A `Step` for each epoch; returns the history, a row an epoch.

    The history is part of the state, so that it is complete after an interruption too. It leaves out the
    epochs of a branch, whose steps repeat the last row.
    """
    history: list[Row] = list(state["history"]) if state else []
    for epoch in epochs:
        if "branch" not in epoch.row:
            history.append(epoch.row)
        yield Step(history[-1], {"training": epoch.state, "history": history})
    return history


def best_epoch_metrics(history: Sequence[Mapping[str, float]], keep: str) -> Row:
    """The ACCURACIES (%) of the epoch whose weights `Training.keep` selects."""
    row = max(history, key=lambda row: merit(row, keep))
    return {key: row[key] for key in ACCURACIES}


def step_size(training: Training) -> dict[str, Any]:
    """For the metrics: the batch size and the peak learning rate that were used."""
    return {"batch_size": training.batch_size, "learning_rate": training.learning_rate}


def require_better_than_chance(history: Sequence[Mapping[str, float]], task: Task, summary: Summary) -> None:
    """Refuse a network that has diverged, and warn of one that classifies no better than chance.

    Chance is a mean accuracy over the C classes of up to 1 / C plus two standard errors, for the number of
    validation images. A network at chance has diverged if its loss exceeds twice ln C nats, that of equal
    logits.

    Raises:
        StageError: it has diverged, or gives logits that are not finite.
    """
    assert task.network is not None
    network = task.params.networks[task.network]
    training = dense_training(task.params, task.network, sum(summary.counts["train"]))
    # The best epoch by the mean over classes: on a long tail the largest class alone is better than chance.
    best = max(history, key=lambda row: row["val_balanced_top1"])
    chance = 1 / len(summary.classes)
    spread = 2 * math.sqrt(chance * (1 - chance) / sum(summary.counts["validation"]))
    loss = best["val_loss"]
    if math.isfinite(loss) and best["val_balanced_top1"] >= 100 * min(chance + spread, 1):
        return
    verdict = (
        f"networks.{task.network}: classifies {best['val_balanced_top1']:.1f} % of the validation images "
        f"(mean over classes), no more than chance ({100 * chance:.1f} %)"
    )
    if network.trained:
        remedy = "are its classes in this order, its images of this size, colour and normalisation?"
        if not math.isfinite(loss):
            raise StageError(
                f"networks.{task.network}.checkpoint: its loss on validation images is {loss}: {remedy}"
            )
        log.warning("%s: %s", verdict, remedy)
    elif max(row["loss"] for row in history[-1:]) > 2 * math.log(len(summary.classes)):
        raise StageError(
            f"{verdict}, and its loss is {history[-1]['loss']:.3g}: the training has diverged; lower "
            f"teacher.learning_rate ({training.learning_rate}) or raise teacher.warmup_epochs "
            f"({training.warmup:g})"
        )
    else:
        log.warning(
            "%s: raise teacher.epochs (%s), or change teacher.learning_rate (%s)",
            verdict, training.epochs, training.learning_rate,
        )  # fmt: skip
