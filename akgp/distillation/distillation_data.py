"""The data of a distillation: images, teachers, the teachers' outputs and the profile that follows from them.

It depends neither on the pruned student nor on its training, so that the trials of a sweep can share it.
 K: teachers, N: training images, M: calibration images, C: classes.
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
    """The outputs of K networks, and the profile of the data that follows from them.

    logits: [N, C], of the un-augmented training images by all networks as one, see `mean_teacher`.
    held_out: [K, M, C], of the calibration images by each network.
    """

    logits: Tensor
    held_out: Tensor
    profile: DataProfile


@dataclass(frozen=True)
class DistillationData:
    """Everything that a distillation reads, computed once.

    images: of the training split. calibration: images that nothing is trained on. All are normalised as the
        networks expect.
    taught: the teachers' outputs.
    dense: the outputs of the student's dense network; None where it is the only teacher.
    noise_judge: the outputs by which wrong labels are detected: the teachers', or the dense network's where
        it predicts the calibration labels better: a weak teacher's own errors would look like wrong labels.
        With folds always the teachers': the dense network may have memorised wrong labels.
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
        """The teachers' profile, with the label noise as measured by `noise_judge`."""
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
    """Compute the outputs of the teachers and of the student's dense network, once for all images.

    Args:
        teachers: one or more.
        dense: the student's dense network; None where it is the only teacher.
        images: of the training split.
        calibration: labelled images that no network was trained on.
        device: where they compute; afterwards they are on the CPU.

    Raises:
        ValueError: there is no teacher; the networks differ in their number of classes, or as `profile_data`
            and `out_of_fold`.
    """
    if not teachers or not all(isinstance(each, Teacher) for each in teachers):
        raise ValueError(
            "teachers must be one Teacher or more, such as [Teacher([network])], got "
            f"{', '.join(type(each).__name__ for each in teachers) or 'none'}"
        )

    def outputs(networks: Sequence[Teacher]) -> TeacherOutputs:
        answers = [each.out_of_fold_logits(images, device) for each in networks]
        if len(classes := {each.shape[1] for each in answers}) > 1:
            raise ValueError(f"teachers must know the same classes, got {sorted(classes)} of them")
        logits = mean_teacher(torch.stack(answers))
        held_out = torch.stack([each.held_out_logits(calibration, device) for each in networks])
        profile = profile_data(
            mean_teacher(held_out), calibration.labels, train_logits=logits, train_labels=images.labels
        )
        for each in networks:
            each.to("cpu")
        return TeacherOutputs(logits, held_out, profile)

    taught, of_dense = outputs(teachers), None if dense is None else outputs([dense])
    if of_dense and of_dense.logits.shape != taught.logits.shape:
        own, known = of_dense.logits.shape[1], taught.logits.shape[1]
        raise ValueError(f"dense must know the classes of the teachers: {own} and {known}")
    judges = [taught]
    if of_dense and all(len(each.networks) == 1 for each in teachers):
        judges.append(of_dense)
    # By accuracy on the calibration images; max takes the first, the teachers, where both are equal.
    judge = max(judges, key=lambda each: each.profile.accuracy)
    return DistillationData(images, validation, calibration, teachers, taught, of_dense, judge)
