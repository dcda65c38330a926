from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from akgp import params
from akgp.cli import app

NETWORK = {"networks": {"net": {"architecture": "cifar_resnet20"}}, "teachers": ["net"], "student": "net"}


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({}, []),
        ({"distill": {"alpha": 5.0, "heads": ["layer1"]}}, ["distill.alpha", "distill.heads"]),
        ({"distill": {"strategy": "dkd", "alpha": 5.0, "beta": 1.0}}, []),
        ({"distill": {"strategy": "labels", "w0": 0.4}}, ["distill.w0"]),
        (
            {"distill": {"strategy": "labels", "temperature": 3.0, "logit_std": True}},
            ["distill.temperature", "distill.logit_std"],
        ),
        (
            {"distill": {"strategy": "fixed", "noise_posterior": False, "w0_from": "branches"}},
            ["distill.noise_posterior", "distill.w0_from"],
        ),
        ({"distill": {"teacher_views": 9, "training": {"epochs": 8}}}, ["distill.teacher_views"]),
        ({"distill": {"strategy": "teacher", "training": {"label_smoothing": 0.1}}}, ["label_smoothing"]),
        ({"teacher": {"augment": {"mix_share": 0.5}}}, ["teacher.augment.mix_share"]),
        ({"teacher": {"augment": {"mix_share": 0.5, "cutmix": 1.0}}}, []),
        (
            {"prune": {"ratio": 0.5, "schedule": {"recovery": {"augment": {"mix_share": 0.5}}}}},
            ["prune.schedule.recovery.augment.mix_share"],
        ),
        ({"prune": {"ratio": 0.5, "images": 64, "time_limit": 3.0}}, ["prune.images", "prune.time_limit"]),
        ({"prune": {"macs": 0.5, "images": 64, "criterion": "obd", "time_limit": 3.0}}, []),
        (
            {"data": {"splits": {"test": 0.2}, "regime": {"noise": "asymmetric"}, "image_column": "img"}},
            ["data.regime.noise", "data.image_column"],
        ),
    ],
    ids=str,
)
def test_what_is_set_and_changes_nothing_is_named(given: dict[str, Any], keys: list[str]) -> None:
    lines = params.without_effect(params.validate(NETWORK | given))
    assert len(lines) == len(keys)
    assert all(f"{key} has no effect" in line for key, line in zip(keys, lines, strict=True))


def test_the_check_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = params.validate(NETWORK | {"distill": {"beta": 3.0}})
    (tmp_path / "params.yaml").write_text(params.dump(tree), encoding="utf-8")
    assert YAML().load(tmp_path / "params.yaml")["distill"]["beta"] == 3
    said = CliRunner().invoke(app, ["params", "check"]).output
    assert "distill.beta has no effect with strategy akgp, only with dkd, dist" in said
