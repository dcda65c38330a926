"""The table of exported networks, as text, in `akgp report` and on the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from akgp.reporting.table import results
from akgp.reporting.targets import cells, deviation, needs, targets_table
from tests.support.reports import metrics


def row(target: str, equal: int, low: float = 1.2) -> dict[str, Any]:
    agreement = {"images": 1000, "equal": equal, "same_class": 999, "largest": 0.0487}
    agreement["first"] = "" if equal == 1000 else "first in Add node_7: 2 of 131072 values, by up to 1 steps"
    ratio = {"median": 1.5, "low": low, "high": 1.7}
    return {
        "target": target,
        "runtime": target,
        "version": "1.0",
        "top1": 56.881,
        "agreement": agreement,
        "bytes": 107_050,
        "latency_ms": 0.3123,
        "against_float": ratio,
        "against_dense": None,
    }


def test_cells_and_deviations() -> None:
    exact, off = row("onnx", 1000), row("litert", 998, low=0.9)
    assert cells(exact) == ["onnx", "56.88 %", "all", "107 kB", "0.312 ms", "1.50 ", ""]
    assert cells(off)[2] == "99.80 %" and cells(off)[5] == "1.50?"  # its interval contains 1
    assert not deviation(exact)
    assert deviation(off).startswith("999 of 1,000 classes are the oracle's") and "Add node_7" in deviation(
        off
    )
    text = targets_table([exact, off])
    assert max(map(len, text.splitlines())) <= 80 and "litert: 999 of" in text and "onnx: " not in text


TAKEN = {
    "flash": 75_111, "ram": 1_984, "code": {"M4F": 2_124}, "instructions": {"M4F": 1_213_000},
    "layers": [
        {
            "name": "layer1.0.conv1", "kind": "Convolution", "shape": [8, 8, 8], "macs": 36_864, "flash": 752,
            "ram": 1_456, "instructions": {"M4F": 81_250},
        }
    ],
}  # fmt: skip
"""As akgp.microcontroller.report.figures gives it."""


def test_the_c_library_has_no_latency_but_needs(tmp_path: Path) -> None:
    c = row("c", 1000) | {"latency_ms": None, "against_float": None}
    assert cells(c) == ["c", "56.88 %", "all", "107 kB", "", "", ""]
    said = (
        "On a microcontroller: 75,111 bytes of flash for constants, 1,984 of RAM; instructions an inference, "
        "counted under emulation: M4F 1.21 M."
    )
    assert needs(TAKEN) == said and needs(TAKEN | {"instructions": {}}).endswith("1,984 of RAM.")
    (tmp_path / "metrics.json").write_text(json.dumps(metrics()))
    (tmp_path / "details.json").write_text(json.dumps({"targets": [c], "microcontroller": TAKEN}))
    assert said in " ".join(results(tmp_path).split())


def test_the_report_shows_them(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(metrics()))
    assert "as oracle" not in results(tmp_path)
    (tmp_path / "details.json").write_text(json.dumps({"targets": [row("openvino", 26)]}))
    assert "as oracle" in results(tmp_path) and "openvino" in results(tmp_path)
