"""distill: recover the pruned student from its teachers and the true labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from akgp import artifacts
from akgp.data import Images, Summary, read_split, read_summary
from akgp.distillation import Ensemble, by_group, guide, guided, log_prior, measure, teacher_weights
from akgp.evaluation import predict_logits
from akgp.stages.prune import write_table
from akgp.stages.ray import fit
from akgp.stages.trained import kept_top1, trained
from akgp.stages.worker import Step, device
from akgp.stages.workspace import Task, write_json
from akgp.training import autocast_dtype

PARAMS = ("seed", "teachers", "distill")
WEIGHT_COLUMNS = ("class", "mean", "p10", "p90", "n")


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
    teachers = _load_teachers(task)
    teacher = _as_one(teachers)
    on = device(task)

    teacher.to(on)
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
    dtype, channels_last = autocast_dtype(params.training.precision, on), params.training.channels_last
    objective = guided(
        [guide(network, dtype=dtype, channels_last=channels_last) for network in teachers],
        params,
        weights=None if weights is None else weights.to(on),
        prior=None if prior is None else prior.to(on),
    )

    student = artifacts.load(workspace.pruned)
    history = yield from trained(student, params.training, objective, task, state)

    artifacts.save(student, out)
    write_json(
        out / "characteristics.json",
        characteristics.model_dump(mode="json") | {"sentence": characteristics.sentence(summary.classes)},
    )
    _write_weights(out / "weights.csv", weights, images, summary)
    write_json(out / "history.json", history)
    write_json(
        out / "metrics.json",
        {
            "val_top1": kept_top1(history, params.training.keep),
            "teacher_weight": None if weights is None else float(weights.mean()),
        },
    )


def load_teacher(task: Task) -> nn.Module:
    """The network whose logits teach: params.yaml's one teacher, or the ensemble of several."""
    return _as_one(_load_teachers(task))


def _load_teachers(task: Task) -> list[nn.Module]:
    return [artifacts.load(task.workspace.dense(name)) for name in task.params.teachers]


def _as_one(teachers: Sequence[nn.Module]) -> nn.Module:
    return teachers[0] if len(teachers) == 1 else Ensemble(teachers)


def _logits(model: nn.Module, images: Images, summary: Summary, task: Task) -> Tensor:
    return predict_logits(model, images, mean=summary.mean, std=summary.std, device=device(task))


def _write_weights(file: Path, weights: Tensor | None, images: Images, summary: Summary) -> None:
    """The teacher's weight by class; the header alone where no weight was known before training."""
    if weights is None:
        file.write_text(",".join(WEIGHT_COLUMNS) + "\n")
        return
    groups = by_group(weights, images.labels, len(summary.classes))
    write_table(file, [row | {"class": summary.classes[int(row["class"])]} for row in groups])
