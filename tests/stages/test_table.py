"""dvc.yaml, the help and the documentation say of the stages what akgp.stages.table says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from akgp import params
from akgp.cli import app
from akgp.orchestration.run import run_stage
from akgp.stages.table import STAGES
from akgp.workspace import StageError, Task
from scripts import dvc_deps

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
DVC: dict[str, Any] = YAML(typ="safe").load(TEXT)["stages"]

# `item` stands for the network of a stage that runs for one, `dense` for the student.
NETWORKS = {"dense": {"architecture": "cifar_resnet20"}, "item": {"architecture": "own_network:make"}}
SPELLED = {"${item.network}": "item", "${student}": "dense"}


def task(stage: str, root: Path, folds: int | None = None, qat: bool = False) -> Task:
    tree = {
        "networks": NETWORKS,
        "teachers": ["item"],
        "student": "dense",
        "folds": folds,
        "data": {"splits": {"test": 0.25}},
        "quantize": {"qat": {"epochs": 1} if qat else None},
    }
    checked = params.validate(tree)
    return Task(stage, checked, root, "item" if STAGES[stage].networks else None)


def spelled(text: str) -> str:
    for name, value in SPELLED.items():
        text = text.replace(name, value)
    return text


def test_they_come_in_the_order_in_which_they_are_run() -> None:
    assert list(DVC) == list(STAGES)
    assert [stage.name for stage in STAGES.values()] == list(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_dvc_runs_what_the_table_says(name: str, tmp_path: Path) -> None:
    stage, entry, given = STAGES[name], DVC[name], task(name, tmp_path)
    assert entry["desc"] == stage.summary
    assert entry.get("matrix") == ({"network": f"${{{stage.networks}}}"} if stage.networks else None)
    option = " --network ${item.network}" if stage.networks else ""
    assert entry["cmd"] == f"akgp stage {name}{option}"
    assert [spelled(key) for key in entry.get("params", [])] == [
        key.format(network="item") for key in stage.keys
    ]
    written = [out for outs in ("metrics", "outs") for out in entry.get(outs, [])]
    assert all(options == {"persist": True} for out in written for options in out.values())
    output = stage.output(given)
    expected = [output / file for file in stage.files] or [output]
    assert [tmp_path / spelled(path) for out in written for path in out] == expected


@pytest.mark.parametrize("name", STAGES)
def test_dvc_looks_at_every_input_and_no_other_file(name: str, tmp_path: Path) -> None:
    """models/files/NAME.json stands for the user's own files that a network is made of."""
    (tmp_path / "own_network.py").touch()
    for fold in "01":
        (tmp_path / "models" / "folds" / "item" / fold).mkdir(parents=True)
    read = {
        path
        for folds, qat in ((None, False), (None, True), (2, True))
        for path in STAGES[name].inputs(task(name, tmp_path, folds, qat))
    }
    own = tmp_path / "own_network.py"
    if own in read:
        read = read - {own} | {task(name, tmp_path).workspace.network_files / "item.json"}
    deps = [tmp_path / spelled(dep) for dep in DVC[name]["deps"] if not dep.startswith("akgp/")]
    assert [str(path) for path in read if not any(path.is_relative_to(dep) for dep in deps)] == []
    assert [str(dep) for dep in deps if not any(path.is_relative_to(dep) for path in read)] == []


def test_dvc_looks_at_the_code_of_every_stage() -> None:
    """`python -m scripts.dvc_deps --write` puts it right."""
    assert dvc_deps.differences(TEXT) == []
    assert [match["stage"] for match in dvc_deps.DEPS.finditer(TEXT)] == list(STAGES)
    without = TEXT.replace("      - akgp/distillation\n", "").replace(
        "      - akgp/stages/quantize.py\n", "      - akgp/cli\n"
    )
    assert dvc_deps.differences(without) == [
        "distill: akgp/distillation is missing",
        "quantize: akgp/stages/quantize.py is missing",
        "quantize: akgp/cli is not imported",
    ]
    assert dvc_deps.rewritten(without) == TEXT


def test_a_network_is_named_where_there_are_several(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(params.dump(task("data", tmp_path).params))
    for name, network, message in (
        ("train", None, "stage: got 'train', must be one of data, network_files, teacher, folds, prune, "),
        ("teacher", None, "--network: got None, must be one of dense, item"),
        ("folds", "dense", "--network: got 'dense', must be one of item"),
        ("prune", "dense", "--network is for the stages teacher and folds, not 'prune'"),
    ):  # fmt: skip
        with pytest.raises(StageError, match=f"^{re.escape(message)}"):
            run_stage(name, network=network, root=tmp_path)


def test_the_help_and_the_documentation_name_every_stage() -> None:
    shown = " ".join(CliRunner().invoke(app, ["stage", "--help"]).output.split())
    for name, stage in STAGES.items():
        assert f"{name}: {stage.summary}" in shown
    rows = re.findall(r"^\| (\w+) \| `", (ROOT / "docs/explanation/artifacts.md").read_text(), re.MULTILINE)
    assert rows[: len(STAGES)] == list(STAGES)
