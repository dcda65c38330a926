"""Distillation as a notebook does it: tensors and networks in, a student and its weights out; no folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from akgp.data.batches import Batch, IndexedSource
from akgp.distillation import (
    Distillation,
    DistillationData,
    Teacher,
    ask_teachers,
    estimate_w0,
    teacher_weights,
)
from akgp.distillation.strategies import TEACHER_WEIGHT
from akgp.params import Augment, Distill, Training
from akgp.training import TrainingError

TRAINING = Training(
    epochs=3, batch_size=16, learning_rate=0.1, warmup_epochs=0, precision="fp32",
    augment=Augment(crop_padding=0, flip=False),
)  # fmt: skip


def brightness(count: int, seed: int) -> IndexedSource:
    """Three classes told apart by brightness."""
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 60, (count, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    pixels = (noise + 90 * labels[:, None, None, None]).to(torch.uint8)
    return IndexedSource(pixels, labels, mean=[0.5], std=[0.25])


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


class Knowing(nn.Module):
    """Logits by the mean brightness: right nearly always."""

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean((1, 2, 3))[:, None]
        return -4 * (level - torch.tensor([-1.5, -0.1, 1.3])).square()


@pytest.fixture
def data() -> DistillationData:
    splits = (brightness(48, 0), brightness(24, 1), brightness(30, 2))
    return ask_teachers([Teacher([Knowing()]), Teacher([linear(1)])], Teacher([linear(2)]), *splits)


def test_a_distillation_needs_tensors_and_networks_alone(
    data: DistillationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    student, params = linear(3), Distill(training=TRAINING)
    run = Distillation(student, data, params)
    rows = [epoch.row for epoch in run]
    result = run.result
    assert [row["epoch"] for row in rows] == [1, 2, 3] and rows[-1]["loss"] < rows[0]["loss"]
    assert result.student is student and not student.training
    estimate = estimate_w0(data, params)
    assert estimate and result.w0 == estimate[0] and result.shares is not None
    assert torch.equal(result.shares, estimate[1]) and result.shares[0] > result.shares[1]
    given = params.model_copy(update={"w0": estimate[0].weight})
    expected = teacher_weights(given, data.profile, data.noise_judge.logits, data.images.labels)
    assert result.weights is not None and expected is not None and torch.equal(result.weights, expected)
    assert result.profile == data.profile and result.training.batch_size == 16
    assert list(tmp_path.iterdir()) == []


def test_the_callers_random_numbers_stay_as_they_are(data: DistillationData) -> None:
    run = Distillation(linear(3), data, Distill(training=TRAINING), seed=1)
    expected = torch.get_rng_state()
    list(run)
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_weight_above_1_that_diverges_is_named(data: DistillationData) -> None:
    """Against labels of which the teacher is not sure the loss has no lower bound."""
    training = TRAINING.model_copy(update={"epochs": 12, "learning_rate": 100.0, "weight_decay": 0.0})
    params = Distill(strategy="fixed", w0=2.0, temperature=1.0, training=training)
    with pytest.raises(TrainingError, match=r"^loss is -.*or lower distill\.w0 \(2\): above 1"):
        list(Distillation(linear(3), data, params, teachers=[lambda batch: torch.zeros(16, 3)]))


HALF_MIXED = Augment(mixup=0.2, mix_share=0.5)


@pytest.mark.parametrize(
    ("w0", "augment", "asked"), [(0.0, Augment(), False), (0.0, HALF_MIXED, True), (0.5, Augment(), True)]
)
def test_teachers_whose_weight_is_0_everywhere_are_not_asked(
    data: DistillationData, w0: float, augment: Augment, asked: bool
) -> None:
    """The weight comes as a column of the images: the teacher's of each, by its position. Mixed images have
    no other label than the teacher's.
    """
    params, batches = Distill(strategy="fixed", w0=w0, training=Training(augment=augment)), list[Batch]()

    def teacher(batch: Batch) -> Tensor:
        batches.append(batch)
        return torch.zeros(len(batch.labels), 3)

    run = Distillation(linear(3), data, params, teachers=[teacher])
    (batch,) = run.images().ordered(batch_size=48)
    assert batch.columns[TEACHER_WEIGHT].tolist() == [w0] * 48
    run.objective()(batch, torch.zeros(48, 3), 0.0)
    assert bool(batches) == asked


@pytest.mark.parametrize(
    ("given", "passes", "weight"),
    [
        ({"strategy": "labels"}, 0, 0.0),
        ({"strategy": "labels", "augment": {}}, 0, 0.0),
        ({"strategy": "fixed", "w0": 0.0}, 0, 0.0),
        ({"strategy": "fixed", "w0": 0.25}, 3, 0.25),
        ({"strategy": "fixed", "w0": 0.25, "teacher_views": 2}, 2, 0.25),
        ({"strategy": "fixed", "w0": 0.25, "augment": {"mixup": 0.2, "mix_share": 0.5}}, 3, 0.625),
        ({"strategy": "dist"}, 3, None),
        ({"strategy": "self_distillation", "heads": ("0",)}, 0, None),
    ],
    ids=str,
)
def test_what_the_teachers_did_is_told(
    data: DistillationData, given: dict[str, Any], passes: int, weight: float | None
) -> None:
    """Their passes over the images, and their mean weight, which is 1 for mixed images."""
    training = TRAINING.model_dump() | {"augment": given.get("augment", TRAINING.augment.model_dump())}
    given = {key: value for key, value in given.items() if key != "augment"}
    student = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(64, 3))
    run = Distillation(student, data, Distill.model_validate({"training": training, **given}))
    list(run)
    assert run.result.teacher_passes == passes
    weights = run.result.trained_weights
    assert (weights is None) == (weight is None)
    assert weights is None or weights.tolist() == pytest.approx([weight] * len(weights))
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in student.modules())


def test_branches_ask_the_teachers_in_one_of_two(data: DistillationData) -> None:
    """Of three epochs the trunk is one, and a branch one; the rest asks if what was measured is above 0."""
    run = Distillation(linear(3), data, Distill(w0=0.5, w0_from="branches", training=TRAINING))
    list(run)
    assert run.result.w0 and run.result.teacher_passes == 2 + 2 * (run.result.w0.weight > 0)


def test_networks_that_know_other_classes_are_refused() -> None:
    splits = (brightness(48, 0), brightness(24, 1), brightness(30, 2))
    other = Teacher([nn.Sequential(nn.Flatten(), nn.Linear(16, 4))])
    with pytest.raises(ValueError, match=r"teachers must know the same classes, got \[3, 4\] of them"):
        ask_teachers([Teacher([linear(1)]), other], None, *splits)
    with pytest.raises(ValueError, match="dense must know the classes of the teachers: 4 and 3"):
        ask_teachers([Teacher([linear(1)])], other, *splits)


@pytest.mark.parametrize(
    "changes",
    [{}, {"w0_from": "branches"}, {"w0": 0.4, "w0_from": "branches"}, {"w0": 0.4}, {"strategy": "amtml_kd"}],
    ids=str,
)
def test_a_distillation_is_resumed_from_the_state_of_any_epoch(
    data: DistillationData, changes: dict[str, Any]
) -> None:
    params = Distill.model_validate({"training": TRAINING.model_dump(), **changes})
    whole = Distillation(linear(3), data, params)
    states = [copy.deepcopy(epoch.state) for epoch in whole]
    for number in (0, len(states) - 1):
        again = Distillation(linear(3), data, params, state=copy.deepcopy(states[number]))
        assert len(list(again)) == len(states) - 1 - number
        one, other = whole.result.student.state_dict(), again.result.student.state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert again.result.w0 == whole.result.w0
        assert (whole.result.shares is None) == (again.result.shares is None)
        if whole.result.shares is not None and again.result.shares is not None:
            assert torch.equal(whole.result.shares, again.result.shares)


def test_a_teacher_of_several_networks_says_which_answers_which_image() -> None:
    with pytest.raises(ValueError, match="a teacher is one network, or several and a fold, got 2"):
        Teacher([linear(0), linear(1)])
    with pytest.raises(ValueError, match="a teacher is one network, or several and a fold, got 0"):
        Teacher([])
