from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from akgp.distillation import (
    Ensemble,
    distillation_loss,
)
from tests.support.distillations import (
    loop_softmax,
    random_batch,
)


def loop_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, weight: list[float], temperature: float
) -> float:
    """The formula in plain Python, double precision, sample by sample."""
    total = 0.0
    for z_s, z_t, y, w in zip(student.tolist(), teacher.tolist(), labels.tolist(), weight, strict=True):
        p_s, p_t = loop_softmax(z_s, temperature), loop_softmax(z_t, temperature)
        divergence = sum(t * math.log(t / s) for t, s in zip(p_t, p_s, strict=True))
        total += (1 - w) * -math.log(loop_softmax(z_s, 1)[y]) + w * temperature**2 * divergence
    return total / len(labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 20.0])
def test_loss_is_the_formula(temperature: float) -> None:
    student, teacher, labels, weight = random_batch()
    expected = loop_loss(student, teacher, labels, weight.tolist(), temperature)
    loss = distillation_loss(student, teacher, labels, teacher_weight=weight, temperature=temperature)
    assert loss.shape == () and loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    exact = distillation_loss(
        student.double(), teacher.double(), labels, teacher_weight=weight.double(), temperature=temperature
    )
    assert exact.item() == pytest.approx(expected, rel=1e-12)


def test_one_weight_for_all_is_the_same_weight_for_each() -> None:
    student, teacher, labels, _ = random_batch()
    for weight in (0.0, 0.3, 1.0, torch.tensor(0.3)):
        loss = distillation_loss(student, teacher, labels, teacher_weight=weight, temperature=3.0)
        each = torch.full((len(labels),), float(weight))
        assert loss == distillation_loss(student, teacher, labels, teacher_weight=each, temperature=3.0)


def test_ends_are_cross_entropy_and_softened_divergence() -> None:
    student, teacher, labels, _ = random_batch()
    only_labels = distillation_loss(student, teacher, labels, teacher_weight=0, temperature=4.0)
    torch.testing.assert_close(only_labels, F.cross_entropy(student, labels))
    only_teacher = distillation_loss(student, teacher, labels, teacher_weight=1, temperature=4.0)
    divergence = F.kl_div((student / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="batchmean")
    torch.testing.assert_close(only_teacher, 16 * divergence)
    smoothed = distillation_loss(
        student, teacher, labels, teacher_weight=0, temperature=4.0, label_smoothing=0.1
    )
    torch.testing.assert_close(smoothed, F.cross_entropy(student, labels, label_smoothing=0.1))


def test_at_temperature_1_mixing_losses_is_mixing_targets() -> None:
    student, teacher, labels, weight = random_batch()
    student.requires_grad_()
    distillation_loss(student, teacher, labels, teacher_weight=weight, temperature=1.0).backward()
    w = weight[:, None]
    target = (1 - w) * F.one_hot(labels, 4) + w * teacher.softmax(1)
    torch.testing.assert_close(student.grad, (student.detach().softmax(1) - target) / len(labels))


def test_gradient_reaches_the_student_alone() -> None:
    student, teacher, labels, weight = (
        t.double() if t.is_floating_point() else t for t in random_batch(size=3)
    )
    for tensor in (student, teacher, weight):
        tensor.requires_grad_()

    def loss(logits: Tensor) -> Tensor:
        return distillation_loss(logits, teacher, labels, teacher_weight=weight, temperature=2.0)

    assert torch.autograd.gradcheck(loss, (student,))
    loss(student).backward()
    assert student.grad is not None and teacher.grad is None and weight.grad is None


def test_teacher_imitated_exactly_costs_nothing() -> None:
    _, teacher, labels, _ = random_batch()
    student = (teacher + 5.0).requires_grad_()  # logits have no zero point
    loss = distillation_loss(student, teacher, labels, teacher_weight=1.0, temperature=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-6, rtol=0)


def test_half_precision_is_computed_in_single() -> None:
    student, teacher, labels, weight = random_batch()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    arguments: dict[str, Any] = {"teacher_weight": weight, "temperature": 2.0}
    expected = distillation_loss(student.float(), teacher.float(), labels, **arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = distillation_loss(student, teacher, labels, **arguments)
    assert loss.dtype == torch.float32 and loss == expected


def test_huge_logits_stay_finite() -> None:
    labels = torch.tensor([0, 1])
    student = torch.tensor([[1e4, -1e4], [1e4, -1e4]]).requires_grad_()
    loss = distillation_loss(student, -student.detach(), labels, teacher_weight=0.5, temperature=1.0)
    loss.backward()
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student_logits": torch.zeros(2)}, r"student_logits must be \[B, C\] with B > 0, got \[2\]"),
        ({"student_logits": torch.zeros(0, 3)}, r"student_logits must be \[B, C\] with B > 0, got \[0, 3\]"),
        (
            {"teacher_logits": torch.zeros(2, 4)},
            r"must be \[2, 3\] like student_logits, got \[2, 4\]: .* classes",
        ),
        ({"labels": torch.tensor([0])}, r"labels must be int64 \[2\], got torch.int64 \[1\]"),
        ({"labels": torch.tensor([0.0, 1.0])}, r"labels must be int64 \[2\], got torch.float32"),
        ({"labels": torch.tensor([0, 3])}, r"labels must be in \[0, 3\), got 0 to 3"),
        ({"labels": torch.tensor([-1, 2])}, r"labels must be in \[0, 3\), got -1 to 2"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0, got 0"),
        ({"temperature": math.inf}, "temperature must be a finite number above 0, got inf"),
        ({"temperature": math.nan}, "temperature must be a finite number above 0, got nan"),
        ({"label_smoothing": -1.0}, r"label_smoothing must be in \[0, 1\), got -1"),
        ({"largest_weight": -1.0}, "largest_weight must be 1 or more, got -1"),
        ({"teacher_weight": 1.2}, r"teacher_weight must be in \[0, 1\], got 1.2"),
        ({"teacher_weight": math.nan}, r"teacher_weight must be in \[0, 1\], got nan"),
        (
            {"teacher_weight": torch.tensor([0.5, -0.1])},
            r"teacher_weight must be in \[0, 1\], got -0.1 to 0.5",
        ),
        ({"teacher_weight": torch.full((2, 1), 0.5)}, r"number or one a sample \[2\], got \[2, 1\]"),
    ],
)
def test_loss_refuses(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "student_logits": torch.zeros(2, 3), "teacher_logits": torch.zeros(2, 3),
        "labels": torch.tensor([0, 1]), "teacher_weight": 0.5, "temperature": 2.0,
    } | changes  # fmt: skip
    positional = [arguments.pop(name) for name in ("student_logits", "teacher_logits", "labels")]
    with pytest.raises(ValueError, match=message):
        distillation_loss(*positional, **arguments)


def test_ensemble_is_the_mean_of_the_probabilities() -> None:
    networks = [torch.nn.Linear(5, 3) for _ in range(3)]
    inputs = torch.randn(4, 5)
    mean = sum(network(inputs).softmax(1) for network in networks) / 3
    torch.testing.assert_close(Ensemble(networks)(inputs).softmax(1), mean)
    with pytest.raises(ValueError, match="at least one network, got none"):
        Ensemble([])
