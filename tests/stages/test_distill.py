"""The distillation loss against loops, the characteristics against known truths, the weights against both."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from akgp import artifacts, params
from akgp.data import read_split, read_summary
from akgp.data.batches import IndexedSource
from akgp.distillation import (
    DistillationData,
    estimate_w0,
    profile_data,
    stacked_weight,
    training_of,
)
from akgp.evaluation import predict_logits
from akgp.evaluation.cost import count
from akgp.stages import distill as distill_stage
from akgp.stages.inputs import read_distillation_data
from akgp.training import evaluate
from akgp.workspace import Step, Task
from tests.support.distillations import (
    distill,
)
from tests.support.workspaces import digits_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared digits, two dense networks that know nothing, and a student."""
    networks = dict.fromkeys(("dense/one", "dense/two", "pruned"), (4, 8, 8))
    root = digits_workspace(tmp_path_factory.mktemp("workspace"), networks)
    (root / "models" / "pruned" / "metrics.json").write_text("{}")
    return root


def stage_task(workspace: Path, **changes: Any) -> Task:
    architecture = "cifar_resnet20"
    networks = {"one": {"architecture": architecture}, "two": {"architecture": architecture, "seed": 1}}
    epochs = changes.pop("epochs", 1)
    training = {"epochs": epochs, "batch_size": 256, "learning_rate": 0.2, "warmup_epochs": 0}
    training["precision"] = "fp32"
    teachers = changes.pop("teachers", ["one", "two"])
    tree = {
        "networks": networks, "teachers": teachers, "student": "one",
        "distill": {"training": training} | changes,
    }  # fmt: skip
    return Task(stage="distill", params=params.validate(tree), root=workspace)


def tailed(labels: Tensor) -> Tensor:
    """Positions of images of which class 0 has most, as in a long tail."""
    return ((labels == 0) | (torch.arange(len(labels)) % 4 == 0)).nonzero()[:, 0]


def distilled(workspace: Path, out: Path, strategy: str) -> dict[str, Any]:
    """The metrics that the stage's computation writes for a strategy, without Ray."""
    task = stage_task(workspace, strategy=strategy)
    steps = list(distill_stage.compute(task, out, None))
    assert [step.row["epoch"] for step in steps] == [1]
    return json.loads((out / "metrics.json").read_text())


def test_stage_with_learned_weights_says_whom_it_trusted(workspace: Path, tmp_path: Path) -> None:
    metrics = distilled(workspace, tmp_path, "amtml_kd")
    weights = metrics["teacher_weights"]
    assert list(weights) == ["one", "two"] and sum(weights.values()) == pytest.approx(1)
    assert weights["one"] != 0.5 and metrics["teacher_weight"] is None and metrics["compute"] == 1


