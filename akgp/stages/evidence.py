"""What a distillation learns from: images, teachers, what these say of them, and what that tells of the data.

It depends neither on the pruned student nor on `distill`, so that the trials of a sweep can share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from akgp import artifacts
from akgp.data import BatchSource, Summary
from akgp.distillation import DataProfile, WeightEstimate, log_prior, profile_data, stacked_weights
from akgp.distillation.losses import mean_teacher
from akgp.params import Distill
from akgp.stages.inputs import Teacher, load_teachers
from akgp.stages.normalization import read_source, summary_for
from akgp.workspace import Task


@dataclass(frozen=True)
class TeacherOutputs:
    """Of networks as one the logits [N, C] of the training images, and what they tell.

    held_out: [K, M, C], each one's of the calibration images.
    """

    logits: Tensor
    held_out: Tensor
    characteristics: DataProfile


@dataclass(frozen=True)
class DistillationData:
    """images: of the training split; taught: what the teachers, as one, say of them.

    dense: what the student's dense network says, None where nobody else teaches.
    doubted: by whom wrong labels are found: the teachers, or the dense network where that knows the
    calibration labels better; a weak teacher would take its own errors for theirs. With folds always the
    teachers: the dense network may have memorised wrong labels.
    """

    summary: Summary
    images: BatchSource
    validation: BatchSource
    calibration: BatchSource
    teachers: Sequence[Teacher]
    taught: TeacherOutputs
    dense: TeacherOutputs | None
    doubted: TeacherOutputs

    @property
    def characteristics(self) -> DataProfile:
        """The teachers', with the label noise by whoever finds the wrong labels."""
        return self.taught.characteristics.with_noise_of(self.doubted.characteristics)

    def answered_w0(self, params: Distill) -> tuple[WeightEstimate, Tensor] | None:
        """w0 from what the teachers know beyond the dense network, and the share [K] of each in it.

        None where nobody else teaches; but if the dense network then tells no more of labels than their
        frequencies do, w0 is 0. It is assumed that the student recovers about what its dense network knew,
        and that one which only imitates a teacher knows about what that does: then `stacked_weights` of
        these networks' answers stands for that of branches, and costs no training
        (docs/explanation/weighting.md says where this fails).
        Under logit adjustment students predict without the class prior: so it is taken from the answers.
        """
        if self.dense is None:
            knows = self.taught.characteristics.informative
            return None if knows else (WeightEstimate(0.0, 0.0, None, params.w0_or_default), torch.ones(1))
        shift = log_prior(params, self.characteristics)
        dense, teachers = self.dense.held_out[0], self.taught.held_out
        if shift is not None:
            dense, teachers = dense - shift, teachers - shift
        counts = torch.tensor(self.characteristics.class_counts)
        return stacked_weights(dense, teachers, self.calibration.labels, counts, params.w0_or_default)


def read_distillation_data(task: Task) -> DistillationData:
    """Read the splits and the networks, and ask these."""
    images = read_source(task, "train")
    dense = None
    if task.params.another_teaches:
        network = artifacts.load(task.workspace.dense(task.params.student))
        dense = Teacher([network], torch.zeros_like(images.labels))
    return ask(
        summary_for(task),
        images,
        read_source(task, "validation"),
        read_source(task, "calibration"),
        load_teachers(task, images.labels),
        dense,
        task.device,
    )


def ask(
    summary: Summary,
    images: BatchSource,
    validation: BatchSource,
    calibration: BatchSource,
    teachers: Sequence[Teacher],
    dense: Teacher | None,
    on: torch.device,
) -> DistillationData:
    """The lesson of these images, by what the networks answer; computed on the device `on`."""

    def opinion(networks: Sequence[Teacher]) -> TeacherOutputs:
        logits = mean_teacher(torch.stack([each.taught(images, on) for each in networks]))
        held_out = torch.stack([each.held_out(calibration, on) for each in networks])
        measured = profile_data(
            mean_teacher(held_out), calibration.labels, train_logits=logits, train_labels=images.labels
        )
        for each in networks:
            each.to("cpu")
        return TeacherOutputs(logits, held_out, measured)

    taught, own = opinion(teachers), None if dense is None else opinion([dense])
    judges = [taught]
    if own and all(len(each.networks) == 1 for each in teachers):
        judges.append(own)
    doubted = max(judges, key=lambda judge: judge.characteristics.accuracy)
    return DistillationData(summary, images, validation, calibration, teachers, taught, own, doubted)
