"""What a distillation refuses: input that would otherwise give a wrong number, NaN or an error in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data.batches import Batch, IndexedSource
from akgp.distillation import (
    DataProfile,
    LearnedTeachers,
    SelfDistillation,
    WeightEstimate,
    cross_fitted,
    out_of_fold,
    profile_data,
    self_distillation_loss,
    stacked_weight,
    teacher_weights,
    wrong_label_probability,
)
from akgp.distillation.strategies import LOSSES
from akgp.distillation.strategies.weighted import WEIGHTS
from akgp.params import Distill
from tests.support.losses import strategy_loss

NAN_LOGITS = torch.tensor([[math.nan, 0.0, 0.0], [0.0, 1.0, 0.0]])
LABELS = torch.tensor([0, 2])


# Cross-fitting


def dense(count: int) -> list[nn.Module]:
    return [nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(count)]


def split(networks: int, fold: Tensor, images: int = 4) -> Tensor:
    pixels = torch.zeros(images, 1, 2, 2, dtype=torch.uint8)
    data = IndexedSource(pixels, torch.zeros(images, dtype=torch.int64), [0.0], [1.0])
    return out_of_fold(dense(networks), data, fold, device="cpu")


FOLDS = [
    (2, torch.tensor([0, 1, 2, 0]), r"fold must be in \[0, 2\), one of the networks, got 0 to 2"),
    (2, torch.tensor([0, 1, -1, 0]), r"fold must be in \[0, 2\), one of the networks, got -1 to 1"),
    (0, torch.tensor([0, 0, 0, 0]), r"fold must be in \[0, 0\), one of the networks, got 0 to 0"),
    (2, torch.zeros(4), r"fold must be int64 \[4\], of one image or more, got torch.float32 \[4\]"),
]


@pytest.mark.parametrize(("networks", "fold", "message"), FOLDS)
def test_folds_that_no_network_answers_are_refused(networks: int, fold: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cross_fitted(dense(networks), fold)
    with pytest.raises(ValueError, match=message):
        split(networks, fold)


@pytest.mark.parametrize("images", [0, 3])
def test_folds_of_other_images_are_refused(images: int) -> None:
    message = (
        rf"fold must be int64 \[{images}\], of one image or more, got torch.int64 \[{4 * (images > 0)}\]"
    )
    with pytest.raises(ValueError, match=message):
        split(2, torch.zeros(4 * (images > 0), dtype=torch.int64), images)


# The strategies


def loss_of(strategy: str, student: Tensor, labels: Tensor, **changes: Any) -> Tensor:
    """By the objective of the strategy, whatever it is; two teachers, or two heads."""
    params, teachers = Distill(strategy=strategy), torch.zeros(2, *student.shape)
    if strategy == "self_distillation":
        features = torch.zeros(len(student), 5)
        return self_distillation_loss(student, features, [(features, student)] * 2, labels, params=params)
    if strategy == "amtml_kd":
        objective = LearnedTeachers([lambda batch: teachers[0]] * 2, params, num_classes=3, prior=None)
        return objective(Batch(labels, student, labels), student, 0.0)
    weight = torch.full(student.shape[:1], 0.5) if strategy in WEIGHTS else None
    return strategy_loss(student, teachers, labels, params=params, weight=weight, **changes)


@pytest.mark.parametrize("strategy", [*LOSSES, "amtml_kd", "self_distillation"])
@pytest.mark.parametrize(
    ("student", "labels", "message"),
    [
        (torch.zeros(0, 3), LABELS[:0], r"student_logits must be \[B, C\] with B > 0, got \[0, 3\]"),
        (torch.zeros(2, 3), torch.tensor([0, -100]), r"labels must be in \[0, 3\), got -100 to 0"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"labels must be in \[0, 3\), got 0 to 3"),
        (torch.zeros(2, 3), LABELS.int(), r"labels must be int64 \[2\], got torch.int32 \[2\]"),
        (torch.zeros(2, 3), LABELS[:1], r"labels must be int64 \[2\], got torch.int64 \[1\]"),
    ],
)
def test_every_strategy_refuses(strategy: str, student: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss_of(strategy, student, labels)


def test_learned_refuses_teachers_of_other_classes() -> None:
    teachers = [lambda batch: torch.zeros(2, 4)] * 2
    objective = LearnedTeachers(teachers, Distill(strategy="amtml_kd"), num_classes=3, prior=None)
    with pytest.raises(ValueError, match=r"teacher_logits must be \[2, 2, 3\] for .* got \[2, 2, 4\]"):
        objective(Batch(LABELS, torch.zeros(2, 3), LABELS), torch.zeros(2, 3), 0.0)


@pytest.mark.parametrize("strategy", ["amtml_kd", "self_distillation"])
def test_strategies_with_parameters_of_their_own_are_objectives(strategy: str) -> None:
    message = (
        rf"distill.strategy must be one of labels, .*, akgp, .*, got '{strategy}', "
        "which has parameters of its own and is an objective"
    )
    with pytest.raises(ValueError, match=message):
        strategy_loss(
            torch.zeros(2, 3),
            torch.zeros(2, 2, 3),
            LABELS,
            params=Distill.model_validate({"strategy": strategy}),
        )


# The branch-stack


def stacked(**changes: Any) -> WeightEstimate:
    generator = torch.Generator().manual_seed(0)
    given: dict[str, Any] = {
        "labels_only": torch.randn(6, 3, generator=generator),
        "teacher_only": torch.randn(6, 3, generator=generator),
        "labels": torch.arange(6) % 3,
        "class_counts": torch.tensor([5, 5, 5]),
        "prior": 0.7,
    }
    return stacked_weight(**given | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior": 7}, r"prior must be in \[0, 1\], got 7"),
        ({"prior": -0.1}, r"prior must be in \[0, 1\], got -0.1"),
        ({"prior": math.nan}, r"prior must be in \[0, 1\], got nan"),
        (
            {"labels_only": torch.eye(3)[:1], "teacher_only": torch.eye(3)[1:2], "labels": torch.tensor([0])},
            "labels must be of two calibration images or more, and more than teachers, got 1",
        ),
        ({"labels_only": torch.full((6, 3), math.nan)}, "labels_only, labels: a logit is not finite"),
        ({"teacher_only": torch.full((6, 3), math.inf)}, "teacher_only, labels: a logit is not finite"),
        ({"labels_only": torch.zeros(6)}, r"labels_only, labels: logits must be \[N, C\] .* got \[6\]"),
        ({"teacher_only": torch.zeros(5, 3)}, r"teacher_only, labels: labels must be int64 \[5\], .* \[6\]"),
        ({"teacher_only": torch.zeros(6, 4)}, r"teacher_only must be \[6, 3\] like .*, got \[6, 4\]"),
        ({"labels": torch.tensor([0, 1, 2, 0, 1, 3])}, r"labels must be in \[0, 3\), got 0 to 3"),
        ({"class_counts": torch.tensor([5, 5])}, r"class_counts must be \[3\], got \[2\]"),
    ],
    ids=str,
)  # fmt: skip
def test_stacked_weight_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stacked(**changes)


@pytest.mark.parametrize("prior", [0, 1])
def test_stacked_weight_of_two_images_is_a_share(prior: float) -> None:
    """The least that it takes, with a belief at either end."""
    two = {"labels_only": torch.eye(3)[:2], "teacher_only": torch.eye(3)[1:], "labels": torch.tensor([0, 1])}
    assert 0 <= stacked(**two, prior=prior).weight <= 1


# The weights


def characteristics() -> DataProfile:
    """Of noisy labels, so that the posterior of every strategy is computed."""
    labels = torch.arange(300) % 3
    found = profile_data(4.0 * F.one_hot(labels, 3), labels)
    return found.model_copy(update={"noise_rate": 0.3, "noise_rate_low": 0.2})


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (NAN_LOGITS, LABELS, "logits, labels: a logit is not finite"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"labels must be in \[0, 3\), got 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), r"labels must be in \[0, 3\), got -1 to 0"),
        (torch.zeros(2, 3), LABELS.float(), r"labels must be int64 \[2\], got torch.float32 \[2\]"),
        (torch.zeros(2, 4), LABELS, r"logits must be \[N, 3\] and labels \[N\], got \[2, 4\] and \[2\]"),
    ],
)
@pytest.mark.parametrize("strategy", ["akgp", "fixed", "wsld"])
def test_weights_refuse(strategy: str, logits: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        teacher_weights(Distill.model_validate({"strategy": strategy}), characteristics(), logits, labels)
    with pytest.raises(ValueError, match=message):
        wrong_label_probability(characteristics(), logits, labels)


# Self-distillation


class Failing(nn.Module):
    """Raises after a first layer has answered."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.first(x)
        raise RuntimeError("no such image")


@pytest.mark.parametrize("mode", [nn.Module.train, nn.Module.eval])
def test_a_network_that_fails_is_left_as_it_was(mode: Callable[[nn.Module], nn.Module]) -> None:
    model = mode(Failing())
    training = model.training
    with pytest.raises(RuntimeError, match="no such image"):
        SelfDistillation(model, Distill(strategy="self_distillation"), torch.zeros(1, 3, 8, 8), prior=None)
    assert all(module.training == training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
