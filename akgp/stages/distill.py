"""distill: recover the pruned student from its teachers and the true labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from akgp import artifacts
from akgp.data import Summary
from akgp.distillation import (
    DataProfile,
    LearnedTeachers,
    SelfDistillation,
    TeacherFn,
    WeightEstimate,
    branch_epochs,
    distillation_objective,
    log_prior,
    recorded,
    sentence,
    teacher_weights,
    train_measured,
    weighted_ensemble,
    weights_by_class,
)
from akgp.evaluation import count, predict_logits
from akgp.io.atomic import write_csv, write_json
from akgp.params import Distill, Params, Training
from akgp.params.training_defaults import announcement, resolved, student_training
from akgp.stages.evidence import DistillationData, read_distillation_data
from akgp.stages.notices import SAID
from akgp.stages.training_steps import best_epoch_metrics, epochs_to_steps, options, step_size
from akgp.training.loop import Objective, autocast_dtype, train
from akgp.workspace import Step, Task

WEIGHT_COLUMNS = ("class", "mean", "p10", "p90", "n")


def compute(task: Task, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Distill; write the student, what the data is like, who was trusted where, history and metrics."""
    lesson = read_distillation_data(task)
    if state is None:
        images = len(lesson.images)
        used = student_training(task.params, images)
        if said := announcement(task.params.distill.training, used, images):
            yield Step({SAID: [said]})
    yield from distill(task, lesson, out, state)


