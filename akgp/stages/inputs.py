"""The teachers that params.yaml names: as distill asks them, and as one network that evaluate measures.

With cross-fitting a teacher is the networks of its folds, otherwise its one dense network. K: networks
of a teacher, N: images, C: classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from akgp import artifacts
from akgp.data import BatchSource
from akgp.distillation import Ensemble, TeacherFn, cross_fitted, folds, frozen_teacher, out_of_fold
from akgp.stages.normalization import as_student
from akgp.stages.teaching import networks_by_teacher
from akgp.workspace import Task


@dataclass(frozen=True)
class Teacher:
    """networks: K; fold: int64 [N], which of them answers each training image, zeros if K is 1."""

    networks: Sequence[nn.Module]
    fold: Tensor

    def taught(self, source: BatchSource, on: torch.device) -> Tensor:
        """The logits [N, C] of the training images, each from a network that has not seen it if K > 1."""
        return out_of_fold(self.networks, source, self.fold, device=on)

    def held_out(self, source: BatchSource, on: torch.device) -> Tensor:
        """The logits of images that no network was trained on, each from one: as sharp as `taught`."""
        fold = torch.arange(len(source)) % len(self.networks)
        return out_of_fold(self.networks, source, fold, device=on)

    def to(self, on: torch.device | str) -> None:
        for network in self.networks:
            network.to(on)

    def guide(self, on: torch.device, dtype: torch.dtype | None, channels_last: bool) -> TeacherFn:
        self.to(on)
        if len(self.networks) == 1:
            return frozen_teacher(self.networks[0], dtype=dtype, channels_last=channels_last)
        return cross_fitted(self.networks, self.fold.to(on), dtype=dtype, channels_last=channels_last)


def load_teachers(task: Task, labels: Tensor) -> list[Teacher]:
    """The teachers, in the order of params.yaml, for images in the student's normalisation.

    Args:
        labels: int64 [N], of the training images.
    """
    count = task.params.folds
    fold = folds(labels, count, task.params.seed) if count else torch.zeros_like(labels)
    return [
        Teacher([as_student(artifacts.load(folder), task, name) for folder in folders], fold)
        for name, folders in zip(task.params.teachers, networks_by_teacher(task), strict=True)
    ]


def load_ensemble(task: Task) -> nn.Module:
    """The teachers' dense networks as one network, for images in the student's normalisation."""
    dense = [
        as_student(artifacts.load(task.workspace.dense(name)), task, name) for name in task.params.teachers
    ]
    return dense[0] if len(dense) == 1 else Ensemble(dense)
