"""teacher: train one dense network, or load it from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from akgp import artifacts, models
from akgp.data import BatchSource, read_summary
from akgp.io.atomic import write_json
from akgp.params.training_defaults import announcement, dense_training
from akgp.stages.network_files import SOURCES, digests, located
from akgp.stages.normalization import read_source, summary_for
from akgp.stages.notices import NOTICES, captured_warnings
from akgp.stages.training_steps import (
    best_epoch_metrics,
    epochs_to_steps,
    options,
    require_better_than_chance,
    step_size,
)
from akgp.training import cross_entropy, evaluate, train
from akgp.workspace import METRICS, Step, Task

log = logging.getLogger(__name__)

LEAK = (
    "networks.%s.checkpoint: images that it was trained on may be among the test images, drawn here: "
    "its accuracy may read too high, and its student's too; folders train/ and test/ keep them apart"
)


def compute(task: Task, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Train (or load) the network; write it with its history and metrics."""
    assert task.network is not None
    network = task.params.networks[task.network]
    if network.trained:
        yield from _from_checkpoint(task, out)
    else:
        source = read_source(task, "train", task.network)
        used = dense_training(task.params, task.network, len(source))
        if state is None and (line := announcement(task.params.teacher, used, len(source))):
            yield Step({NOTICES: [line]})
        yield from train_dense(task, source, out, state)
    write_json(out / SOURCES, digests(network, task.root))


def train_dense(task: Task, source: BatchSource, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Train the task's network on these images; write it with its history and metrics."""
    assert task.network is not None
    model = build_network(task)
    training = dense_training(task.params, task.network, len(source))
    artifacts.describe(model)  # fails before the training rather than after it
    summary = summary_for(task, task.network)
    with captured_warnings() as warnings:
        epochs = train(
            model,
            source,
            read_source(task, "validation", task.network),
            objective=cross_entropy(training.label_smoothing),
            **options(task, training, state),
        )
        history = yield from epochs_to_steps(epochs, state)
        require_better_than_chance(history, task, summary)
    _write(task, model.cpu(), history, {"warnings": warnings} | step_size(training), out)


def _from_checkpoint(task: Task, out: Path) -> Iterator[Step]:
    model = build_network(task)
    summary = summary_for(task, task.network)
    with captured_warnings() as warnings:
        measured = evaluate(model, read_source(task, "validation", task.network))
        row = {
            "epoch": 0,
            "val_loss": measured.loss,
            "val_top1": measured.top1,
            "val_balanced_top1": measured.balanced_top1,
        }
        require_better_than_chance([row], task, summary)
        if task.params.data.splits.test is not None:
            log.warning(LEAK, task.network)
    yield Step(row)
    _write(task, model, [row], {"warnings": warnings}, out)


def build_network(task: Task) -> nn.Module:
    """Build the task's network, with the weights of its checkpoint if it has one."""
    assert task.network is not None
    network, summary = task.params.networks[task.network], read_summary(task.workspace.data)
    torch.manual_seed(task.params.seed_of(task.network))  # for the new weights; the same on every worker
    model = models.build(
        network,
        num_classes=len(summary.classes),
        in_channels=summary.channels,
        image_size=summary.image_size,
    )
    if network.checkpoint:
        models.load_checkpoint(model, located(network.checkpoint, task.root), other_classes=network.finetune)
    return model


def _write(
    task: Task, model: nn.Module, history: list[dict[str, float]], more: dict[str, Any], out: Path
) -> None:
    artifacts.save(model, out)
    write_json(out / "history.json", history)
    assert task.network is not None
    own = task.params.networks[task.network].model_dump(include={"mean", "std"}, exclude_none=True)
    # Its own normalisation is written too, so that DVC runs the later stages again when it changes.
    write_json(out / METRICS, best_epoch_metrics(history, task.params.teacher.keep) | more | own)
