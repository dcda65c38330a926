"""What the tests of distillation share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from akgp import params
from akgp.data.batches import IndexedSource
from akgp.training import train


def random_batch(size: int = 7, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, size, classes, generator=generator)
    labels = torch.randint(classes, (size,), generator=generator)
    return student, teacher, labels, torch.rand(size, generator=generator)


def distill(**changes: Any) -> params.Distill:
    return params.Distill.model_validate(changes)


def loop_softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(z / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def world(
    *,
    samples: int = 4000,
    classes: int = 10,
    noise: float = 0.0,
    flips: bool | tuple[int, ...] = False,
    skill: float = 9.0,
    jitter: float = 0.0,
    counts: list[int] | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """A teacher's logits, labels of which `noise` are wrong, and which are.

    The teacher gives the true class the logit `skill` more, plus normal noise of size `jitter`.
    Wrong labels are the next class (`flips`), the class that `flips` names of each, itself for none, or any
    other.
    """
    generator = torch.Generator().manual_seed(seed)
    if counts is None:
        true = torch.randint(classes, (samples,), generator=generator)
    else:
        true = torch.arange(classes).repeat_interleave(torch.tensor(counts))
        samples = len(true)
    wrong = torch.rand(samples, generator=generator) < noise
    shift = torch.ones_like(true) if flips else torch.randint(1, classes, (samples,), generator=generator)
    other = torch.tensor(flips)[true] if isinstance(flips, tuple) else (true + shift) % classes
    labels = torch.where(wrong, other, true)
    wrong &= labels != true
    logits = skill * F.one_hot(true, classes) + jitter * torch.randn(samples, classes, generator=generator)
    return logits, labels, wrong


Logits = list[float]


def loop_logs(logits: Logits, temperature: float = 1.0) -> list[float]:
    """log softmax(z / T)."""
    return [math.log(p) for p in loop_softmax(logits, temperature)]


def loop_softened(logits: Logits, given: params.Distill) -> list[float]:
    """softmax(z / T), of Z-scores (Sun et al. 2024, algorithm 1) where `logit_std` is set."""
    if given.logit_std:
        mean = sum(logits) / len(logits)
        deviation = math.sqrt(sum((z - mean) ** 2 for z in logits) / len(logits))
        logits = [(z - mean) / deviation for z in logits]
    return loop_softmax(logits, given.temperature)


def loop_divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def loop_label_loss(student: Logits, y: int, given: params.Distill) -> float:
    """(1 − ε)·−log p_y + ε/C·Σ_c −log p_c."""
    logs, share = loop_logs(student), given.training.label_smoothing
    return (1 - share) * -logs[y] - share * sum(logs) / len(logs)


def several_teachers(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student, teachers' logits [K, B, C], labels, weights; double precision."""
    student, _, labels, weight = random_batch()
    teachers = torch.stack([random_batch(seed=10 + k)[1] for k in range(count)])
    return student.double(), teachers.double(), labels, weight.double()


def small_images(count: int, seed: int) -> IndexedSource:
    """Three classes told apart by brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 60, (count, 3, 8, 8), generator=generator)
    pixels = (pixels + 90 * labels[:, None, None, None]).to(torch.uint8)
    return IndexedSource(pixels, labels, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def trained_on(objective: Any, model: torch.nn.Module, **changes: Any) -> list[dict[str, float]]:
    training = {"epochs": 3, "batch_size": 16, "augment": {"crop_padding": 0, "flip": False}} | changes
    epochs = train(
        model, small_images(48, 0), small_images(24, 1), objective=objective, seed=1,
        params=params.Training.model_validate(training),
    )  # fmt: skip
    return [epoch.row for epoch in epochs]
