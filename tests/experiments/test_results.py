"""Committed tables: each page is what its rows say."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path

import pytest

from benchmarks import against_torch_pruning, aligned_channels, families, latency_targets
from benchmarks.routes.table import table
from experiments.resumable import rows_in

ROOT = Path(__file__).parents[2]
EXPERIMENTS = (
    "ablation", "against_dense", "against_torch_pruning", "blocks", "criteria", "curve", "defaults",
    "granularity", "int8_training", "mixed_precision", "mobile", "qat", "scope", "seeds", "to_accuracy",
    "views", "when_to_prune",
)  # fmt: skip
BENCHMARKS = {
    "aligned-channels/avx512-vnni": aligned_channels.table,
    "against-torch-pruning": against_torch_pruning.table,
    "families": partial(families.table, library=families.TORCHVISION),
    "families/timm": partial(families.table, library=families.TIMMS),
    "latency/avx2": latency_targets.table,
    "latency/avx512-vnni": latency_targets.table,
    "routes/avx2": table,
    "routes/avx512-vnni": table,
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_page_is_made_of_the_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # experiments.granularity reads the rows of criteria
    experiment = importlib.import_module(f"experiments.{name}")
    folder = ROOT / experiment.RESULTS
    assert experiment.table(rows_in(folder)) == (folder / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_so_are_those_of_benchmarks(name: str) -> None:
    folder = ROOT / "results" / name
    assert BENCHMARKS[name](rows_in(folder)) == (folder / "table.md").read_text(encoding="utf-8")
