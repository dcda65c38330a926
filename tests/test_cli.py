from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from akgp import cli, doctor, params, recipes

ROOT = Path(__file__).parents[1]
PARTIAL = "# mine\nnetworks: {net: {architecture: cifar_resnet20}}\nteachers: [net]\nstudent: net\nseed: 7\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text(PARTIAL)
    (tmp_path / "recipes" / "wrong.yaml").write_text(PARTIAL.replace("seed: 7", "seed: -7"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of `akgp arguments`, run in this process."""
    monkeypatch.setattr(sys, "argv", ["akgp", *arguments])
    before = signal.getsignal(signal.SIGTERM)
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def test_recipe_use_writes_a_whole_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "recipe", "use", "mine") == 0
    text = (folder / "params.yaml").read_text()
    assert params.load("params.yaml") == params.load("recipes/mine.yaml")
    assert "temperature: 2.0  " in text and "# softens the logits" in text
    assert sorted(file.name for file in folder.iterdir()) == ["params.yaml", "recipes"]


def test_recipe_show_prints_what_use_writes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "recipe", "show", "mine") == 0
    shown = capsys.readouterr().out
    recipes.use("mine", folder / "params.yaml")
    assert (folder / "params.yaml").read_text() == shown


def test_recipe_list(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "recipe", "list") == 0
    assert capsys.readouterr().out == "mine   mine\nwrong  mine\n"


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("recipe", "use", "other"), ["akgp: recipe 'other': not found, must be one of mine, wrong"]),
        (
            ("recipe", "use", "wrong"),
            ["akgp: recipes/wrong.yaml: seed: got -7, must be greater than or equal to 0"],
        ),
        (
            ("params", "check", "--params", "recipes/wrong.yaml"),
            ["akgp: recipes/wrong.yaml: seed: got -7, must be greater than or equal to 0"],
        ),
        (("report",), ["akgp: reports/metrics.json: no such file; `dvc repro` writes it"]),
        (("predict", "x.png"), ["akgp: models/int8/preprocessing.json: no such file; `dvc repro` writes it"]),
    ],
)
def test_error_is_one_line_and_changes_nothing(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    lines: list[str],
) -> None:
    (folder / "params.yaml").write_text("as it was")
    assert run(monkeypatch, *arguments) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.splitlines()) == ("", lines)
    assert (folder / "params.yaml").read_text() == "as it was"


def test_traceback_on_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKGP_TRACEBACK", "1")
    with pytest.raises(params.ParamsError):
        run(monkeypatch, "recipe", "use", "wrong")


def test_a_fault_of_ours_keeps_its_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = {"__name__": "elsewhere"}
    exec("def fault():\n    raise ValueError('internal')", elsewhere)
    ours = {"__name__": "akgp.somewhere"}
    exec("def fault():\n    raise ValueError('weight must be positive, got -1')", ours)
    monkeypatch.setattr(recipes, "use", lambda *_: elsewhere["fault"]())
    with pytest.raises(ValueError, match="internal"):
        run(monkeypatch, "recipe", "use", "mine")
    monkeypatch.setattr(recipes, "use", lambda *_: ours["fault"]())
    assert run(monkeypatch, "recipe", "use", "mine") == 1


def test_unknown_command_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "recipe", "cook") == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_without_traceback(tmp_path: Path, number: signal.Signals, status: int) -> None:
    started = tmp_path / "started"
    code = (
        "import sys, time, pathlib; from akgp import cli, recipes\n"
        f"def wait(*_): pathlib.Path({str(started)!r}).touch(); time.sleep(60)\n"
        "recipes.use = wait; sys.argv = ['akgp', 'recipe', 'use', 'x']; cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"},
    )
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=10)
    assert "Traceback" not in error
    assert process.returncode == status


def test_doctor_names_what_is_missing_and_the_remedy() -> None:
    lines = [
        check.line()
        for check in doctor.packages(
            [
                "pydantic>=2",
                "torch>=900",
                "no-such-package>=1 ; extra == 'pipeline'",
                "not-wanted ; extra == 'dev'",
            ]
        )
    ]
    assert lines[0].startswith("TO DO package    torch ") and ">=900" in lines[0]
    assert lines[1] == (
        "TO DO package    no-such-package is missing: pip install -c constraints.txt -e '.[pipeline]'"
    )
    assert lines[2:] == ["ok    packages   1 of 3 as required"]


def test_doctor_looks_at_the_workspace(tmp_path: Path) -> None:
    assert doctor.workspace(tmp_path).remedy == "run akgp in the project's folder, a git clone"
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text(PARTIAL + "x: 1\ny: 2\n")
    assert (
        doctor.workspace(tmp_path)
        .line()
        .endswith("params.yaml: x: unknown parameter (and 1 more): see akgp params check")
    )
    (tmp_path / "params.yaml").write_text(PARTIAL)
    assert not doctor.workspace(tmp_path).remedy


def test_doctor_wants_free_space(tmp_path: Path) -> None:
    assert not doctor.space("disk", tmp_path, 1, "free some").remedy
    assert doctor.space("disk", tmp_path, 2**70, "free some").remedy == "free some"
