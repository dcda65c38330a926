"""Distillation from its data to the recovered student: the choice of the weights, then the training.

It reads and writes no files. K: teachers, N: training images, C: classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from akgp.data.batches import BatchSource
from akgp.distillation.cached_views import ask_about_views
from akgp.distillation.distillation_data import DistillationData
from akgp.distillation.profile.data_profile import DataProfile
from akgp.distillation.strategies import (
    OBJECTIVES,
    TEACHER_WEIGHT,
    distillation_objective,
    teacher_weights,
)
from akgp.distillation.strategies.inputs import ObjectiveInputs
from akgp.distillation.strategies.self_distillation import SelfDistillation, heads_macs
from akgp.distillation.strategies.several_teachers import LearnedTeachers
from akgp.distillation.teacher_weight.answers import WeightEstimate, estimate_w0
from akgp.distillation.teacher_weight.branches import train_measured
from akgp.distillation.teacher_weight.per_sample import log_prior
from akgp.distillation.teachers import TeacherFn, weighted_ensemble
from akgp.evaluation import predict_logits
from akgp.evaluation.cost import count
from akgp.params import Distill, Training
from akgp.params.strategies import branch_epochs
from akgp.params.training_defaults import resolved
from akgp.training import Epoch, Objective, TrainingError, autocast_dtype, train


@dataclass(frozen=True)
class Distilled:
    """The outcome of a distillation.

    student: the given network, with the weights to keep, in eval mode on the CPU.
    weights: float32 [N] in [0, 2], the teacher's for each training image; None where the strategy has none
        before training. Mixed images have the teacher alone, whatever these are.
    teacher_passes: over the training images, by each teacher.
    profile: of the data.
    w0: as measured; None where it was given, or the strategy has none.
    shares: float [K], each teacher's share of the teachers' weight; None if they are averaged. For a
        strategy that learns them, their mean over the un-augmented training images at the end.
    training: its parameters with all defaults resolved.
    """

    student: nn.Module
    weights: Tensor | None
    teacher_passes: int
    profile: DataProfile
    w0: WeightEstimate | None
    shares: Tensor | None
    training: Training

    @property
    def trained_weights(self) -> Tensor | None:
        """`weights` as they are trained with: of each image the mean over it and what it is mixed into."""
        mixed = self.training.augment.mixed_share
        return None if self.weights is None else mixed + (1 - mixed) * self.weights


class Distillation:
    """A distillation: iterate over it for an `Epoch` after each one, then read its `result`.

        run = Distillation(student, data, Distill())
        for epoch in run:
            print(epoch.row)
        run.result.weights

    params: as given; once w0 is measured, with it.
    teachers: as `objective` calls them.
    result: set once the iteration has ended.
    """

    result: Distilled

    def __init__(
        self,
        student: nn.Module,
        data: DistillationData,
        params: Distill,
        *,
        teachers: Sequence[TeacherFn] = (),
        seed: int = 0,
        device: torch.device | str = "cpu",
        workers: Iterable[int] = (1,),
        state: dict[str, Any] | None = None,
    ) -> None:
        """A distillation that recovers `student` in place from the teachers and the labels.

        Args:
            student: pruned, with the classes of `data`.
            data: see `ask_teachers`.
            teachers: none: those of `data`, with their measured shares.
            seed: of the order of images, their augmentation, and an objective's own parameters.
            device: the device of the training.
            workers: the numbers of data-parallel workers that may share a batch.
            state: of an earlier `Epoch` of the same distillation, from which to resume.
        """
        self.student, self.data, self.params, self.teachers = student, data, params, teachers
        self.source = data.images
        self.training = resolved(training_of(params, data.profile), len(data.images), workers=workers)
        self.seed, self.device, self.state = seed, torch.device(device), state

    def __iter__(self) -> Iterator[Epoch]:
        """Train, as `train` does.

        Raises:
            ValueError: the strategy has too few teachers, the student cannot have the heads that it needs, or
                `train` raises it.
        """
        estimate, shares = self._estimated() or (None, None)
        self._set_w0(estimate)
        self.teachers = self.teachers or _frozen(self.data, self.params, shares, self.device)
        if self.params.w0_source == "branches":
            last = self.state  # a resumed run that has no epoch left still has its measured w0
            for epoch in self._with_branches():
                last = epoch.state
                yield epoch
            assert last is not None
            estimate = WeightEstimate(**last["measured"])
            self._set_w0(estimate)
        else:
            views = self._ask_about_views()
            objective = self.objective()
            splits = (self.images(), self.data.validation)
            try:
                for epoch in train(self.student, *splits, objective=objective, **self._common()):
                    yield replace(epoch, state=epoch.state | views)
            except TrainingError as error:
                if (w0 := self.params.w0_or_default) > 1:
                    more = f"or lower distill.w0 ({w0:g}): above 1 the loss has no lower bound"
                    raise TrainingError(f"{error}, {more}") from error
                raise
            finally:
                if isinstance(objective, SelfDistillation):
                    objective.remove_hooks()
            if isinstance(objective, LearnedTeachers):
                shares = _mean_shares(objective, self.student, self.data, self.device)
        student, passes = self.student.cpu(), self._passes()
        self.result = Distilled(
            student, self.weights(), passes, self.data.profile, estimate, shares, self.training
        )

    def weights(self, w0: float | None = None) -> Tensor | None:
        """The teacher's weight of each training image, see `teacher_weights`; w0: if not that of `params`."""
        judge = self.data.noise_judge
        return teacher_weights(self._at(w0), judge.profile, judge.logits, self.data.images.labels)

    def images(self, w0: float | None = None) -> BatchSource:
        """The training images, with `weights` as a column where the strategy has them before training."""
        weights = self.weights(w0)
        columns = {} if weights is None else {TEACHER_WEIGHT: weights}
        return self.source.with_columns(**columns)

    def objective(self, w0: float | None = None) -> Objective:
        """The strategy's objective, on the device; its own parameters are drawn with the seed.

        Raises:
            ValueError: there are too few teachers, or the student cannot have the heads that it needs.
        """
        params, data = self._at(w0), self.data
        prior = log_prior(params, data.profile)
        prior = None if prior is None else prior.to(self.device)
        if params.strategy in OBJECTIVES:
            classes = data.profile.classes
            inputs = ObjectiveInputs(self.student, self.teachers, params, data.example_input, classes, prior)
            with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
                # Also in a run that is resumed, whose state replaces what is drawn.
                torch.manual_seed(self.seed)
                return OBJECTIVES[params.strategy](inputs)
        teachers = self.teachers if self._asks_teachers(w0) else []
        return distillation_objective(teachers, params, prior=prior)

    def _asks_teachers(self, w0: float | None = None) -> bool:
        """Whether any image has a teacher's weight above 0: else their forward passes would be wasted."""
        weights = self.weights(w0)
        weighed = weights is None or bool((weights > 0).any())
        return bool(self.teachers) and (weighed or self.training.augment.mixes)

    def _passes(self) -> int:
        """How often each teacher was asked about all training images."""
        epochs = self.training.epochs
        if self.params.w0_source == "branches":
            trunk, branch = branch_epochs(epochs)  # one of the two branches learns from labels alone
            return trunk + branch + (epochs - trunk if self._asks_teachers() else 0)
        return (self.params.teacher_views or epochs) if self._asks_teachers() else 0

    def _ask_about_views(self) -> dict[str, Any]:
        """Ask the teachers about `params.teacher_views`, if any; the answers, to be kept in the state."""
        if self.params.teacher_views is None or not self._asks_teachers():
            return {}
        self.source, self.teachers, answers = ask_about_views(
            self.source, self.teachers, self.params, classes=self.data.profile.classes, seed=self.seed,
            device=self.device, known=self.state["views"] if self.state else None,
        )  # fmt: skip
        return {"views": answers}

    def _estimated(self) -> tuple[WeightEstimate, Tensor] | None:
        return estimate_w0(self.data, self.params) if self.params.asks_for_w0 else None

    def _with_branches(self) -> Iterator[Epoch]:
        return train_measured(
            self.student, self.images, self.data.validation, self.data.calibration,
            objective=self.objective, class_counts=torch.tensor(self.data.profile.class_counts),
            prior=self.params.w0_or_default, **self._common(),
        )  # fmt: skip

    def _common(self) -> dict[str, Any]:
        return {"params": self.training, "seed": self.seed, "device": self.device, "state": self.state}

    def _set_w0(self, estimate: WeightEstimate | None) -> None:
        self.params = self._at(estimate.weight if estimate else None)

    def _at(self, w0: float | None) -> Distill:
        return self.params if w0 is None else self.params.model_copy(update={"w0": w0})