def distill(task: Task, lesson: DistillationData, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """`compute`, on a lesson that has been read."""
    params, summary = task.params.distill, lesson.summary
    student = artifacts.load(task.workspace.pruned)
    training = training_of(params, lesson.characteristics)
    training = resolved(training, len(lesson.images), workers=task.params.ray.counts())
    common = options(task, training, state)
    asks = params.strategy == "akgp" and params.w0 is None
    found, shares = (lesson.answered_w0(params) if asks else None) or (None, None)
    params = _with_w0(params, found.weight) if found else params
    learned: dict[str, Any] = {}
    guides = _guides(task, lesson, shares)

    def objective(params: Distill) -> Objective:
        return objective_of(params, student, lesson, guides, task.device, task.params.seed)

    if params.measures_w0:
        epochs = train_measured(
            student,
            lesson.images,
            lesson.validation,
            lesson.calibration,
            objective=lambda w0: objective(_with_w0(params, w0)),
            class_counts=torch.tensor(lesson.characteristics.class_counts),
            prior=params.w0_or_default,
            **common,
        )
        history, last = yield from epochs_to_steps(epochs, state)
        found = WeightEstimate(**last["measured"])
        params = _with_w0(params, found.weight)
    else:
        chosen = objective(params)
        epochs = train(student, lesson.images, lesson.validation, objective=chosen, **common)
        history, _ = yield from epochs_to_steps(epochs, state)
        learned = _learned(chosen, student, lesson, task)
    if found:
        learned["w0"] = vars(found)
    if shares is not None and len(shares) > 1:
        learned["teacher_weights"] = dict(zip(task.params.teachers, shares.tolist(), strict=True))

    weights = _weights(lesson, params)
    artifacts.save(student.cpu(), out)
    write_json(
        out / "characteristics.json",
        recorded(lesson.characteristics, lesson.summary.classes)
        | {
            "doubtful": lesson.characteristics.doubtful,
            "sentence": _sentence(lesson, task.params, found, learned.get("teacher_weights")),
            "folds": task.params.folds,
        },
    )
    _write_weights(out / "weights.csv", weights, lesson)
    write_json(out / "history.json", history)
    write_json(
        out / "metrics.json",
        best_epoch_metrics(history, training.keep)
        | {
            "compute": compute_of(params, student, summary),
            "teacher_weight": None if weights is None else float(weights.mean()),
            "folds": task.params.folds,
        }
        | step_size(training)
        | learned,
    )


def training_of(params: Distill, characteristics: DataProfile) -> Training:
    """`params.training`, but under logit adjustment the best epoch is the best by the mean over classes.

    The student is trained to predict as if all classes were equally frequent there, and a validation split
    that has a long tail too would prefer an epoch that has learnt this least.
    """
    adjusted = log_prior(params, characteristics) is not None
    if adjusted and params.training.keep == "best":
        return params.training.model_copy(update={"keep": "balanced"})
    return params.training


def compute_of(params: Distill, student: nn.Module, summary: Summary) -> float:
    """What the training of `student` computes, in plain trainings of it for as many epochs.

    Charged are the epochs of `measure_w0`'s branches, and of self-distillation's heads the MACs. What the
    teachers answer is not.

    Args:
        student: on the CPU.

    Raises:
        ValueError: it can't have the heads that are asked for, see `SelfDistillation`.
    """
    if params.measures_w0:
        _, branch = branch_epochs(params.training.epochs)
        return 1 + 2 * branch / params.training.epochs
    if params.strategy != "self":
        return 1.0
    example = _example(summary)
    objective = SelfDistillation(student, params, example, prior=None)
    objective.remove_hooks()
    heads = zip(objective.heads, objective.map_shapes, strict=True)
    macs = sum(count(head, torch.zeros(2, *shape)).macs for head, shape in heads)
    return 1 + macs / count(student, example).macs


def epochs_of_branches(params: Distill) -> int:
    """Epochs of the two branches by which w0 is measured."""
    return 2 * branch_epochs(params.training.epochs)[1]


def _with_w0(params: Distill, w0: float) -> Distill:
    return params.model_copy(update={"w0": w0})


def _weights(lesson: DistillationData, params: Distill) -> Tensor | None:
    doubted = lesson.doubted
    return teacher_weights(params, doubted.characteristics, doubted.logits, lesson.images.labels)


def _guides(task: Task, lesson: DistillationData, shares: Tensor | None) -> list[TeacherFn]:
    """The teachers, on the worker's device, as one if they have shares; none for strategy self."""
    params, on = task.params.distill, task.device
    if params.strategy == "self":
        return []
    dtype = autocast_dtype(params.training.precision, on)
    guides = [teacher.guide(on, dtype, params.training.channels_last) for teacher in lesson.teachers]
    return guides if shares is None else [weighted_ensemble(guides, shares.to(on))]


def objective_of(
    params: Distill,
    student: nn.Module,
    lesson: DistillationData,
    guides: Sequence[TeacherFn],
    on: torch.device,
    seed: int,
) -> Objective:
    """The objective of `params.strategy`, on the device `on`; its own parameters are drawn with `seed`."""
    prior = log_prior(params, lesson.characteristics)
    prior = None if prior is None else prior.to(on)
    torch.manual_seed(seed)
    if params.strategy == "self":
        return SelfDistillation(student, params, _example(lesson.summary), prior=prior)
    if params.strategy == "learned":
        return LearnedTeachers(guides, params, num_classes=len(lesson.summary.classes), prior=prior)
    weights = _weights(lesson, params)
    return distillation_objective(
        guides, params, weights=None if weights is None else weights.to(on), prior=prior
    )


def _learned(
    objective: Objective, student: nn.Module, lesson: DistillationData, task: Task
) -> dict[str, Any]:
    """Metrics of an objective that learns how far to trust each teacher.

    teacher_weights: the mean of each teacher's weight over the training images as they are, by name,
        at the end of the training.
    """
    if isinstance(objective, LearnedTeachers):
        logits = predict_logits(student, lesson.images, device=task.device)
        with torch.no_grad():
            means = objective.cpu().log_weights(logits).exp().mean(0)
        return {"teacher_weights": dict(zip(task.params.teachers, means.tolist(), strict=True))}
    return {}


def _example(summary: Summary) -> Tensor:
    return torch.zeros(1, summary.channels, *summary.image_size)


def _sentence(
    lesson: DistillationData, params: Params, w0: WeightEstimate | None, shares: dict[str, float] | None
) -> str:
    said = [sentence(lesson.characteristics, lesson.summary.classes)]
    if params.folds:
        said.append(f"each image is taught by a network that has not seen it, of {params.folds} folds")
    if w0:
        by = "branches" if params.distill.measures_w0 else "answers"
        how = "say nothing" if w0.error is None else f"say {w0.raw:.2f} ± {w0.error:.2f}"
        said.append(f"the teacher's weight w0 is measured as {w0.weight:.2f} (the {by} {how})")
    if shares:
        said.append("of the teachers' part " + ", ".join(f"{name} has {s:.0%}" for name, s in shares.items()))
    return "; ".join(said)


def _write_weights(file: Path, weights: Tensor | None, lesson: DistillationData) -> None:
    """The teacher's weight by class; the header alone where no weight was known before training."""
    if weights is None:
        file.write_text(",".join(WEIGHT_COLUMNS) + "\n", encoding="utf-8")
        return
    classes = lesson.summary.classes
    groups = weights_by_class(weights, lesson.images.labels, len(classes))
    write_csv(file, [row | {"class": classes[int(row["class"])]} for row in groups])
