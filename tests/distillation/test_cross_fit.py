"""Cross-fitting: folds, networks that answer for them, and what they keep from the student."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from akgp import params
from akgp.data.batches import Batch, IndexedSource
from akgp.distillation import cross_fitted, folds, out_of_fold
from akgp.orchestration import cross_fit
from akgp.orchestration.run import run_stage
from akgp.orchestration.worker import Compute
from akgp.stages import distill, prune, teacher, teaching
from akgp.stages.network_files import SOURCES
from akgp.stages.network_files import check as check_sources
from akgp.workspace import StageError, Task

# A long tail: 41, 17, 5 and 1 images of four classes, in no order.
LABELS = torch.tensor([0] * 41 + [1] * 17 + [2] * 5 + [3])[
    torch.randperm(64, generator=torch.Generator().manual_seed(1))
]


@pytest.mark.parametrize("count", [2, 3, 5, 64])
def test_folds_share_every_class_alike(count: int) -> None:
    fold = folds(LABELS, count, seed=0)
    assert fold.dtype == torch.int64 and sorted(set(fold.tolist())) == list(range(count))
    sizes = Counter(fold.tolist())
    assert max(sizes.values()) - min(sizes.values()) <= 1
    for label in range(4):
        of_class = [sum(1 for f, y in zip(fold, LABELS, strict=True) if f == k and y == label)
                    for k in range(count)]  # fmt: skip
        assert max(of_class) - min(of_class) <= 1


def test_folds_follow_from_labels_count_and_seed() -> None:
    assert torch.equal(folds(LABELS, 5, seed=3), folds(LABELS, 5, seed=3))
    assert not torch.equal(folds(LABELS, 5, seed=3), folds(LABELS, 5, seed=4))


@pytest.mark.parametrize("count", [0, 1, 65])
def test_folds_of_no_use_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"folds must be in \[2, 64\], the number of images, got {count}"):
        folds(LABELS, count, seed=0)


class Remembering(nn.Module):
    """Logits [B, 2] that name the network and the image (its first pixel); keeps what it was asked."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.asked: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        image = inputs[:, 0, 0, 0].round()
        self.asked += image.int().tolist()
        return torch.stack([torch.full_like(image, self.number), image], 1)


def numbered(count: int) -> IndexedSource:
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).clone()
    return IndexedSource(pixels, torch.zeros(count, dtype=torch.int64), [0.0], [1 / 255])


def test_an_image_is_answered_by_the_network_of_its_fold_alone() -> None:
    networks = [Remembering(k) for k in range(3)]
    fold = folds(LABELS, 3, seed=0)
    ask = cross_fitted(networks, fold)
    images = numbered(64)
    for index in torch.randperm(64, generator=torch.Generator().manual_seed(0)).split(7):
        logits = ask(Batch(index, images.pixels[index].float(), LABELS[index]))
        assert logits.tolist() == [[float(fold[i]), float(i)] for i in index]
    for network in networks:
        assert sorted(network.asked) == (fold == network.number).nonzero()[:, 0].tolist()
        assert not network.training


def test_a_batch_may_lack_folds() -> None:
    networks = [Remembering(k) for k in range(3)]
    ask = cross_fitted(networks, torch.tensor([1, 1, 0, 2]))
    index = torch.tensor([1, 0])
    logits = ask(Batch(index, numbered(4).pixels[index].float(), index))
    assert logits.tolist() == [[1.0, 1.0], [1.0, 0.0]]
    assert [network.asked for network in networks] == [[], [1, 0], []]


def test_logits_of_a_split_are_those_of_each_folds_network() -> None:
    networks = [Remembering(k) for k in range(5)]
    fold = torch.arange(64) % 5
    logits = out_of_fold(networks, numbered(64), fold, device="cpu")
    assert logits.tolist() == [[float(i % 5), float(i)] for i in range(64)]
    assert [sorted(network.asked) for network in networks] == [list(range(k, 64, 5)) for k in range(5)]


def tree(**changes: Any) -> dict[str, Any]:
    """Few digits, 40 % of them labelled wrong; a network that memorises them."""
    training = {
        "epochs": 30, "batch_size": 32, "learning_rate": 0.1, "weight_decay": 0.0, "keep": "last",
        "precision": "fp32", "augment": {"crop_padding": 0, "flip": False},
    }  # fmt: skip
    regime = {"subset": 250, "label_noise": 0.4}
    splits = {"test": 0.25, "calibration": 0.3, "validation": 0.1}
    return {
        "data": {"color": "gray", "splits": splits, "regime": regime},
        "networks": {"small": {"architecture": "cifar_resnet20", "widths": [8, 16, 16]}},
        "teachers": ["small"],
        "student": "small",
        "teacher": training,
        "prune": {"ratio": 0.5, "round_to": 4},
        "distill": {"training": training | {"epochs": 2}},
        "ray": {"cpus_per_worker": 1},
    } | changes


