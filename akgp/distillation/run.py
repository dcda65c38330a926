"""Distillation from its data to the recovered student: the choice of the weights, then the training.

It reads and writes no files. K: teachers, N: training images, C: classes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from akgp.data.batches import BatchSource
from akgp.distillation.distillation_data import DistillationData
from akgp.distillation.profile.data_profile import DataProfile
from akgp.distillation.strategies import (
    OBJECTIVES,
    TEACHER_WEIGHT,
    distillation_objective,
    teacher_weights,
)
from akgp.distillation.strategies.inputs import ObjectiveInputs
from akgp.distillation.strategies.self_distillation import heads_macs
from akgp.distillation.strategies.several_teachers import LearnedTeachers
from akgp.distillation.teacher_weight.answers import WeightEstimate, estimate_w0
from akgp.distillation.teacher_weight.branches import train_measured
from akgp.distillation.teacher_weight.per_sample import log_prior
from akgp.distillation.teachers import TeacherFn, weighted_ensemble
from akgp.evaluation import predict_logits
from akgp.evaluation.cost import count
from akgp.params import Distill, Training
from akgp.params.training_defaults import resolved
from akgp.training import Epoch, Objective, autocast_dtype, train


@dataclass(frozen=True)
class Distilled:
    """The outcome of a distillation.

    student: the given network, with the weights to keep, in eval mode on the CPU.
    weights: float32 [N] in [0, 1], the teacher's for each training image; None where the strategy has none
        before training.
    profile: of the data.
    w0: as measured; None where it was given, or the strategy has none.
    shares: float [K], each teacher's share of the teachers' weight; None if they are averaged. For a
        strategy that learns them, their mean over the un-augmented training images at the end.
    training: its parameters with all defaults resolved.
    """

    student: nn.Module
    weights: Tensor | None
    profile: DataProfile
    w0: WeightEstimate | None
    shares: Tensor | None
    training: Training


class Distillation:
    """A running distillation: iterate over it for an `Epoch` after each one, then read its `result`.

    result: set once the iteration has ended.
    """

    result: Distilled

    def __init__(self, epochs: Generator[Epoch, None, Distilled]) -> None:
        self._epochs = epochs

    def __iter__(self) -> Iterator[Epoch]:
        self.result = yield from self._epochs


def distill(
    student: nn.Module,
    data: DistillationData,
    params: Distill,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: Iterable[int] = (1,),
    state: dict[str, Any] | None = None,
) -> Distillation:
    """Recover `student` in place from the teachers and the labels.

        run = distill(student, data, Distill())
        for epoch in run:
            print(epoch.row)
        run.result.weights

    Args:
        student: pruned, with the classes of `data`.
        data: see `ask_teachers`.
        seed: of the order of images, their augmentation, and an objective's own parameters.
        device: the device of the training.
        workers: the numbers of data-parallel workers that may share a batch.
        state: of an earlier `Epoch` of the same distillation, from which to resume.

    Raises:
        ValueError: while iterating: the strategy has too few teachers, the student cannot have the heads that
            it needs, or `train` raises it.
    """
    return Distillation(_epochs(student, data, params, seed, torch.device(device), workers, state))


def _epochs(
    student: nn.Module,
    data: DistillationData,
    params: Distill,
    seed: int,
    device: torch.device,
    workers: Iterable[int],
    state: dict[str, Any] | None,
) -> Generator[Epoch, None, Distilled]:
    training = resolved(training_of(params, data.profile), len(data.images), workers=workers)
    estimate, shares = (estimate_w0(data, params) if params.asks_for_w0 else None) or (None, None)
    params = _with_w0(params, estimate)
    teachers = _teacher_fns(data, params, shares, device)
    common: dict[str, Any] = {"params": training, "seed": seed, "device": device, "state": state}

    def objective(params: Distill) -> Objective:
        return objective_of(params, student, data, teachers, device=device, seed=seed)

    if params.w0_source == "branches":
        last = state  # a resumed run that has no epoch left still has its measured w0
        for epoch in train_measured(
            student, lambda w0: weighted_images(data, params.model_copy(update={"w0": w0})), data.validation,
            data.calibration, objective=lambda w0: objective(params.model_copy(update={"w0": w0})),
            class_counts=torch.tensor(data.profile.class_counts), prior=params.w0_or_default, **common,
        ):  # fmt: skip
            last = epoch.state
            yield epoch
        assert last is not None
        estimate = WeightEstimate(**last["measured"])
        params = _with_w0(params, estimate)
    else:
        chosen = objective(params)
        yield from train(student, weighted_images(data, params), data.validation, objective=chosen, **common)
        if isinstance(chosen, LearnedTeachers):
            shares = _mean_shares(chosen, student, data, device)
    weights = _weights(data, params)
    return Distilled(student.cpu(), weights, data.profile, estimate, shares, training)


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
    if params.w0_source == "branches":
        return 1 + (params.epochs - params.training.epochs) / params.training.epochs
    if not params.facts.heads:
        return 1.0
    return 1 + heads_macs(student, params, example_input) / count(student, example_input).macs


def objective_of(
    params: Distill,
    student: nn.Module,
    data: DistillationData,
    teachers: Sequence[TeacherFn],
    *,
    device: torch.device,
    seed: int,
) -> Objective:
    """The objective of `params.strategy`, on `device`; its own parameters are drawn with `seed`."""
    prior = log_prior(params, data.profile)
    prior = None if prior is None else prior.to(device)
    torch.manual_seed(seed)  # also where a run is resumed: the state then replaces what is drawn
    if params.strategy in OBJECTIVES:
        inputs = ObjectiveInputs(student, teachers, params, data.example_input, data.profile.classes, prior)
        return OBJECTIVES[params.strategy](inputs)
    # Where no image has a weight above 0 the teachers' forward passes would be wasted.
    weights = _weights(data, params)
    any_weight = weights is None or bool((weights > 0).any())
    return distillation_objective(teachers if any_weight else [], params, prior=prior)


def weighted_images(data: DistillationData, params: Distill) -> BatchSource:
    """The training images with the teacher's weight as a column, where `params.strategy` has one."""
    weights = _weights(data, params)
    return data.images if weights is None else data.images.with_columns(**{TEACHER_WEIGHT: weights})


def _with_w0(params: Distill, estimate: WeightEstimate | None) -> Distill:
    return params if estimate is None else params.model_copy(update={"w0": estimate.weight})


def _weights(data: DistillationData, params: Distill) -> Tensor | None:
    judge = data.noise_judge
    return teacher_weights(params, judge.profile, judge.logits, data.images.labels)


def _teacher_fns(
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
