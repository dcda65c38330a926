"""The table of routes: rows that are measured, that are refused, and of networks that are not trained."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.routes.table import cells, goals, table

RATIO = {"median": 2.6, "low": 2.5, "high": 2.7}


def row(way: str, **given: Any) -> dict[str, Any]:
    made = {
        "network": "net", "way": way, "images": 200, "as_float": 199, "top1": 50.0, "bytes": 1000, "ms": 0.5,
        "times": RATIO, "times_same": RATIO, "a_a": RATIO, "machine": "A",
    }  # fmt: skip
    return made | given


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [
        row("dense, float", bytes=8000),
        row("student, float", bytes=4000),
        row("akgp, onnxruntime", top1=46.5, exact=200),
        row("akgp, OpenVINO", top1=46.5, exact=0),
    ]


def test_a_row_says_what_was_measured(rows: list[dict[str, Any]]) -> None:
    assert cells(rows[2], rows) == [
        "akgp, onnxruntime", "46.50", "200 of 200", "99.50", "1,000", "8.0", "0.500",
        "2.60 (2.50–2.70)", "2.60 (2.50–2.70)",
    ]  # fmt: skip


def test_an_untrained_network_has_no_accuracy_and_a_refusal_its_message(rows: list[dict[str, Any]]) -> None:
    untrained = row("akgp, onnxruntime", network="other")
    del untrained["top1"]
    refused = {"network": "net", "way": "akgp, C", "refused": "Softmax cannot be exported", "machine": "A"}
    text = table([*rows, refused, untrained])
    assert "| akgp, onnxruntime | not trained |" in text
    assert "| akgp, C | refused: Softmax cannot be exported |" in text


def test_goals_that_are_met_and_missed(rows: list[dict[str, Any]]) -> None:
    """The standard error of 50 % on 200 images is 3.54 points."""
    assert list(goals(rows)) == [
        "- net: 8.00 times smaller (goal 8: met); 2.60 times as fast in onnxruntime (goal 2.5: met); "
        "2.60 times as fast in OpenVINO (goal 3: **missed**); +3.50 points lost against the float student "
        "(standard error 3.54: met); +3.50 points lost against the dense (standard error 3.54: met)."
    ]
    assert not list(goals(rows[:3]))