def prepared(root: Path, **changes: Any) -> Task:
    checked = params.validate(tree(**changes))
    (root / "params.yaml").write_text(params.dump(checked))
    run_stage("data", root=root)
    return Task("test", checked, root, "small")


def computed(compute: Compute, task: Task, out: Path) -> None:
    """Run a stage's computation here, without Ray."""
    out.mkdir(parents=True)
    for _ in compute(task, out, None):
        pass


def characteristics(task: Task) -> Iterator[dict[str, Any]]:
    """Those of the task as it is, then of a task without folds."""
    for each in (task, Task("test", task.params.model_copy(update={"folds": None}), task.root)):
        out = task.root / f"student-{each.params.folds}"
        computed(distill.compute, each, out)
        yield json.loads((out / "characteristics.json").read_text())


@pytest.mark.slow
def test_a_cross_fitted_teacher_has_not_memorised_what_it_teaches(tmp_path: Path) -> None:
    task = prepared(tmp_path, folds=3)
    computed(teacher.compute, task, task.workspace.dense("small"))
    for k in range(3):
        computed(partial(cross_fit.compute, fold=k), task, task.workspace.folds("small") / str(k))
    computed(prune.compute, task, task.workspace.pruned)
    fitted, in_sample = characteristics(task)
    assert in_sample["memorisation_gap"] < -0.2 and in_sample["folds"] is None
    assert abs(fitted["memorisation_gap"]) < 0.1 and fitted["folds"] == 3
    assert "a network that has not seen it, of 3 folds" in fitted["sentence"]
    assert "of 3 folds" not in in_sample["sentence"] and "memorised" not in fitted["sentence"]
    assert "memorised training labels, wrong ones too (`folds` is for that)" in in_sample["sentence"]


def test_without_folds_earlier_ones_go(tmp_path: Path) -> None:
    task = prepared(tmp_path)
    (task.workspace.folds("small") / "0").mkdir(parents=True)
    run_stage("folds", root=tmp_path)
    assert list(task.workspace.folds("small").iterdir()) == []
    assert teaching.networks(task) == [task.workspace.dense("small")]


def test_more_folds_than_images_of_a_class_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    task = prepared(tmp_path, folds=40)
    (task.workspace.folds("small") / "0").mkdir(parents=True)
    with pytest.raises(
        StageError, match=r"folds: got 40, must be at most \d\d, the training images of class"
    ):
        run_stage("folds", root=tmp_path)
    assert [folder.name for folder in task.workspace.folds("small").iterdir()] == ["0"]


def test_folds_of_another_count_are_not_taken(tmp_path: Path) -> None:
    task = Task("distill", params.validate(tree(folds=3)), tmp_path)
    with pytest.raises(StageError, match=r"folds/small: missing; `dvc repro` makes it"):
        teaching.networks(task)
    for k in range(5):
        (task.workspace.folds("small") / str(k)).mkdir(parents=True)
    with pytest.raises(
        StageError, match=r"folds/small: of 5 folds, params.yaml asks for 3; `dvc repro` makes them"
    ):
        teaching.networks(task)


def test_folds_of_a_changed_file_are_found_out(tmp_path: Path) -> None:
    checked = params.validate(tree(folds=3))
    record = Task("distill", checked, tmp_path).workspace.folds("small") / SOURCES
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"mine.py": "0" * 64}))
    with pytest.raises(
        StageError, match=r"mine.py has changed since models/folds/small was made of it: `dvc repro` makes it"
    ):
        check_sources(checked, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1}, "folds: got 1, must be greater than or equal to 2"),
        (
            {"folds": 5, "networks": {"small": {"architecture": "cifar_resnet20", "checkpoint": "a.pt"}}},
            "folds: 5, but networks.small.checkpoint is trained already, on all images: "
            "folds must be null, or teachers networks without a checkpoint",
        ),
    ],
)
def test_params_that_cannot_be_cross_fitted(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(params.ParamsError) as raised:
        params.validate(tree(**changes))
    assert str(raised.value) == message
