"""What a distillation learns from: images, teachers, what these say of them, and what that tells of the data.

It depends neither on the pruned student nor on `distill`, so that the trials of a sweep can share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from akgp import artifacts
from akgp.data import Images, Summary, read_split, read_summary
from akgp.distillation import Characteristics, measure
from akgp.distillation.losses import mean_teacher
from akgp.stages.teachers import Teacher, load_teachers
from akgp.stages.worker import device
from akgp.stages.workspace import Task


@dataclass(frozen=True)
class Opinion:
    """logits: [N, C] of the training images; characteristics: measured by the same networks."""

    logits: Tensor
    characteristics: Characteristics


@dataclass(frozen=True)
class Lesson:
    """images: of the training split; taught: what the teachers, as one, say of them.

    doubted: by whom wrong labels are found: the teachers, or the student's dense network where that
    knows the calibration labels better. A weak teacher would take its own errors for theirs.
    """

    summary: Summary
    images: Images
    validation: Images
    calibration: Images
    teachers: Sequence[Teacher]
    taught: Opinion
    doubted: Opinion

    @property
    def characteristics(self) -> Characteristics:
        """The teachers', with the label noise by whoever finds the wrong labels."""
        return self.taught.characteristics.with_noise_of(self.doubted.characteristics)


def read_lesson(task: Task) -> Lesson:
    """Read the splits and the networks, and ask these."""
    data = task.workspace.data
    images = read_split(data, "train")
    teachers = load_teachers(task, images.labels)
    asked = [teachers]
    if task.params.folds is None and task.params.teachers != (task.params.student,):
        # With folds it would be a network that may have learnt wrong labels by heart.
        dense = artifacts.load(task.workspace.dense(task.params.student))
        asked.append([Teacher([dense], torch.zeros_like(images.labels))])
    opinions = [_opinion(networks, images, task) for networks in asked]
    return Lesson(
        read_summary(data),
        images,
        read_split(data, "validation"),
        read_split(data, "calibration"),
        teachers,
        opinions[0],
        max(opinions, key=lambda opinion: opinion.characteristics.accuracy),
    )


def _opinion(networks: Sequence[Teacher], images: Images, task: Task) -> Opinion:
    data, on = task.workspace.data, device(task)
    summary, calibration = read_summary(data), read_split(data, "calibration")
    logits = mean_teacher(torch.stack([each.taught(images, summary, on) for each in networks]))
    characteristics = measure(
        mean_teacher(torch.stack([each.held_out(calibration, summary, on) for each in networks])),
        calibration.labels,
        train_logits=logits,
        train_labels=images.labels,
    )
    for each in networks:
        each.to("cpu")
    return Opinion(logits, characteristics)
