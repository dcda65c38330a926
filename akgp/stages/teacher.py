"""teacher: train one dense network, or take it over from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from akgp import artifacts, models
from akgp.data import read_split, read_summary
from akgp.stages.ray import fit
from akgp.stages.sources import SOURCES, digests, located, sources
from akgp.stages.trained import kept_top1, trained
from akgp.stages.worker import Step
from akgp.stages.workspace import Task, write_json
from akgp.training import cross_entropy, evaluate

PARAMS = ("seed", "networks.{network}", "teacher")


def run(task: Task) -> None:
    assert task.network is not None
    fit(
        task,
        compute,
        keys=tuple(key.format(network=task.network) for key in PARAMS),
        inputs=[task.workspace.data, *sources(task.params.networks[task.network], task.root)],
        steps=1 if task.params.networks[task.network].checkpoint else task.params.teacher.epochs,
        destination=task.workspace.dense(task.network),
        parallel=True,
    )


def compute(task: Task, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Train (or load) the network; write it with its history and metrics."""
    assert task.network is not None
    network = task.params.networks[task.network]
    data = task.workspace.data
    summary = read_summary(data)
    torch.manual_seed(task.params.seed)
    model = models.build(
        network,
        num_classes=len(summary.classes),
        in_channels=summary.channels,
        image_size=summary.image_size,
    )
    if network.checkpoint:
        models.load_checkpoint(model, located(network.checkpoint, task.root))
        loss, top1 = evaluate(model, read_split(data, "validation"), mean=summary.mean, std=summary.std)
        history = [{"epoch": 0, "val_loss": loss, "val_top1": top1}]
        yield Step(history[0])
    else:
        artifacts.describe(model)  # fails before the training rather than after it
        history = yield from trained(
            model, task.params.teacher, cross_entropy(task.params.teacher.label_smoothing), task, state
        )
    artifacts.save(model, out)
    write_json(out / SOURCES, digests(network, task.root))
    write_json(out / "history.json", history)
    write_json(out / "metrics.json", {"val_top1": kept_top1(history, task.params.teacher.keep)})
