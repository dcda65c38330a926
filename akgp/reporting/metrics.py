"""reports/metrics.json and reports/details.json: what evaluate measured.

metrics.json holds KEYS of each network and is what `dvc metrics` shows. details.json holds all else:

    networks         by network: balanced_top1 (%), latency intervals (ms), times_faster, and others
    data             source, digest, classes (how many) and test (images) of the prepared images
    params           the parameters of that evaluation
    warnings         sentences: what should be better, and which parameters to change
    slowdowns        those of them that say which network is slower than it must be, for the speed gate
    targets          a row for each format of evaluate.targets, see akgp.reporting.targets
    microcontroller  what the C library takes, if it is one of them
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DETAILS = "details.json"
KEYS = ("top1", "params", "macs", "bytes", "latency_ms", "latency_runtime")

Metrics = Mapping[str, Mapping[str, Any]]
"""By network: its top1 (%), params, macs, bytes, latency_ms, latency_runtime, and details."""


class ReportError(ValueError):
    """The files of a report are missing, or not as evaluate writes them."""


SHA256 = "sha256"
"""Key of the int8 network in details.json: which int8 file was measured."""


def split(rows: Metrics) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Each network's row split into the parts for metrics.json and details.json."""
    metrics = {name: {key: row[key] for key in KEYS if key in row} for name, row in rows.items()}
    details = {name: {key: row[key] for key in row if key not in KEYS} for name, row in rows.items()}
    return metrics, details


def read_metrics(file: Path) -> dict[str, dict[str, Any]]:
    """The networks' rows in metrics.json, with what details.json beside it adds to them.

    Raises:
        ReportError: metrics.json is missing, or one of them is not what evaluate writes.
    """
    metrics = _read(file)
    if metrics is None:
        raise ReportError(f"{file}: no such file; `dvc repro` writes it")
    if not metrics or not all(isinstance(row, dict) and "top1" in row for row in metrics.values()):
        raise ReportError(f"{file}: must hold top1 for each network; `dvc repro` writes it again")
    more = read_details(file.with_name(DETAILS)).get("networks", {})
    return {name: {**row, **more.get(name, {})} for name, row in metrics.items()}


def read_details(file: Path) -> dict[str, Any]:
    """The content of details.json; empty where there is none, as of earlier versions.

    Raises:
        ReportError: it is not what evaluate writes.
    """
    return _read(file) or {}


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ReportError(f"{file}: not valid JSON ({error}); `dvc repro` writes it again") from None
    if not isinstance(content, dict):
        raise ReportError(f"{file}: must hold top1 for each network; `dvc repro` writes it again")
    return content
