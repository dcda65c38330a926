"""`akgp sweep best --json`: the trials, best first, as one document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from akgp import params
from akgp.sweep import results
from akgp.sweep.results import Trial
from tests.support.commands import run

SETTINGS = {"networks": {"n": {"architecture": "cifar_resnet20"}}, "teachers": ["n"], "student": "n"}


def test_best_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    trials = [Trial(n, {"prune.ratio": n / 4}, "finished", 2, 90.0 + n, 10, 5, 1.0, None) for n in (1, 2)]
    results.write(tmp_path, trials, params.validate(SETTINGS))
    assert run(monkeypatch, "sweep", "best", "--json") == 0
    said = json.loads(capsys.readouterr().out)["trials"]
    assert [(each["number"], each["values"], each["front"]) for each in said] == [
        (2, {"prune.ratio": 0.5}, True),
        (1, {"prune.ratio": 0.25}, False),
    ]
    plot = (tmp_path / "sweeps" / "pareto.svg").read_text(encoding="utf-8")
    assert "<!-- finished -->" in plot and "<!-- stopped -->" not in plot
