"""`akgp sweep best`: the trials, best first, as one document too; and what is said where they are old."""

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
    said = json.loads(capsys.readouterr().out)
    assert said["outdated"] is None
    assert [(each["number"], each["values"], each["front"]) for each in said["trials"]] == [
        (2, {"prune.ratio": 0.5}, True),
        (1, {"prune.ratio": 0.25}, False),
    ]
    plot = (tmp_path / "sweeps" / "pareto.svg").read_text(encoding="utf-8")
    assert "<!-- finished -->" in plot and "<!-- stopped -->" not in plot


def test_best_says_that_params_have_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    space = {"prune.macs": {"min": 0.3, "max": 0.7}, "distill.w0": {"choices": [0.0, 0.5]}}
    first = params.validate({**SETTINGS, "sweep": {"space": space}})
    values = [{"prune.macs": 0.5, "distill.w0": w0} for w0 in (0.0, 0.5)]
    trials = [Trial(n, values[n], "finished", 2, 90.0, 10, 5, 1.0, None) for n in (0, 1)]
    results.write(tmp_path, trials, first)

    def said(present: params.Params) -> str:
        Path("params.yaml").write_text(params.dump(present), encoding="utf-8")
        assert run(monkeypatch, "sweep", "best") == 0
        return capsys.readouterr().err

    applied = params.with_values(first, values[1])
    more = first.sweep.model_copy(update={"trials": 50, "concurrent": 2})
    for same in (first, applied, applied.model_copy(update={"sweep": more})):
        assert said(same) == ""
    tree = {**SETTINGS, "seed": 1, "teacher": {"epochs": 7}, "prune": {"ratio": 0.25}}
    narrower = {**space, "prune.macs": {"min": 0.4, "max": 0.7}}
    assert said(params.validate({**tree, "sweep": {"space": narrower}})) == (
        "akgp: these trials are of other parameters than params.yaml now holds: seed 0 (now 1), "
        f"teacher.epochs {first.teacher.epochs} (now 7), sweep.space.prune.macs.min 0.3 (now 0.4); "
        "`akgp sweep run` searches with the latter\n"
    )
    other = {"distill.w0": space["distill.w0"]}
    assert "now holds: sweep.space; `" in said(
        params.with_values(params.validate({**SETTINGS, "sweep": {"space": other}}), values[0])
    )
