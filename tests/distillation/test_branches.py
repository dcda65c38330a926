"""The branch-stack weight, against least squares, the bootstrap and an undisturbed training."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data.batches import Batch, IndexedSource
from akgp.distillation import (
    WeightEstimate,
    distillation_loss,
    stacked_weight,
    stacked_weights,
    train_measured,
)
from akgp.distillation.profile.calibration import calibration_temperature
from akgp.distillation.profile.classes import class_weights
from akgp.distillation.teacher_weight.answers import SPREAD
from akgp.models import cifar_resnet
from akgp.params import Training
from akgp.params.strategies import branch_epochs
from akgp.training import Epoch, Objective, train

CLASSES = 5
BALANCED, PRIOR = torch.full((CLASSES,), 100), 0.7


def sample(count: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """True classes, given labels of which `noise` are wrong, and a source of logits' noise [N, C]."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(0, CLASSES, (count,), generator=generator)
    wrong = torch.rand(count, generator=generator) < noise
    shift = torch.randint(1, CLASSES, (count,), generator=generator)
    return (
        true,
        torch.where(wrong, (true + shift) % CLASSES, true),
        torch.randn(count, CLASSES, generator=generator),
    )


def test_weight_is_the_least_squares_mixture_with_its_bootstrap_error() -> None:
    true, given, noise = sample(4000, 0.3)
    a, b = F.one_hot(true, CLASSES) + noise, 2 * F.one_hot(true, CLASSES) + 1.5 * noise.roll(1, 0)
    counts = torch.tensor([900, 500, 300, 200, 100])
    measured = stacked_weight(a, b, given, counts, PRIOR)

    v = class_weights(given, counts)
    p, q = ((z.double() / calibration_temperature(z, given, v)).softmax(1).numpy() for z in (a, b))
    y, root = np.eye(CLASSES)[given], v.sqrt().numpy()[:, None]

    def fitted(rows: np.ndarray) -> float:
        design = (root * (q - p))[rows].reshape(-1, 1)
        return float(np.linalg.lstsq(design, (root * (y - p))[rows].ravel(), rcond=None)[0][0])

    random = np.random.default_rng(0)
    again = [fitted(random.integers(0, len(true), len(true))) for _ in range(400)]
    assert measured.raw == pytest.approx(fitted(np.arange(len(true))))
    assert measured.error == pytest.approx(np.std(again), rel=0.12)
    shrunk = PRIOR + (measured.raw - PRIOR) * SPREAD**2 / (SPREAD**2 + measured.error**2)
    assert measured.weight == pytest.approx(min(max(shrunk, 0), 1))


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_a_branch_that_knows_nothing_gets_no_weight(noise: float) -> None:
    true, given, logits = sample(2000, noise)
    knowing = 3 * F.one_hot(true, CLASSES) + logits
    constant = torch.zeros(2000, CLASSES) + torch.tensor([0.3, 0.1, 0.0, 0.0, 0.2])
    assert stacked_weight(knowing, constant, given, BALANCED, PRIOR).weight < 0.05
    assert stacked_weight(constant, knowing, given, BALANCED, PRIOR).weight > 0.95


@pytest.mark.parametrize(("better", "raw"), [(1.0, 0.5), (1.5, 0.75), (2.0, 0.88)])
def test_noise_between_all_classes_cancels(better: float, raw: float) -> None:
    """For two that are equally good, and for one that is better: calibration takes it up."""
    true, given, logits = sample(20_000, 0.4)
    a, b = F.one_hot(true, CLASSES) + logits, better * F.one_hot(true, CLASSES) + logits.roll(1, 0)
    clean, noisy = (stacked_weight(a, b, labels, BALANCED, PRIOR) for labels in (true, given))
    assert clean.raw == pytest.approx(raw, abs=0.03) and noisy.raw == pytest.approx(raw, abs=0.04)
    assert clean.error and noisy.error and clean.error < noisy.error < 0.1


def test_branches_that_agree_say_nothing() -> None:
    _, given, logits = sample(50, 0.0)
    assert stacked_weight(logits, logits, given, BALANCED, PRIOR) == WeightEstimate(PRIOR, PRIOR, None, PRIOR)


