"""Of which parameters and data the artifacts are: by dvc.lock, as DVC itself writes it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from akgp import outdated_results, params, recipes
from tests.support.commands import run

SETTINGS = """\
seed: 0
data: {source: digits, splits: {test: 0.25}}
networks: {net: {architecture: cifar_resnet20}, big: {architecture: cifar_resnet56}}
teachers: [net]
student: net
prune: {ratio: 0.5}
"""
KEYS = {
    "data": ("seed", "data"),
    "teacher@net": ("seed", "networks.net", "teacher"),
    "prune": ("seed", "student", "prune"),
    "distill": ("seed", "teachers", "student", "distill"),
    "quantize": ("seed", "quantize"),
    "evaluate": ("seed", "teachers", "student", "evaluate"),
}
FILES = {  # of each stage what it reads and writes
    "data": ([], "data/prepared"),
    "teacher@net": (["data/prepared"], "models/dense/net"),
    "prune": (["models/dense/net"], "models/pruned"),
    "distill": (["data/prepared", "models/pruned"], "models/student"),
    "quantize": (["data/prepared", "models/student"], "models/int8"),
    "evaluate": (["models/int8"], "reports/index.html"),
}


def ran(root: Path, made: dict[str, str] | None = None) -> None:
    """Write params.yaml and the lock of a whole run of it; `made`: digests that are other ones."""
    text = YAML(typ="safe")
    (root / "params.yaml").write_text(SETTINGS)
    tree = params.load(root / "params.yaml").model_dump(mode="json")
    stages = {}
    for name, keys in KEYS.items():
        held = {key: tree[key] if "." not in key else tree["networks"]["net"] for key in keys}
        used, out = FILES[name]
        stages[name] = {
            "cmd": f"akgp stage {name}",
            "deps": [{"path": path, "md5": path} for path in used],
            "params": {"params.yaml": held},
            "outs": [{"path": out, "md5": (made or {}).get(out, out)}],
        }
    text.dump({"schema": "2.0", "stages": stages}, root / "dvc.lock")


def edit(root: Path, old: str, new: str) -> None:
    assert old in SETTINGS
    (root / "params.yaml").write_text(SETTINGS.replace(old, new))


def test_nothing_is_said_of_what_is_up_to_date(tmp_path: Path) -> None:
    assert outdated_results.outdated(tmp_path, "evaluate") == ""  # nothing here
    ran(tmp_path)
    assert (
        outdated_results.outdated(tmp_path, "evaluate")
        == outdated_results.outdated(tmp_path, "quantize")
        == ""
    )
    (tmp_path / "params.yaml").write_text("student: 3")
    assert outdated_results.outdated(tmp_path, "evaluate") == ""  # params check says what is wrong


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ratio: 0.5", "ratio: 0.4", "prune.ratio 0.5 (now 0.4)"),
        ("seed: 0", "seed: 1", "seed 0 (now 1)"),
        ("student: net", "student: big", "student net (now big)"),
        ("cifar_resnet20", "cifar_resnet32", "networks.net.architecture cifar_resnet20 (now cifar_resnet32)"),
        ("{ratio: 0.5}", "{macs: 0.5}", "prune.macs null (now 0.5), prune.ratio 0.5 (now null)"),
    ],
)
def test_what_differs_is_named_with_both_values(tmp_path: Path, old: str, new: str, said: str) -> None:
    ran(tmp_path)
    edit(tmp_path, old, new)
    assert outdated_results.outdated(tmp_path, "quantize") == (
        f"models/int8 is of digits, and of other parameters than params.yaml now holds: {said}; "
        "`make repro` makes them again"
    )
    assert f"these results are of digits, and of other parameters than params.yaml now holds: {said};" in (
        outdated_results.outdated(tmp_path, "evaluate")
    )


def test_parameters_that_change_no_artifact_are_left_out(tmp_path: Path) -> None:
    ran(tmp_path)
    (tmp_path / "params.yaml").write_text(SETTINGS + "ray: {workers: 2}\nevaluate: {rounds: 6}\n")
    assert outdated_results.outdated(tmp_path, "quantize") == ""
    assert "evaluate.rounds 20 (now 6)" in outdated_results.outdated(tmp_path, "evaluate")


def test_a_report_whose_gate_failed_is_judged_by_itself(tmp_path: Path) -> None:
    """DVC records nothing of a stage that failed, but the report is there."""
    ran(tmp_path)
    edit(tmp_path, "student: net", "student: net\nevaluate: {rounds: 40}")
    assert "evaluate.rounds 20 (now 40)" in outdated_results.outdated(tmp_path, "evaluate")
    for name, text in (("models/int8/model.onnx", "weights"), ("reports/details.json", "")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    tree = params.load(tmp_path / "params.yaml").model_dump(mode="json")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    details = {"params": tree, "networks": {"int8": {"sha256": sha256}}}
    (tmp_path / "reports" / "details.json").write_text(json.dumps(details))
    assert outdated_results.outdated(tmp_path, "evaluate") == ""
    (tmp_path / "models" / "int8" / "model.onnx").write_text("others")
    assert outdated_results.outdated(tmp_path, "evaluate")


def test_a_run_that_was_interrupted_halfway(tmp_path: Path) -> None:
    """The images have been prepared again, as params.yaml says; the networks are of earlier ones."""
    ran(tmp_path, {"data/prepared": "other"})
    (tmp_path / "models" / "int8").mkdir(parents=True)
    (tmp_path / "models" / "int8" / "preprocessing.json").write_text(json.dumps({"source": "photos"}))
    assert outdated_results.outdated(tmp_path, "quantize") == (
        "models/int8 is of photos, and of other parameters than params.yaml now holds: "
        "data/prepared was made again afterwards; `make repro` makes them again"
    )


def test_the_report_says_so_after_recipe_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "other.yaml").write_text(SETTINGS.replace("ratio: 0.5", "ratio: 0.3"))
    (tmp_path / "reports").mkdir()
    row = {"top1": 90.0, "params": 1, "macs": 1, "bytes": 1}
    (tmp_path / "reports" / "metrics.json").write_text(json.dumps({"dense": row}))
    assert run(monkeypatch, "report") == 0
    assert capsys.readouterr().err == ""
    assert run(monkeypatch, "recipe", "use", "other", "--force") == 0
    assert "prune.ratio 0.5 (now 0.3)" in capsys.readouterr().err
    assert run(monkeypatch, "report", "--json") == 0
    output = capsys.readouterr()
    said = json.loads(output.out)
    assert set(said) == {"networks", "data", "warnings", "outdated", "report"}
    assert said["networks"] == {"dense": row} and "prune.ratio 0.5 (now 0.3)" in said["outdated"]
    assert run(monkeypatch, "report") == 0
    assert capsys.readouterr().err == f"akgp: {said['outdated']}\n"


def test_an_edited_file_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, file = tmp_path / "recipes", tmp_path / "params.yaml"
    folder.mkdir()
    for name, ratio in (("one", 0.3), ("two", 0.4)):
        (folder / f"{name}.yaml").write_text(SETTINGS.replace("ratio: 0.5", f"ratio: {ratio}"))
    recipes.use("one", file)
    recipes.use("two", file)  # a recipe's own text
    (folder / "two.yaml").write_text(SETTINGS)
    recipes.use("one", file)  # what was written last, although the recipe has changed since
    edited = file.read_text().replace("ratio: 0.3", "ratio: 0.35")
    file.write_text(edited)
    message = r"params\.yaml: has been edited, .*: akgp recipe use two --force$"
    with pytest.raises(params.ParamsError, match=message):
        recipes.use("two", file)
    assert file.read_text() == edited
    recipes.use("two", file, force=True)
    assert params.load(file).prune.ratio == 0.5
    (tmp_path / ".akgp" / "params.sha256").unlink()
    recipes.use("one", file)  # a clone: equal to a recipe's text
