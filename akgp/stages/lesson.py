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
from akgp.distillation import Characteristics, measure, stacked_weight
from akgp.distillation.losses import mean_teacher
from akgp.stages.teachers import Teacher, load_teachers
from akgp.stages.worker import device
from akgp.stages.workspace import Task


@dataclass(frozen=True)
class Opinion:
    """logits: [N, C] of the training images; held_out: [M, C] of the calibration images; what they tell."""

    logits: Tensor
    held_out: Tensor
    characteristics: Characteristics


@dataclass(frozen=True)
class Lesson:
    """images: of the training split; taught: what the teachers, as one, say of them.

    dense: what the student's dense network says, where it is not the only teacher; None with folds: it
    may have learnt wrong labels by heart.
    """

    summary: Summary
    images: Images
    validation: Images
    calibration: Images
    teachers: Sequence[Teacher]
    taught: Opinion
    dense: Opinion | None

    @property
    def doubted(self) -> Opinion:
        """By whom wrong labels are found: the teachers, or the dense network where that knows labels better.

        A weak teacher would take its own errors for theirs.
        """
        opinions = [self.taught] if self.dense is None else [self.taught, self.dense]
        return max(opinions, key=lambda opinion: opinion.characteristics.accuracy)

    @property
    def characteristics(self) -> Characteristics:
        """The teachers', with the label noise by whoever finds the wrong labels."""
        return self.taught.characteristics.with_noise_of(self.doubted.characteristics)

    def answered_w0(self, guess: float) -> dict[str, float] | None:
        """w0 from what the teachers know beyond the dense network; None where nobody else was asked.

        The student recovers about what its dense network knew, and one that only imitates its teachers knows
        about what they do: `stacked_weight` of these two's answers stands for that of the two branches, and
        costs no training.
        """
        if self.dense is None:
            return None
        counts = torch.tensor(self.taught.characteristics.class_counts)
        labels = self.calibration.labels
        return vars(stacked_weight(self.dense.held_out, self.taught.held_out, labels, counts, guess))


def read_lesson(task: Task) -> Lesson:
    """Read the splits and the networks, and ask these."""
    data = task.workspace.data
    images = read_split(data, "train")
    dense = None
    if task.params.folds is None and task.params.teachers != (task.params.student,):
        network = artifacts.load(task.workspace.dense(task.params.student))
        dense = Teacher([network], torch.zeros_like(images.labels))
    return ask(
        read_summary(data),
        images,
        read_split(data, "validation"),
        read_split(data, "calibration"),
        load_teachers(task, images.labels),
        dense,
        device(task),
    )


def ask(
    summary: Summary,
    images: Images,
    validation: Images,
    calibration: Images,
    teachers: Sequence[Teacher],
    dense: Teacher | None,
    on: torch.device,
) -> Lesson:
    """The lesson of these images, by what the networks answer; computed on the device `on`."""

    def opinion(networks: Sequence[Teacher]) -> Opinion:
        logits = mean_teacher(torch.stack([each.taught(images, summary, on) for each in networks]))
        held_out = mean_teacher(torch.stack([each.held_out(calibration, summary, on) for each in networks]))
        measured = measure(held_out, calibration.labels, train_logits=logits, train_labels=images.labels)
        for each in networks:
            each.to("cpu")
        return Opinion(logits, held_out, measured)

    own = None if dense is None else opinion([dense])
    return Lesson(summary, images, validation, calibration, teachers, opinion(teachers), own)