def test_weights_of_several_are_the_likeliest_of_all_that_are_shares() -> None:
    """By least squares, the bootstrap, Bayes' rule in its other form, and a search of all shares."""
    true, given, noise = sample(3000, 0.2, seed=4)
    known = F.one_hot(true, CLASSES)
    a = known + noise
    teachers = torch.stack(
        [scale * known + 1.5 * noise.roll(k, 0) for k, scale in enumerate((1.2, 0.5, 2.0), 1)]
    )
    measured, shares = stacked_weights(a, teachers, given, BALANCED, PRIOR)
    ones = torch.ones(len(given))
    p, *q = (
        (z / calibration_temperature(z, given, ones)).double().softmax(1).numpy() for z in (a, *teachers)
    )
    design, left = np.stack([each - p for each in q], 2), np.eye(CLASSES)[given] - p

    def fitted(rows: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.lstsq(design[rows].reshape(-1, 3), left[rows].ravel(), rcond=None)[0])

    random = np.random.default_rng(0)
    raw = fitted(np.arange(3000))
    again = np.cov([fitted(random.integers(0, 3000, 3000)) for _ in range(400)], rowvar=False)
    assert measured.raw == pytest.approx(raw.sum())
    assert measured.error == pytest.approx(np.sqrt(again.sum()), rel=0.12)
    told, believed = np.linalg.inv(again), np.eye(3) / SPREAD**2
    mean = np.linalg.solve(told + believed, told @ raw + believed @ np.full(3, PRIOR / 3))
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 3), -1).reshape(-1, 3)
    grid = grid[grid.sum(1) <= 1] - mean
    best = grid[np.einsum("nk,kl,nl->n", grid, told + believed, grid).argmin()] + mean
    assert mean.min() < -0.01 and best[1] == pytest.approx(0), "one of them is worth less than nothing"
    np.testing.assert_allclose(measured.weight * shares, best, atol=0.02)


def test_several_teachers_share_by_what_each_knows() -> None:
    true, given, noise = sample(4000, 0.2, seed=5)
    known = F.one_hot(true, CLASSES)
    dense, weak = known + noise, 0.2 * known + noise.roll(1, 0)
    strong, constant = 4 * known + noise.roll(2, 0), torch.zeros_like(noise)

    def shares(*teachers: Tensor) -> tuple[float, list[float]]:
        found, shared = stacked_weights(dense, torch.stack(teachers), given, BALANCED, 0.3)
        return found.weight, shared.tolist()

    alone = stacked_weight(dense, strong, given, BALANCED, 0.3).weight
    w0, each = shares(weak, constant, strong)
    assert each == pytest.approx([0, 0, 1], abs=0.02) and w0 == pytest.approx(alone, abs=0.02)
    w0, each = shares(strong, strong)
    assert each == pytest.approx([0.5, 0.5]) and w0 == pytest.approx(alone, abs=0.02)
    w0, each = shares(constant, constant)
    assert w0 == pytest.approx(0, abs=0.02)
    w0, each = shares(dense, constant)
    assert w0 * each[0] == pytest.approx(0.15), "of its own network it learns nothing, and keeps its belief"
    w0, each = shares(dense, 20 * F.one_hot(given, CLASSES) + noise)
    assert w0 == pytest.approx(1) and each[0] < 0.01, "but gives way to one that is surely right"


def images(count: int = 64) -> IndexedSource:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return IndexedSource(pixels, labels, (0.5,) * 3, (0.2,) * 3)


def towards(weight: float) -> Objective:
    """(1 − w)·CE of the label + w·CE of another class: a teacher that always says the next class."""

    def objective(batch: Batch, logits: Tensor, progress: float) -> Tensor:
        label, teacher = (F.cross_entropy(logits, (batch.labels + shift) % CLASSES) for shift in (0, 1))
        return (1 - weight) * label + weight * teacher

    return objective


