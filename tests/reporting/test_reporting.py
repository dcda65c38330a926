"""The table, the files it is read from, and what went less well than it should."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from akgp import params
from akgp.io.terminal import WIDTH
from akgp.reporting.findings import chance_of, difference_error, findings, is_near_chance
from akgp.reporting.metrics import KEYS, ReportError, read_details, read_metrics, split
from akgp.reporting.table import faster, results, table
from akgp.reporting.units import number
from tests.support.reports import metrics


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_table() -> None:
    lines = table(metrics()).splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["teacher", "dense", "pruned", "student", "int8"]
    assert one_line(lines[2]) == "dense 98.44 % 272 k 2.55 M 1.1 MB 0.200 ms"
    assert "68 k  −75.0 %" in lines[3] and "1.02 M  −60.0 %" in lines[3] and "275 kB  −75.0 %" in lines[3]
    assert len({line.index(" ms") for line in lines[1:6]}) == 1
    assert lines[6].startswith("Latency: onnxruntime, CPU, 1 thread(s), median at batch 1.")
    assert "ms: teacher 0.190–0.210, dense 0.190–0.210" in one_line(table(metrics()))


def test_the_tables_column_of_the_mean_over_classes() -> None:
    rows = {name: row | {"balanced_top1": row["top1"] - 0.3} for name, row in metrics().items()}
    assert "mean over classes" not in one_line(table(rows))
    rows["student"]["balanced_top1"] = 91.25
    assert "mean over classes" in one_line(table(rows))
    assert re.search(r"98\.20 % +91\.25 % +68 k −75% +1\.02 M −60% +275 kB −75% ", table(rows))


@pytest.mark.parametrize("balanced", [100.0, 12.5])
def test_the_table_fits_the_terminal_whatever_the_numbers(balanced: float) -> None:
    large = {"top1": 100.0, "balanced_top1": balanced, "params": 999_000_000, "macs": 888_800_000_000}
    large |= {
        "bytes": 3_990_000_000,
        "latency_ms": 9876.5,
        "latency_low_ms": 9000.0,
        "latency_high_ms": 9999.0,
    }
    large |= {"latency_runtime": "onnxruntime", "latency_low_ms": 9000.0, "latency_high_ms": 9999.0}
    rows = dict.fromkeys(metrics(), large) | {"int8": large | {"params": 1, "macs": 1, "bytes": 1}}
    data = {"test": 1_000_000, "source": "a-very-long-name-of-a-source/" * 5}
    assert max(map(len, table(rows, data).splitlines())) <= WIDTH


def test_table_without_latency_or_dense() -> None:
    row = {"top1": 50.0, "params": 10, "macs": 1_000, "bytes": 0}
    assert "not measured" in table({"student": row})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 "),
        (12, "12 "),
        (999, "999 "),
        (1000, "1 k"),
        (271_962, "272 k"),
        (999_600, "1 M"),
        (2_550_000, "2.55 M"),
        (1.7e9, "1.7 G"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (None, r"metrics.json: no such file; `dvc repro` writes it"),
        ("{", r"metrics.json: not valid JSON"),
        ("{}", r"metrics.json: must hold top1 for each network"),
        (json.dumps({"student": {"val_top1": 1}}), r"must hold top1"),
    ],
)
def test_unreadable_metrics(tmp_path: Path, written: str | None, message: str) -> None:
    file = tmp_path / "metrics.json"
    if written is not None:
        file.write_text(written)
    with pytest.raises(ReportError, match=message):
        read_metrics(file)


def test_speed_is_said_against_the_dense_network() -> None:
    speed = {"times_faster": 2.1, "times_faster_low": 2.04, "times_faster_high": 2.16}
    rows = {name: {"top1": 90.0} | speed for name in ("dense", "student")} | {"int8": {"top1": 90.0}}
    assert faster(rows) == "student runs 2.10 times as fast as dense (2.04 to 2.16): 95 % intervals."
    assert faster({"dense": {"top1": 90.0}}) == ""


def test_metrics_hold_the_numbers_that_are_compared_and_details_the_others(tmp_path: Path) -> None:
    rows = {name: row | {"balanced_top1": 1.5} for name, row in metrics().items()}
    kept, others = split(rows)
    assert all(set(row) == set(KEYS) for row in kept.values())
    (tmp_path / "metrics.json").write_text(json.dumps(kept))
    assert read_metrics(tmp_path / "metrics.json") == kept
    (tmp_path / "details.json").write_text(json.dumps({"networks": others}))
    assert read_metrics(tmp_path / "metrics.json") == rows
    assert read_details(tmp_path / "nowhere.json") == {}


def test_results_end_with_the_warnings(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(metrics()))
    warning = "the student lost 6.0 ± 1.0 points against dense: " + "raise this, or that " * 9
    details = {"warnings": [warning], "data": {"test": 450, "source": "digits"}, "networks": {}}
    (tmp_path / "details.json").write_text(json.dumps(details))
    said = results(tmp_path)
    assert (
        one_line(said).endswith(f"Warning: {warning}".strip()) and max(map(len, said.splitlines())) <= WIDTH
    )
    assert "Top-1 on the test split (450 images of digits)." in one_line(said)


SETTINGS: dict[str, Any] = {
    "networks": {"net": {"architecture": "cifar_resnet20"}, "big": {"architecture": "cifar_resnet56"}},
    "teachers": ["net"],
    "student": "net",
}
BALANCED = [1000] * 10


SETTINGS["teacher"] = {"learning_rate": 0.2}


def found(top1: dict[str, float], counts: list[int] = BALANCED, **changed: Any) -> list[str]:
    rows = {name: {"top1": value} for name, value in top1.items()}
    return list(findings(rows, counts, params.validate(SETTINGS | changed)))


def test_nothing_is_said_of_a_good_run() -> None:
    assert found({"teacher": 86.0, "dense": 86.0, "pruned": 13.6, "student": 84.4, "int8": 84.4}) == []


def test_a_dense_network_near_chance_is_said_once_with_what_to_turn() -> None:
    (said,) = found({"teacher": 12.0, "dense": 12.0, "pruned": 10, "student": 10.0, "int8": 10.0})
    assert said.startswith("dense is near chance: 12.0 %, and 10.0 % is what always naming the largest class")
    assert "Raise teacher.epochs (now 20) or lower teacher.learning_rate (now 0.2)" in said


def test_another_teacher_near_chance_is_named() -> None:
    (said,) = found({"teacher": 11.0, "dense": 86.0, "student": 60.0, "int8": 60.0}, teachers=["big"])
    assert said.startswith("the teacher (big) is near chance: 11.0 %")


def test_a_checkpoint_near_chance_is_not_told_to_train_longer() -> None:
    networks = {"net": {"architecture": "cifar_resnet20", "checkpoint": "net.pt"}}
    (said,) = found({"teacher": 9.0, "dense": 9.0, "student": 9.0}, networks=networks)
    assert "networks.net.checkpoint may want another normalisation" in said and "epochs" not in said


def test_a_weaker_teacher() -> None:
    (said,) = found({"teacher": 80.0, "dense": 86.0, "student": 85.0, "int8": 85.0}, teachers=["big"])
    assert said.startswith(
        "the teacher (big) is 6.0 ± 0.5 points below the student's own dense network: name"
    )


def test_a_file_above_its_budget() -> None:
    settings = params.validate(SETTINGS | {"prune": {"bytes": "100k"}})
    for size, says in ((102_400, 0), (102_401, 1)):
        said = list(findings({"int8": {"top1": 84.0, "bytes": size}}, BALANCED, settings))
        assert len(said) == says
        assert all("has 102,401 bytes, more than prune.bytes (102,400)" in each for each in said)


@pytest.mark.parametrize(
    ("prune", "remedy"),
    [
        ({"ratio": 0.7}, "lower prune.ratio (now 0.7 of the filters removed)"),
        ({"macs": 0.25}, "raise prune.macs (now 0.25 of the MACs kept)"),
        ({"bytes": "500k"}, "raise prune.bytes (now 500k)"),
        ({"params": 0.1}, "raise prune.params (now 0.1 of the parameters kept)"),
        ({"latency_ms": 0.5}, "raise prune.latency_ms (now 0.5)"),
        ({"speedup": 3}, "lower prune.speedup (now 3)"),
    ],
)
def test_a_student_that_lost_much(prune: dict[str, float], remedy: str) -> None:
    (said,) = found({"teacher": 86.0, "dense": 86.0, "student": 80.0, "int8": 80.0}, prune=prune)
    assert said == (
        "the student lost 6.0 ± 0.5 points against dense: raise distill.training.epochs (now 20), or remove "
        f"less: {remedy}"
    )


def test_a_loss_within_its_error_is_not_said() -> None:
    """4 points are 20 of 500 images, of an error of 2.3 points; of 5,000 images the error is 0.7."""
    top1 = {"teacher": 86.0, "dense": 86.0, "student": 82.0, "int8": 82.0}
    assert found(top1, [50] * 10) == [] and len(found(top1, [500] * 10)) == 1


def test_int8_that_lost_much() -> None:
    (said,) = found({"teacher": 86.0, "dense": 86.0, "student": 85.0, "int8": 82.0})
    assert said.startswith(
        "int8 lost 3.0 ± 0.5 points against the student: try quantize.calibration: entropy"
    )


@pytest.mark.parametrize(
    ("counts", "top1", "near"),
    [
        ([1000] * 10, 18.9, True),  # a tenth of the way from 10 to 100 % is 19 %
        ([1000] * 10, 19.1, False),
        ([10, 10], 80.0, True),  # 20 images: 3 errors of 11 points above 50 %
        ([10, 10], 85.0, False),
        ([900, 50, 50], 90.9, True),  # 90 % is the largest class
        ([900, 50, 50], 95.0, False),
    ],
)
def test_near_chance(counts: list[int], top1: float, near: bool) -> None:
    assert is_near_chance(top1, counts) is near
    assert chance_of(counts) == 100 * max(counts) / sum(counts)


def test_the_error_of_a_difference_against_simulation() -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    one, other = (generator.binomial(2000, p, 200_000) / 20 for p in (0.9, 0.8))
    assert difference_error(90.0, 80.0, 2000) == pytest.approx(np.std(one - other), rel=0.01)
    assert difference_error(100.0, 100.0, 50) > 0
