"""Batch size and learning rate where they are left out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from akgp import params
from akgp.data import IndexedSource
from akgp.params import Augment, Params, Training
from akgp.params.training_defaults import announcement, dense_training, resolved, student_training
from akgp.recipes import available
from akgp.training import cross_entropy, train


def step_size(training: Training) -> tuple[int | None, float | None]:
    return training.batch_size, training.learning_rate


@pytest.mark.parametrize("images, batch", [
    (1, 16), (100, 16), (400, 16), (600, 32), (640, 32), (1078, 32), (3000, 64), (5000, 64),
    (40000, 128), (10**7, 128),
])  # fmt: skip
def test_the_batch_follows_the_images_and_the_rate_the_batch(images: int, batch: int) -> None:
    assert step_size(resolved(Training(), images)) == (batch, pytest.approx(0.2 * batch / 128))


def test_more_images_never_have_a_smaller_batch_and_an_epoch_enough_steps() -> None:
    sizes = [resolved(Training(), images).batch_size or 0 for images in range(1, 5000)]
    assert sizes == sorted(sizes)
    assert all(images / size >= 14 for images, size in enumerate(sizes, 1) if size > 16)


def test_what_is_given_stays() -> None:
    assert step_size(resolved(Training(batch_size=50), 600)) == (50, pytest.approx(0.2 * 50 / 128))
    assert step_size(resolved(Training(learning_rate=0.3), 600)) == (32, 0.3)
    given = Training(batch_size=7, learning_rate=1.0)
    assert resolved(given, 600, workers=(2,), pretrained=True) == given


def test_pretrained_weights_get_a_tenth_of_the_rate() -> None:
    scratch, pretrained = (resolved(Training(), 600, pretrained=which) for which in (False, True))
    assert scratch.batch_size == pretrained.batch_size
    assert pretrained.learning_rate == pytest.approx((scratch.learning_rate or math.nan) / 10)


@pytest.mark.parametrize("workers", [(2,), (3,), (2, 3), (1, 2, 3, 4), (5, 6, 7), (200,)])
def test_every_number_of_workers_shares_the_batch(workers: tuple[int, ...]) -> None:
    for images in (10, 600, 5000, 40000):
        batch = resolved(Training(), images, workers=workers).batch_size or 0
        assert batch and all(batch % count == 0 for count in workers)


def test_the_largest_batch_has_an_allowed_rate() -> None:
    Training.model_validate(resolved(Training(batch_size=10**6), 10**7).model_dump())


def with_recipe(**changes: object) -> Params:
    tree = params.load(available()["digits"]).model_dump(mode="json") | changes
    for training in (tree["teacher"], tree["distill"]["training"]):
        training |= {"batch_size": None, "learning_rate": None}
    return params.validate(tree)


def test_only_networks_from_pretrained_weights_are_trained_gently() -> None:
    networks = {
        "new": {"architecture": "resnet18"},
        "pretrained": {"architecture": "resnet18", "weights": "DEFAULT"},
    }
    data = {"source": "image_folder", "path": "images", "splits": {"test": 0.2}}
    asked = with_recipe(networks=networks, data=data, teachers=["new"], student="pretrained")
    assert step_size(dense_training(asked, "new", 600)) == (32, 0.05)
    assert step_size(dense_training(asked, "pretrained", 600)) == (32, pytest.approx(0.005))
    assert step_size(student_training(asked, 600)) == (32, 0.05)


def test_workers_that_come_and_go_share_the_default() -> None:
    ray = {"address": "auto", "workers": 3, "min_workers": 2}
    assert (dense_training(with_recipe(ray=ray), "resnet20", 600).batch_size or 0) % 6 == 0


def test_recipes_with_recorded_results_leave_nothing_to_the_rule() -> None:
    expected = {"digits": (64, 0.1), "cifar10-quick": (128, 0.2), "cifar10-resnet32": (128, 0.1)}
    for name, (batch, rate) in expected.items():
        recipe = params.load(available()[name])
        for training in (recipe.teacher, recipe.distill.training):
            assert step_size(training) == (batch, rate)


def test_the_rule_is_told_where_it_is_used() -> None:
    given = Training(batch_size=8, learning_rate=0.1)
    assert announcement(given, given, 600) is None
    said = announcement(Training(), resolved(Training(), 1200), 1200)
    assert said == "for 1,200 training images: batch_size 32, learning_rate 0.05"


def test_the_library_trains_by_the_rule_too(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (40, 1, 4, 4), generator=generator, dtype=torch.uint8)
    images = IndexedSource(pixels, torch.arange(40) % 2, [0.5], [0.25])
    changes = {"epochs": 2, "augment": Augment(crop_padding=0, flip=False), "precision": "fp32"}
    rows = []
    for training in (Training(**changes), Training(**changes, batch_size=16, learning_rate=0.025)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        epochs = train(model, images, images, params=training, objective=cross_entropy(), seed=0)
        rows.append([{key: row[key] for key in ("loss", "learning_rate")} for row in (e.row for e in epochs)])
    assert rows[0] == rows[1]
