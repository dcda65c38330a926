"""What a distillation learns from: images, teachers, what these say of them, and what that tells of the data.

It depends neither on the pruned student nor on how it is trained, so that the trials of a sweep can share
one. K: teachers, N: training images, M: calibration images, C: classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from akgp.data.batches import BatchSource
from akgp.distillation.cross_fit import Teacher
from akgp.distillation.losses import mean_teacher
from akgp.distillation.profile.data_profile import DataProfile, profile_data


@dataclass(frozen=True)
class TeacherOutputs:
    """What K networks say of the images, and the profile of the data by it.

    logits: [N, C], of the training images by all of them as one, un-augmented.
    held_out: [K, M, C], each one's of the calibration images.
    """

    logits: Tensor
    held_out: Tensor
    profile: DataProfile


@dataclass(frozen=True)
class DistillationData:
    """Everything that a distillation reads, computed once.

    images: of the training split. calibration: on these nothing is trained. All as the networks expect them.
    taught: what the teachers say.
    dense: what the student's dense network says; None where it is the teacher, and nobody else teaches.
    noise_judge: by whom wrong labels are detected: the teachers, or the dense network where that knows the
        calibration labels better; a weak teacher would take its own errors for theirs. With folds always the
        teachers: the dense network may have memorised wrong labels.
    """

    images: BatchSource
    validation: BatchSource
    calibration: BatchSource
    teachers: Sequence[Teacher]
    taught: TeacherOutputs
    dense: TeacherOutputs | None
    noise_judge: TeacherOutputs

    @property
    def profile(self) -> DataProfile:
        """The teachers', with the label noise as the judge of it measures it."""
        return self.taught.profile.with_noise_of(self.noise_judge.profile)

    @property
    def example_input(self) -> Tensor:
        """An input of the images' size, all zeros: [1, channels, H, W]."""
        return torch.zeros(1, *self.images.image_shape)


def ask_teachers(
    teachers: Sequence[Teacher],
    dense: Teacher | None,
    images: BatchSource,
    validation: BatchSource,
    calibration: BatchSource,
    *,
    device: torch.device | str = "cpu",
) -> DistillationData:
    """Ask the teachers, and the student's dense network, once about all images.

    Args:
        teachers: one or more.
        dense: the student's dense network; None where it is the one teacher.
        images: of the training split.
        calibration: labelled images that no network was trained on.
        device: where they answer; afterwards they are on the CPU.

    Raises:
        ValueError: as `profile_data` and `out_of_fold`.
    """

    def outputs(networks: Sequence[Teacher]) -> TeacherOutputs:
        logits = mean_teacher(torch.stack([each.out_of_fold_logits(images, device) for each in networks]))
        held_out = torch.stack([each.held_out_logits(calibration, device) for each in networks])
        profile = profile_data(
            mean_teacher(held_out), calibration.labels, train_logits=logits, train_labels=images.labels
        )
        for each in networks:
            each.to("cpu")
        return TeacherOutputs(logits, held_out, profile)

    taught, of_dense = outputs(teachers), None if dense is None else outputs([dense])
    judges = [taught]
    if of_dense and all(len(each.networks) == 1 for each in teachers):
        judges.append(of_dense)
    judge = max(judges, key=lambda each: each.profile.accuracy)
    return DistillationData(images, validation, calibration, teachers, taught, of_dense, judge)
