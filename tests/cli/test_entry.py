"""How the command ends and speaks: interruptions, closed pipes, JSON, help, completion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError

import pytest

from akgp import __version__
from akgp.cli import entry
from akgp.io import terminal
from akgp.params import ParamsError
from akgp.workspace import GateError
from tests.support.commands import run

ROOT = Path(__file__).parents[2]
AKGP = [sys.executable, "-m", "akgp.cli"]


def ended(command: object) -> int:
    with pytest.raises(SystemExit) as end:
        entry.run(command)  # type: ignore[arg-type]
    return int(end.value.code or 0)


def test_an_interruption_is_one_line_and_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    def computing() -> None:
        with entry.resumable():
            interrupted()

    def exits() -> None:  # what typer makes of an interruption
        raise SystemExit(130)

    for command in (interrupted, exits):
        assert ended(command) == 130
        assert capsys.readouterr() == ("", "akgp: interrupted\n")
    assert ended(computing) == 130
    assert capsys.readouterr() == ("", "akgp: interrupted; run it again to resume\n")


def test_a_termination_is_told_apart_from_what_it_causes(capsys: pytest.CaptureFixture[str]) -> None:
    def terminated() -> None:
        with entry.resumable():
            try:
                entry._terminate(15, None)
            except SystemExit:
                raise ParamsError("a worker died") from None

    assert ended(terminated) == 143
    assert capsys.readouterr().err == "akgp: interrupted; run it again to resume\n"


def test_a_gate_has_a_status_of_its_own_and_a_web_server_none(capsys: pytest.CaptureFixture[str]) -> None:
    def rejected() -> None:
        raise GateError("evaluate: slower")

    def refused() -> None:  # an OSError whose `status` is the server's
        raise HTTPError("http://127.0.0.1/net.pt", 404, "Not Found", Message(), None)

    assert (ended(rejected), ended(refused)) == (3, 1)
    assert [line.startswith("akgp: ") for line in capsys.readouterr().err.splitlines()] == [True, True]


def test_what_ended_well_can_no_longer_be_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    def prints() -> None:
        with entry.resumable():
            pass
        raise KeyboardInterrupt

    assert ended(prints) == 130
    assert capsys.readouterr().err == "akgp: interrupted\n"


def test_a_closed_pipe_is_quiet() -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {' '.join(AKGP)} recipe show cifar10-quick | true"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stderr == "" and done.returncode in (0, 1)


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    """Full at 1 KiB: less than params.yaml takes, more than the files of the lock."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "params.yaml").write_text("as it was")
    for command, said in (
        ("recipe use digits --force", "[Errno 27] File too large: 'params.yaml'"),
        ("recipe show digits > /dev/full", "[Errno 28] No space left on device"),
    ):
        done = subprocess.run(
            ["bash", "-c", f"ulimit -f 1; exec {' '.join(AKGP)} {command}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert (done.stderr, done.returncode) == (f"akgp: {said}\n", 1)
    assert (tmp_path / "params.yaml").read_text() == "as it was"
    assert not list(tmp_path.glob(".params*"))


def test_no_colours() -> None:
    done = subprocess.run(
        [*AKGP, "recipe", "cook"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"FORCE_COLOR": "1", "NO_COLOR": "1"},
    )
    assert done.returncode == 2 and "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "",
        "recipe",
        "recipe use",
        "params check",
        "stage",
        "report",
        "predict",
        "doctor",
        "sweep best",
        "release",
    ],
)
def test_help(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, *command.split(), "-h") == 0
    short = capsys.readouterr().out
    assert run(monkeypatch, *command.split(), "--help") == 0
    assert capsys.readouterr().out == short and short.startswith("Usage: akgp")
    assert max(map(len, short.splitlines())) <= terminal.WIDTH


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"akgp {__version__}\n"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("akgp recipe use cifar10-t", ["cifar10-teacher"]),
        ("akgp stage te", ["teacher"]),
        ("akgp rel", ["release"]),
    ],
)
def test_completion(words: str, offered: list[str]) -> None:
    asked = {"_AKGP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = "import sys; sys.argv = ['akgp']; from akgp import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ | asked
    )
    assert (done.stdout.split(), done.stderr) == (offered, "")


def test_json_is_valid_whatever_was_measured() -> None:
    said = terminal.as_json({"a": float("nan"), "b": (1, float("inf")), 3: "犬"})
    assert json.loads(said) == {"a": None, "b": [1, None], "3": "犬"} and "犬" in said


def test_text_fits_the_terminal() -> None:
    said = terminal.wrapped("name  " + "several words " * 20 + "s3://bucket/" + "x" * 100, hanging=6)
    lines = said.splitlines()
    assert max(map(len, lines)) <= 80 and all(line.startswith("      ") for line in lines[1:])
    assert "".join(said.split()) == "name" + "severalwords" * 20 + "s3://bucket/" + "x" * 100
