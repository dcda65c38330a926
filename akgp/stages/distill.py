"""distill: recover the pruned student from its teachers and the true labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from akgp import artifacts
from akgp.data import Summary, read_summary
from akgp.distillation import (
    Distillation,
    DistillationData,
    Distilled,
    compute_of,
    recorded,
    sentence,
    shares_sentence,
    weight_sentence,
    weights_by_class,
)
from akgp.io.atomic import write_csv, write_json
from akgp.params import Params
from akgp.params.training_defaults import announcement, student_training
from akgp.stages.inputs import read_distillation_data
from akgp.stages.notices import NOTICES
from akgp.stages.recovery_cost import recovery_compute
from akgp.stages.training_steps import Row, best_epoch_metrics, epochs_to_steps, step_size
from akgp.workspace import METRICS, Step, Task

WEIGHT_COLUMNS = ("class", "mean", "p10", "p90", "n")


def compute(task: Task, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Distill; write the student, the data's profile, the teacher's weights, history and metrics."""
    data = read_distillation_data(task)
    if state is None:  # a resumed run announced it before
        images = len(data.images)
        used = student_training(task.params, images)
        if line := announcement(task.params.distill.training, used, images):
            yield Step({NOTICES: [line]})
    yield from compute_with(task, data, out, state)


def compute_with(
    task: Task, data: DistillationData, out: Path, state: dict[str, Any] | None
) -> Iterator[Step]:
    """`compute` with data already read: the trials of a sweep share it."""
    run = Distillation(
        artifacts.load(task.workspace.pruned),
        data,
        task.params.distill,
        seed=task.params.seed,
        device=task.device,
        workers=task.params.ray.counts(),
        state=state["training"] if state else None,
    )
    history = yield from epochs_to_steps(run, state)
    _write(task, data, run.result, history, out)


def _write(task: Task, data: DistillationData, result: Distilled, history: list[Row], out: Path) -> None:
    params, summary = task.params, read_summary(task.workspace.data)
    artifacts.save(result.student, out)
    # One teacher has no shares to report; several that are averaged have none either.
    shares = None
    if result.shares is not None and len(result.shares) > 1:
        shares = dict(zip(params.teachers, result.shares.tolist(), strict=True))
    write_json(
        out / "characteristics.json",
        recorded(result.profile, summary.classes)
        | {
            "doubtful": result.profile.doubtful,
            "sentence": _sentence(result, summary, params, shares),
            "folds": params.folds,
        },
    )
    weights = result.trained_weights
    _write_weights(out / "weights.csv", weights, data.images.labels, summary)
    write_json(out / "history.json", history)
    write_json(
        out / METRICS,
        best_epoch_metrics(history, result.training.keep)
        | {
            "compute": compute_of(params.distill, result.student, data.example_input)
            + recovery_compute(task),
            "teacher_weight": None if weights is None else float(weights.mean()),
            "folds": params.folds,
            "teacher_passes": result.teacher_passes,
        }
        | step_size(result.training)
        | ({"w0": vars(result.w0)} if result.w0 else {})
        | ({"teacher_weights": shares} if shares else {}),
    )


def _sentence(result: Distilled, summary: Summary, params: Params, shares: dict[str, float] | None) -> str:
    parts = [sentence(result.profile, summary.classes)]
    if params.folds:
        parts.append(f"each image is taught by a network that has not seen it, of {params.folds} folds")
    if result.w0:
        parts.append(weight_sentence(result.w0, branches=params.distill.w0_source == "branches"))
    if shares:
        parts.append(shares_sentence(shares))
    return "; ".join(parts)


def _write_weights(file: Path, weights: Tensor | None, labels: Tensor, summary: Summary) -> None:
    """The teacher's weight by class; the header alone where no weight was known before training."""
    if weights is None:
        file.write_text(",".join(WEIGHT_COLUMNS) + "\n", encoding="utf-8")
        return
    groups = weights_by_class(weights, labels, len(summary.classes))
    write_csv(file, [row | {"class": summary.classes[int(row["class"])]} for row in groups])