def training_of(params: Distill, profile: DataProfile) -> Training:
    """`params.training`; under logit adjustment with the best epoch chosen by the mean over classes.

    Logit adjustment trains the student to predict as if all classes were equally frequent. By plain accuracy
    a validation split with the same long tail would prefer the epoch that has learnt this least.
    """
    if log_prior(params, profile) is not None and params.training.keep == "best":
        return params.training.model_copy(update={"keep": "balanced"})
    return params.training


def compute_of(params: Distill, student: nn.Module, example_input: Tensor) -> float:
    """The cost of the training of `student`, in units of a plain training of it for as many epochs.

    It includes the epochs of the branches that measure w0 and the MACs of self-distillation's heads, but not
    the teachers' forward passes.

    Args:
        student: on the CPU.
        example_input: of the images' size, [1, channels, H, W].

    Raises:
        ValueError: it cannot have the heads that params name, see `SelfDistillation`.
    """
    compute = params.epochs / params.training.epochs
    if params.facts.heads:
        compute += heads_macs(student, params, example_input) / count(student, example_input).macs
    return compute


def _frozen(
    data: DistillationData, params: Distill, shares: Tensor | None, device: torch.device
) -> list[TeacherFn]:
    """The teachers on `device`, as one if they have shares; none for a strategy without teachers."""
    if not params.facts.teachers:
        return []
    dtype = autocast_dtype(params.training.precision, device)
    channels_last = params.training.channels_last
    teachers = [each.frozen(device, dtype, channels_last=channels_last) for each in data.teachers]
    return teachers if shares is None else [weighted_ensemble(teachers, shares.to(device))]


@torch.no_grad()
def _mean_shares(
    objective: LearnedTeachers, student: nn.Module, data: DistillationData, device: torch.device
) -> Tensor:
    logits = predict_logits(student, data.images, device=device)
    return objective.cpu().log_weights(logits).exp().mean(0)
