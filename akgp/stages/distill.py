"""distill: recover the pruned student from its teachers and the true labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from akgp import artifacts
from akgp.data import Images, Summary, read_split, read_summary
from akgp.data.batches import Batch
from akgp.distillation import Ensemble, by_group, distillation_loss, log_prior, measure, teacher_weights
from akgp.evaluation import predict_logits
from akgp.params import Distill
from akgp.stages.prune import write_table
from akgp.stages.ray import Step, device, fit
from akgp.stages.trained import kept_top1, trained
from akgp.stages.workspace import Task, write_json
from akgp.training import Objective, autocast_dtype

PARAMS = ("seed", "teachers", "distill")


def run(task: Task) -> None:
    workspace = task.workspace
    fit(
        task,
        compute,
        keys=PARAMS,
        inputs=[workspace.data, workspace.pruned, *(workspace.dense(name) for name in task.params.teachers)],
        steps=task.params.distill.training.epochs,
        destination=workspace.student,
        parallel=True,
    )


def compute(task: Task, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Distill; write the student, what the data is like, who was trusted where, history and metrics."""
    workspace, params = task.workspace, task.params.distill
    data = workspace.data
    summary = read_summary(data)
    images = read_split(data, "train")
    teacher = load_teacher(task)

    teacher.to(device(task))
    logits = _logits(teacher, images, summary, task)
    calibration = read_split(data, "calibration")
    characteristics = measure(
        _logits(teacher, calibration, summary, task),
        calibration.labels,
        train_logits=logits,
        train_labels=images.labels,
    )
    weights = teacher_weights(params, characteristics, logits, images.labels)
    prior = log_prior(params, characteristics)
    on = device(task)
    objective = guided(teacher, weights.to(on), None if prior is None else prior.to(on), params)

    student = artifacts.load(workspace.pruned)
    history = yield from trained(student, params.training, objective, task, state)

    artifacts.save(student, out)
    write_json(
        out / "characteristics.json",
        characteristics.model_dump(mode="json") | {"sentence": characteristics.sentence(summary.classes)},
    )
    groups = by_group(weights, images.labels, len(summary.classes))
    write_table(out / "weights.csv", [row | {"class": summary.classes[int(row["class"])]} for row in groups])
    write_json(out / "history.json", history)
    write_json(
        out / "metrics.json",
        {
            "val_top1": kept_top1(history, params.training.keep),
            "teacher_weight": float(weights.mean()),
        },
    )


def load_teacher(task: Task) -> nn.Module:
    """The network whose logits teach: params.yaml's one teacher, or the ensemble of several."""
    networks = [artifacts.load(task.workspace.dense(name)) for name in task.params.teachers]
    return networks[0] if len(networks) == 1 else Ensemble(networks)


def guided(teacher: nn.Module, weights: Tensor, prior: Tensor | None, params: Distill) -> Objective:
    """The distillation objective.

    Args:
        teacher: gives logits [B, C] for the very inputs that the student sees, in its precision.
        weights: [N], the teacher's weight for each training image.
        prior: [C], log class prior added to the student's logits in training; None: no shift.
    """
    needed = bool((weights > 0).any())
    teacher.requires_grad_(False).eval()
    if params.training.channels_last:
        teacher.to(memory_format=torch.channels_last)

    def objective(batch: Batch, logits: Tensor) -> Tensor:
        dtype = autocast_dtype(params.training.precision, logits.device)
        with torch.no_grad(), torch.autocast(logits.device.type, dtype=dtype, enabled=dtype is not None):
            guide = teacher(batch.inputs).float() if needed else torch.zeros_like(logits)
        if prior is not None:
            logits = logits + prior
        return distillation_loss(
            logits,
            guide,
            batch.labels,
            teacher_weight=weights[batch.index],
            temperature=params.temperature,
            label_smoothing=params.training.label_smoothing,
        )

    return objective


def _logits(model: nn.Module, images: Images, summary: Summary, task: Task) -> Tensor:
    return predict_logits(model, images, mean=summary.mean, std=summary.std, device=device(task))