def test_stage_with_self_distillation_leaves_a_plain_student(workspace: Path, tmp_path: Path) -> None:
    metrics = distilled(workspace, tmp_path, "self_distillation")
    student, before = artifacts.load(tmp_path), artifacts.load(workspace / "models" / "pruned")
    assert list(student.state_dict()) == list(before.state_dict())
    size = read_summary(workspace / "data" / "prepared").image_size
    # 1×1 to 8, 3×3 of stride 2, 1×1 to 8, the classifier: on maps of 4 and 8 channels
    heads = [
        4 * 8 * h * w + (9 * 8 * 8 + 8 * 8) * (h // 2) * (w // 2) + 80 + (channels - 4) * 8 * h * w
        for channels, (h, w) in ((4, size), (8, (size[0] // 2, size[1] // 2)))
    ]
    assert metrics["compute"] == pytest.approx(1 + sum(heads) / count(student, torch.zeros(1, 1, *size)).macs)
    assert "teacher_weights" not in metrics


def test_stage_with_other_strategies_charges_nothing(workspace: Path, tmp_path: Path) -> None:
    metrics = distilled(workspace, tmp_path, "fixed")
    assert metrics["compute"] == 1 and "teacher_weights" not in metrics


def test_stage_with_logit_adjustment_keeps_the_epoch_that_is_best_by_the_mean_over_classes(
    workspace: Path, tmp_path: Path
) -> None:
    """Of a validation split with a long tail. What else is asked for stays as it is."""
    data = read_distillation_data(task := stage_task(workspace, logit_adjustment="on", epochs=4))
    data = replace(data, validation=data.validation.take(tailed(data.validation.labels)))
    list(distill_stage.compute_with(task, data, tmp_path, None))
    metrics, history = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("metrics", "history")
    )
    found = evaluate(artifacts.load(tmp_path), data.validation)
    assert metrics["val_balanced_top1"] == max(row["val_balanced_top1"] for row in history)
    assert (metrics["val_top1"], metrics["val_balanced_top1"]) == pytest.approx(found[1:])
    for changes, keep, expected in (
        ({"logit_adjustment": "on"}, "best", "balanced"),
        ({"logit_adjustment": "on"}, "last", "last"),
        ({"logit_adjustment": "off"}, "best", "best"),
        ({"logit_adjustment": "off"}, "balanced", "balanced"),
    ):
        asked = distill(**changes, training=params.Training(keep=keep))
        assert training_of(asked, data.profile).keep == expected


def test_stage_measures_w0_and_goes_on_where_it_was_killed(workspace: Path, tmp_path: Path) -> None:
    task = stage_task(workspace, w0_from="branches", epochs=4)
    whole, again = tmp_path / "whole", tmp_path / "again"
    steps = [Step(step.row, copy.deepcopy(step.state)) for step in distill_stage.compute(task, whole, None)]
    metrics = json.loads((whole / "metrics.json").read_text())
    assert [step.row["epoch"] for step in steps] == [1, 2, 2, 2, 3, 4], (
        "a branch tells nothing of the student"
    )
    assert len(json.loads((whole / "history.json").read_text())) == 4
    assert metrics["compute"] == 1 + 2 * 1 / 4, "two branches of an epoch beside four"
    assert metrics["w0"]["weight"] == pytest.approx(metrics["teacher_weight"])
    sentence = json.loads((whole / "characteristics.json").read_text())["sentence"]
    assert (
        f"the teacher's weight w0 is measured as {metrics['w0']['weight']:.2f} (the branches say" in sentence
    )
    for killed in (2, 5):
        assert len(list(distill_stage.compute(task, again, steps[killed].state))) == 5 - killed
        assert json.loads((again / "metrics.json").read_text()) == metrics


def test_w0_is_measured_in_two_epochs_or_more_and_for_akgp_alone() -> None:
    short = params.Training(epochs=1, warmup_epochs=0)
    with pytest.raises(ValueError, match=r"w0_from: branches needs training\.epochs of 2 or more, got 1"):
        distill(w0_from="branches", training=short)
    assert distill(w0_from="branches", strategy="fixed", training=short).w0_source == "fixed"


def test_w0_follows_what_the_teachers_know_beyond_the_dense_network(workspace: Path, tmp_path: Path) -> None:
    """By their answers alone; a number that was given stays."""

    def metrics(**changes: Any) -> dict[str, Any]:
        list(distill_stage.compute(stage_task(workspace, **changes), tmp_path, None))
        return json.loads((tmp_path / "metrics.json").read_text())

    data, models = workspace / "data" / "prepared", workspace / "models" / "dense"
    summary = read_summary(data)
    calibration = IndexedSource.of(read_split(data, "calibration"), summary.mean, summary.std)
    dense, teacher = (
        predict_logits(artifacts.load(models / name), calibration, device="cpu") for name in ("one", "two")
    )
    counts = read_split(data, "train").labels.bincount()
    expected = stacked_weight(dense, teacher, calibration.labels, counts, 0.3)
    assert abs(expected.weight - 0.3) > 0.01
    found = metrics(teachers=["two"])
    assert found["w0"] == pytest.approx(vars(expected))
    assert found["teacher_weight"] == pytest.approx(expected.weight)
    sentence = json.loads((tmp_path / "characteristics.json").read_text())["sentence"]
    assert f"w0 is measured as {expected.weight:.2f} (the answers say {expected.raw:.2f} ±" in sentence
    trunk = metrics(teachers=["two"], w0_from="branches", epochs=2)["w0"]
    assert trunk["guess"] == pytest.approx(expected.weight), "the branches start from the answers"
    for changes, weight in (
        ({"w0": 0.4}, 0.4),
        ({"strategy": "fixed"}, 0.3),
    ):
        found = metrics(**{"teachers": ["two"]} | changes)
        assert "w0" not in found and found["teacher_weight"] == pytest.approx(weight)


def test_the_dense_network_as_its_own_teacher_weighs_nothing_if_it_knows_nothing(
    workspace: Path, tmp_path: Path
) -> None:
    """Untrained as it is here; one that knows the labels has the default."""
    task = stage_task(workspace, teachers=["one"])
    list(distill_stage.compute(task, tmp_path, None))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["w0"]["weight"] == metrics["teacher_weight"] == 0
    data = read_distillation_data(task)
    assert not data.taught.profile.informative
    knowing = profile_data(9.0 * F.one_hot(data.calibration.labels, 10), data.calibration.labels)
    taught = replace(data.taught, profile=knowing)
    assert estimate_w0(replace(data, taught=taught), task.params.distill) is None


def test_a_teacher_that_knows_more_than_the_dense_network_weighs_more(workspace: Path) -> None:
    """Taught the images or knowing nothing; on a long tail by what the students would answer."""
    task = stage_task(workspace, teachers=["two"])
    data = read_distillation_data(task)
    assert data.dense
    own = data.dense.held_out[0]
    knowing = 4 * F.one_hot(data.calibration.labels, 10) + own
    constant = torch.zeros_like(knowing)

    def weight(dense: Tensor, teacher: Tensor, counts: tuple[int, ...] = (100,) * 10) -> float:
        assert data.dense
        seen = data.taught.profile.model_copy(
            update={"class_counts": counts, "imbalance": max(counts) / min(counts)}
        )
        asked = replace(
            data,
            dense=replace(data.dense, held_out=dense[None]),
            taught=replace(data.taught, held_out=teacher[None], profile=seen),
        )
        found = estimate_w0(asked, task.params.distill)
        assert found
        return found[0].weight

    assert weight(own, knowing) > 0.95 and weight(knowing, constant) < 0.05
    tail = tuple(1000 // 2**k + 10 for k in range(10))
    prior = torch.tensor(tail).double()
    prior = (prior / prior.sum()).log()
    assert weight(knowing + prior, knowing, tail) < 0.05, "its student would lean to rare classes"
    assert weight(knowing, knowing + prior, tail) > 0.95


def test_of_several_teachers_those_that_know_nothing_are_not_asked(workspace: Path, tmp_path: Path) -> None:
    """The student is the one that the other teacher alone makes; who was trusted is told."""

    def recovered(data: DistillationData, **changes: Any) -> dict[str, Any]:
        list(distill_stage.compute_with(stage_task(workspace, **changes), data, tmp_path, None))
        return artifacts.load(tmp_path).state_dict()

    torch.manual_seed(0)
    data = read_distillation_data(stage_task(workspace))
    assert data.dense
    known = F.one_hot(data.calibration.labels, 10) * torch.ones(())
    dense = replace(data.dense, held_out=known[None] + 2 * torch.randn(known.shape))
    taught = replace(data.taught, held_out=torch.stack([0 * known, 4 * known + torch.randn(known.shape)]))
    student = recovered(replace(data, dense=dense, taught=taught))
    metrics, told = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("metrics", "characteristics")
    )
    assert metrics["teacher_weights"] == {"one": 0, "two": 1}
    assert told["sentence"].endswith("; of the teachers' part one has 0%, two has 100%")
    w0 = metrics["w0"]["weight"]
    assert w0 == metrics["teacher_weight"] > 0.9
    alone = recovered(
        read_distillation_data(stage_task(workspace, teachers=["two"])), teachers=["two"], w0=w0
    )
    assert all(torch.equal(value, alone[name]) for name, value in student.items())


def test_a_copy_of_the_dense_network_says_nothing_of_itself(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace, tmp_path / "root")
    models = tmp_path / "root" / "models" / "dense"
    shutil.rmtree(models / "two")
    shutil.copytree(models / "one", models / "two")
    task = replace(stage_task(workspace, teachers=["two"]), root=tmp_path / "root")
    list(distill_stage.compute(task, tmp_path, None))
    found = json.loads((tmp_path / "metrics.json").read_text())["w0"]
    assert found == {"weight": 0.3, "raw": 0.3, "error": None, "guess": 0.3}
    sentence = json.loads((tmp_path / "characteristics.json").read_text())["sentence"]
    assert "w0 is measured as 0.30 (the answers say nothing)" in sentence


def test_wrong_labels_are_found_by_whoever_knows_the_labels_better(workspace: Path) -> None:
    """Of teacher and dense network: swapping their parts changes who teaches, not who doubts."""
    given, read = stage_task(workspace).params, []
    for one, other in (("one", "two"), ("two", "one")):
        swapped = given.model_copy(update={"teachers": (one,), "student": other})
        read.append(read_distillation_data(Task("distill", swapped, workspace)))
    accuracies = [data.taught.profile.accuracy for data in read]
    assert accuracies[0] != accuracies[1]
    for data in read:
        assert data.noise_judge.profile.accuracy == max(accuracies)
        assert data.profile.noise_rate == data.noise_judge.profile.noise_rate
        assert data.profile.temperature == data.taught.profile.temperature
    assert torch.equal(read[0].noise_judge.logits, read[1].noise_judge.logits)
    assert not torch.equal(read[0].taught.logits, read[1].taught.logits)
