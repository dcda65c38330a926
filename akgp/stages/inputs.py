"""Inputs of distill and evaluate: the images, and the teachers that params.yaml names.

With cross-fitting a teacher is the networks of its folds, otherwise one dense network.
"""

from __future__ import annotations

from torch import Tensor, nn

from akgp import artifacts
from akgp.distillation import DistillationData, Ensemble, Teacher, ask_teachers, folds
from akgp.stages.normalization import as_student, read_source
from akgp.stages.teaching import networks_by_teacher
from akgp.workspace import Task


def read_distillation_data(task: Task) -> DistillationData:
    """Read the splits and the networks, and compute the networks' outputs."""
    images = read_source(task, "train")
    dense = None
    if task.params.another_teaches:
        dense = Teacher([artifacts.load(task.workspace.dense(task.params.student))])
    return ask_teachers(
        load_teachers(task, images.labels),
        dense,
        images,
        read_source(task, "validation"),
        read_source(task, "calibration"),
        device=task.device,
    )


def load_teachers(task: Task, labels: Tensor) -> list[Teacher]:
    """The teachers, in the order of params.yaml, for images in the student's normalisation.

    Args:
        labels: int64 [N], of the training images.
    """
    count = task.params.folds
    # The same labels, count and seed give the same folds that the stage `folds` trained with.
    fold = folds(labels, count, task.params.seed) if count else None
    return [
        Teacher([as_student(artifacts.load(folder), task, name) for folder in folders], fold)
        for name, folders in zip(task.params.teachers, networks_by_teacher(task), strict=True)
    ]


def load_ensemble(task: Task) -> nn.Module:
    """The teachers' dense networks as one network, for images in the student's normalisation."""
    # Not their folds: no network was trained on the test images, for which this is used.
    dense = [
        as_student(artifacts.load(task.workspace.dense(name)), task, name) for name in task.params.teachers
    ]
    return dense[0] if len(dense) == 1 else Ensemble(dense)
