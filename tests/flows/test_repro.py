"""`make repro`'s run of DVC: what fails or is interrupted is said once, by the stage, with its status."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import repro

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value")  # DVC's own
ROOT = Path(__file__).parents[2]
# Before the first teacher: its folder, on which the later stage depends, does not exist.
GRAPH = """
stages:
  data: {{cmd: {command}, outs: [data.txt]}}
  prune: {{cmd: touch pruned.txt, deps: [data.txt, models/dense/net], outs: [pruned.txt]}}
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text((ROOT / ".dvc" / "config").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_stage_that_fails_is_all_that_is_said(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (workspace / "dvc.yaml").write_text(GRAPH.format(command="\"echo 'akgp: no images' >&2; exit 3\""))
    assert repro.reproduce() == 3
    assert capfd.readouterr() == ("", "akgp: no images\n")


@pytest.mark.parametrize("graph", ["stages: {data: {outs: [x]}}", "stages: {data: {cmd: a, deps: ['${b}']}}"])
def test_what_only_dvc_knows_is_one_line(
    workspace: Path, capfd: pytest.CaptureFixture[str], graph: str
) -> None:
    (workspace / "dvc.yaml").write_text(graph)
    assert repro.reproduce() == 1
    output = capfd.readouterr()
    assert output.out == "" and len(output.err.splitlines()) == 1
    assert output.err.startswith("akgp: dvc: ") and "dvc.yaml" in output.err


def test_the_cause_is_said(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """DVC's outermost error has only the stage."""
    (workspace / "dvc.yaml").write_text("stages: {data: {cmd: 'true', outs: [data.txt]}}")
    failed = "akgp: dvc: failed to reproduce 'data': "
    lock = workspace / ".dvc" / "tmp" / "rwlock"
    assert repro.reproduce() == 1
    assert capfd.readouterr().err == f"{failed}output 'data.txt' does not exist\n"
    other = {"pid": os.getppid(), "cmd": "dvc repro"}
    lock.write_text(json.dumps({"write": {str(workspace / "data.txt"): other}, "read": {}}))
    assert repro.reproduce() == 1
    assert capfd.readouterr().err == (
        f"{failed}'{workspace}/data.txt' is busy, it is being blocked by: (PID {os.getppid()}): dvc repro\n"
    )
    lock.write_text("{")
    assert repro.reproduce() == 1
    assert capfd.readouterr().err == (
        f"{failed}Unable to read RWLock-file '.dvc/tmp/rwlock'. JSON structure is corrupted\n"
    )
    shutil.rmtree(lock.parent)
    lock.parent.touch()
    assert repro.reproduce() == 1
    assert capfd.readouterr().err == f"akgp: dvc: [Errno 17] File exists: '{lock.parent}'\n"


def test_a_file_that_dvc_cannot_write_is_named(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (workspace / "dvc.yaml").write_text(
        "stages: {data: {cmd: echo x > data.txt; ln -s none/lock dvc.lock, outs: [data.txt]}}"
    )
    assert repro.reproduce() == 1
    output = capfd.readouterr()
    assert output.out == "" and len(output.err.splitlines()) == 1
    assert output.err.startswith(
        "akgp: dvc: failed to reproduce 'data': [Errno 2] No such file or directory: "
    )
    assert output.err.endswith("dvc.lock'\n")


def test_a_whole_run_says_nothing(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (workspace / "dvc.yaml").write_text("stages: {data: {cmd: echo x > data.txt, outs: [data.txt]}}")
    assert repro.reproduce() == 0
    assert capfd.readouterr() == ("", "")
    assert (workspace / "dvc.lock").exists()


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_status_130(workspace: Path) -> None:
    """The signal reaches the whole group, as a terminal's does: DVC, the shell and the stage."""
    code = (
        "import pathlib, time; from akgp.cli import entry\n"
        "def wait():\n    with entry.resumable():\n        pathlib.Path('started').touch(); time.sleep(600)\n"
        "entry.run(wait)"
    )
    (workspace / "stage.py").write_text(code)
    (workspace / "dvc.yaml").write_text(GRAPH.format(command=f"exec {sys.executable} stage.py"))
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.repro"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (workspace / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=120) == ("", "akgp: interrupted; run it again to resume\n")
    assert process.returncode == 130