def measured(state: Any = None, **changes: Any) -> tuple[list[Epoch], nn.Module]:
    """All epochs of a small training whose weight is measured, their states copied, and the network."""
    torch.manual_seed(0)
    model, data = cifar_resnet(8, (4, 4, 4), CLASSES), images()
    given: dict[str, Any] = {"objective": towards, "params": Training(epochs=5, batch_size=32)} | changes
    epochs = train_measured(
        model, lambda w0: data, data, data, class_counts=BALANCED, prior=PRIOR, seed=0,
        state=state, **given,
    )  # fmt: skip
    return [Epoch(epoch.row, copy.deepcopy(epoch.state)) for epoch in epochs], model


def seen(count: int, noise: float, seed: int) -> tuple[Tensor, IndexedSource]:
    """True classes, and images that show them, with labels of which `noise` are wrong."""
    true, given, _ = sample(count, noise, seed)
    pattern = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    grain = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    pixels = 128 + 30 * (0.8 * pattern[true] + grain)
    return true, IndexedSource(pixels.clamp(0, 255).to(torch.uint8), given, (0.5,) * 3, (0.12,) * 3)


@pytest.mark.parametrize(("knows", "weight"), [(False, 0.0), (True, 1.0)], ids=["constant", "perfect"])
def test_a_training_with_wrong_labels_follows_who_knows(knows: bool, weight: float) -> None:
    """A constant teacher ends at 0, one that knows the true classes at 1, by branches of a real training."""
    true, data = seen(600, 0.4, 1)
    _, calibration = seen(600, 0.4, 2)
    answers = 6.0 * knows * F.one_hot(true, CLASSES)

    def objective(weight: float) -> Objective:
        return lambda batch, logits, progress: distillation_loss(
            logits, answers[batch.index], batch.labels, teacher_weight=weight, temperature=2.0
        )

    plain = {"augment": {"crop_padding": 0, "flip": False}}
    torch.manual_seed(0)
    *_, last = train_measured(
        cifar_resnet(8, (8, 8, 8), CLASSES), lambda w0: data, calibration, calibration,
        class_counts=BALANCED, prior=PRIOR, seed=0, objective=objective,
        params=Training.model_validate({"epochs": 10, "batch_size": 50, "learning_rate": 0.05} | plain),
    )  # fmt: skip
    assert last.state["measured"]["weight"] == pytest.approx(weight, abs=0.05)


def told(epochs: list[Epoch]) -> list[tuple[float | None, ...]]:
    return [(epoch.row["epoch"], epoch.row.get("branch"), epoch.row["loss"]) for epoch in epochs]


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_training_goes_on_where_it_was_killed_in_trunk_branches_and_rest() -> None:
    whole, model = measured()
    assert [row[:2] for row in told(whole)] == [
        (1, None), (2, None), (3, 0.0), (3, 1.0), (3, None), (4, None), (5, None),
    ]  # fmt: skip
    assert branch_epochs(5) == (2, 1)
    for killed in range(len(whole)):
        rest, resumed = measured(whole[killed].state)
        assert told(whole[: killed + 1]) + told(rest) == told(whole)
        assert same(model, resumed)


def test_the_branches_leave_no_trace_but_the_weight() -> None:
    """With an objective that does not depend on the weight, it is the ordinary training bit for bit."""
    _, model = measured(objective=lambda weight: towards(0.0))
    torch.manual_seed(0)
    plain, data = cifar_resnet(8, (4, 4, 4), CLASSES), images()
    for _ in train(
        plain, data, data, params=Training(epochs=5, batch_size=32),
        objective=towards(0.0), seed=0,
    ):  # fmt: skip
        pass
    assert same(model, plain)


def test_the_rate_of_a_branch_falls_to_zero_from_the_trunks() -> None:
    epochs, _ = measured(params=Training(epochs=20, batch_size=32))
    rates = {row["branch"]: [] for row in (epoch.row for epoch in epochs) if "branch" in row}
    trunk = [epoch.row["learning_rate"] for epoch in epochs if "branch" not in epoch.row][7]
    for epoch in epochs:
        if "branch" in epoch.row:
            rates[epoch.row["branch"]].append(epoch.row["learning_rate"])
    steps = 2 * np.arange(1, 4) - 1  # of the last step of each of three epochs of two steps
    assert rates[0.0] == rates[1.0] == pytest.approx(list(trunk * (1 - steps / 6)))
