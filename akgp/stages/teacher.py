"""teacher: train one dense network, or take it over from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from akgp import artifacts, models
from akgp.data import Images, read_split, read_summary
from akgp.stages.sources import SOURCES, digests, located
from akgp.stages.trained import kept, options, steps
from akgp.stages.worker import Step
from akgp.stages.workspace import Task, write_json
from akgp.training import cross_entropy, evaluate, train


def compute(task: Task, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Train (or load) the network; write it with its history and metrics."""
    assert task.network is not None
    network = task.params.networks[task.network]
    if network.checkpoint:
        yield from _taken_over(task, located(network.checkpoint, task.root), out)
    else:
        yield from train_dense(task, read_split(task.workspace.data, "train"), out, state)
    write_json(out / SOURCES, digests(network, task.root))


def train_dense(task: Task, images: Images, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Train the network that the task names on `images`; write it with its history and metrics."""
    model, training = _built(task), task.params.teacher
    artifacts.describe(model)  # fails before the training rather than after it
    data = task.workspace.data
    epochs = train(
        model,
        images,
        read_split(data, "validation"),
        objective=cross_entropy(training.label_smoothing),
        **options(task, training, read_summary(data), state),
    )
    history, _ = yield from steps(epochs, state)
    _write(task, model.cpu(), history, out)


def _taken_over(task: Task, checkpoint: str, out: Path) -> Iterator[Step]:
    model, data = _built(task), task.workspace.data
    summary = read_summary(data)
    models.load_checkpoint(model, checkpoint)
    found = evaluate(model, read_split(data, "validation"), mean=summary.mean, std=summary.std)
    row = {
        "epoch": 0,
        "val_loss": found.loss,
        "val_top1": found.top1,
        "val_balanced_top1": found.balanced_top1,
    }
    yield Step(row)
    _write(task, model, [row], out)


def _built(task: Task) -> nn.Module:
    assert task.network is not None
    summary = read_summary(task.workspace.data)
    torch.manual_seed(task.params.seed)
    return models.build(
        task.params.networks[task.network],
        num_classes=len(summary.classes),
        in_channels=summary.channels,
        image_size=summary.image_size,
    )


def _write(task: Task, model: nn.Module, history: list[dict[str, float]], out: Path) -> None:
    artifacts.save(model, out)
    write_json(out / "history.json", history)
    write_json(out / "metrics.json", kept(history, task.params.teacher.keep))
