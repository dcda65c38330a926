"""1,203 classes, as of LVIS: nothing that is written grows with the square of their number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from akgp import params
from akgp.distillation import DataProfile, profile_data, recorded, sentence, teacher_weights, weights_by_class
from akgp.distillation.profile.record import MATRIX_CLASSES, PAIRS
from akgp.params import Distill
from akgp.reporting import figures
from akgp.reporting.page import Report, write

COUNT = 1203
NAMES = tuple(f"class {number}" for number in range(COUNT))


def answers(classes: int, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a teacher that is mostly right, of labels of which a fifth are wrong."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % classes
    true = torch.where(torch.rand(images, generator=generator) < 0.2, (labels + 1) % classes, labels)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), true] += 9
    return logits, labels


@pytest.fixture(scope="module")
def found() -> DataProfile:
    return profile_data(*answers(COUNT, 4 * COUNT))


def test_the_record_of_many_classes_is_small_and_names_the_largest_pairs(found: DataProfile) -> None:
    kept = recorded(found, NAMES)
    assert len(json.dumps(kept, indent=2)) < 200 * COUNT
    assert kept["confusion"] is None and kept["overlap"] is None
    for name in ("confusion", "overlap"):
        matrix = np.array(getattr(found, name))
        np.fill_diagonal(matrix, 0)
        pairs = kept[f"{name}_pairs"]
        assert [pair["share"] for pair in pairs] == sorted(matrix.flatten().tolist())[: -PAIRS - 1 : -1]
        for pair in pairs:
            assert matrix[NAMES.index(pair["class"]), NAMES.index(pair["other"])] == pair["share"]
    assert kept["samples"] == found.samples and kept["class_counts"] == list(found.class_counts)


def test_the_record_of_few_classes_is_whole() -> None:
    few = profile_data(*answers(MATRIX_CLASSES, 10 * MATRIX_CLASSES))
    assert recorded(few, NAMES[:MATRIX_CLASSES]) == few.model_dump(mode="json")


def test_the_overlap_is_the_mean_by_answer() -> None:
    logits, labels = answers(7, 90)
    few = profile_data(logits, labels)
    probability = (logits.double() / few.temperature).softmax(1)
    for k in range(7):
        expected = probability[probability.argmax(1) == k].mean(0)
        assert few.overlap[k] == pytest.approx(expected.tolist(), rel=1e-12)


def page(found: DataProfile, directory: Path, classes: int) -> str:
    """The report on a training of so many classes."""
    logits, labels = answers(classes, 4 * classes)
    weights = teacher_weights(Distill(), found, logits, labels)
    assert weights is not None
    names = NAMES[:classes]
    rows = [row | {"class": names[int(row["class"])]} for row in weights_by_class(weights, labels, classes)]
    network = {
        "top1": 50.0, "params": 9, "macs": 9, "bytes": 9, "latency_ms": 1.0, "latency_runtime": "onnxruntime",
    }  # fmt: skip
    settings = params.validate(
        {"networks": {"net": {"architecture": "cifar_resnet20"}}, "teachers": ["net"], "student": "net"}
    )
    summary: dict[str, Any] = {
        "source": "images", "classes": names, "image_size": (8, 8), "channels": 3, "imbalance": 1.0,
        "skipped": 0,
        "counts": {split: [4] * classes for split in ("train", "calibration", "validation", "test")},
    }  # fmt: skip
    content = Report(
        params=settings,
        metrics={"dense": network, "student": network},
        characteristics=recorded(found, names) | {"doubtful": found.doubtful},
        sentence=sentence(found, names),
        histories={},
        layers=[],
        weights=rows,
        summary=summary,
        provenance={},
    )
    return write(directory, content).read_text(encoding="utf-8")


def test_the_report_on_many_classes_is_small(found: DataProfile, tmp_path: Path) -> None:
    text = page(found, tmp_path, COUNT)
    assert len(text) < 400_000
    assert "48 lowest and highest of 1,203 classes" in text.replace("\n", " ")
    assert text.count('<td class="text">class ') == 20  # pairs that overlap


@pytest.mark.slow
@pytest.mark.parametrize("classes", [figures.LABELLED, figures.LABELLED + 1])
def test_the_report_names_each_class_while_there_are_few(classes: int, tmp_path: Path) -> None:
    text = page(profile_data(*answers(classes, 10 * classes)), tmp_path, classes)
    assert (f"lowest and highest of {classes}" in text) == (classes > figures.LABELLED)
    assert text.count("</svg>") == (3 if classes <= figures.LABELLED else 2)
