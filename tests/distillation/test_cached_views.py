"""Teachers asked once about K views say what they would say in the step, and a training with them resumes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from akgp.data.batches import Batch, IndexedSource
from akgp.data.views import VIEW
from akgp.distillation import Distillation, DistillationData, Teacher, ask_teachers, frozen_teacher
from akgp.distillation.cached_views import ANSWERS, CLASSES, TOP, ask_about_views, packed, unpacked
from akgp.params import Augment, Distill, Training

AUGMENT = Augment(crop_padding=2, policy="trivial", erasing=0.3)
TRAINING = Training(
    epochs=4, batch_size=8, learning_rate=0.05, warmup_epochs=0, precision="fp32", augment=AUGMENT
)


def images(count: int = 30, seed: int = 0) -> IndexedSource:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 6, 6), generator=generator, dtype=torch.uint8)
    return IndexedSource(pixels, torch.arange(count) % 3, (0.5,) * 3, (0.25,) * 3)


def linear(seed: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, classes))


def epoch(source: Any, number: int) -> list[Batch]:
    return list(source.epoch(batch_size=8, augment=AUGMENT, seed=0, epoch=number))


def test_views_are_shown_in_turn_and_always_the_same() -> None:
    source, shown = images().with_views(Augment(crop_padding=2, policy="trivial"), 3, seed=1), {}
    for number in range(6):
        for batch in epoch(source, number):
            for index, view, image in zip(
                batch.index.tolist(), batch.columns[VIEW], batch.inputs, strict=True
            ):
                before = shown.setdefault((index, int(view)), image)
                assert torch.equal(before, image) and int(view) == (number + index) % 3
    assert not torch.equal(shown[0, 0], shown[0, 1])
    for view in range(3):
        (batch,) = source.ordered(batch_size=99, view=view)
        assert all(torch.equal(image, shown.get((i, view), image)) for i, image in enumerate(batch.inputs))
    few = source.take(torch.tensor([7, 2]))
    (batch,) = few.ordered(batch_size=2, view=1)
    assert torch.equal(batch.inputs[0], shown[7, 1]) and batch.columns[VIEW].tolist() == [1, 1]


@pytest.mark.parametrize("classes", [3, 100])
def test_answers_are_those_in_the_step(classes: int) -> None:
    params = Distill(teacher_views=2, training=Training(augment=Augment(crop_padding=2)))
    networks = [linear(seed, classes) for seed in (1, 2)]
    asked = [frozen_teacher(network) for network in networks]
    source, teachers, answers = ask_about_views(
        images(), asked, params, classes=classes, seed=3, device=torch.device("cpu")
    )
    assert answers[ANSWERS].dtype == torch.float16
    assert answers[ANSWERS].shape == (30, 2, 2, min(classes, TOP)) and (CLASSES in answers) == (classes > 64)
    for batch in (*epoch(source, 0), *epoch(source, 1)):
        for teacher, ask in zip(teachers, asked, strict=True):
            expected, said = ask(batch).softmax(1), teacher(batch).softmax(1)
            if classes == 3:
                torch.testing.assert_close(said, expected, atol=1e-3, rtol=0)
            best = expected.topk(TOP).indices if classes > 64 else torch.arange(3).expand(len(said), -1)
            torch.testing.assert_close(said.gather(1, best), expected.gather(1, best), atol=1e-3, rtol=5e-3)
            torch.testing.assert_close(said.sum(1), torch.ones(len(said)), atol=1e-3, rtol=0)


def test_classes_that_are_not_kept_share_the_rest() -> None:
    logits = torch.zeros(1, 100)
    logits[0, 40] = 3.0
    kept = packed(logits)
    said = unpacked(kept[ANSWERS], kept[CLASSES], 100).exp()
    torch.testing.assert_close(said, logits.softmax(1), atol=1e-4, rtol=2e-3)


def data() -> DistillationData:
    splits = (images(30), images(15, 1), images(15, 2))
    return ask_teachers([Teacher([linear(1)])], None, *splits)


def test_a_training_with_views_asks_no_teacher_in_the_step_and_resumes() -> None:
    calls: list[int] = []

    def teacher(batch: Batch) -> Tensor:
        calls.append(len(batch.labels))
        return linear(1)(batch.inputs).detach()

    given = Distill(strategy="fixed", w0=0.5, teacher_views=2, training=TRAINING)
    whole = Distillation(linear(5), data(), given, teachers=[teacher])
    states = [copy.deepcopy(epoch.state) for epoch in whole]
    assert sum(calls) == 2 * 30
    resumed = Distillation(linear(5), data(), given, teachers=[teacher], state=states[1])
    assert len(list(resumed)) == 2 and sum(calls) == 2 * 30, "the answers come from the state"
    for one, other in zip(
        whole.result.student.parameters(), resumed.result.student.parameters(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "self_distillation"}, "teacher_views: strategy 'self_distillation' has no teacher"),
        ({"w0_from": "branches"}, "teacher_views must be null with w0_from: branches"),
        ({"training": {"augment": {"mixup": 0.2}}}, "teacher_views: an image is mixed with another one"),
    ],
)
def test_what_views_do_not_go_with(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distill.model_validate({"teacher_views": 4} | changes)
