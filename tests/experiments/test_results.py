"""Committed tables: each page is what its rows say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPERIMENTS = (
    "ablation", "against_dense", "against_torch_pruning", "blocks", "criteria", "defaults", "granularity",
    "int8_training", "mixed_precision", "mobile", "qat", "scope", "to_accuracy", "views",
)  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_page_is_made_of_the_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # experiments.granularity reads the rows of criteria
    experiment = importlib.import_module(f"experiments.{name}")
    folder = ROOT / experiment.RESULTS
    rows = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    assert experiment.table(rows) == (folder / "table.md").read_text(encoding="utf-8")
