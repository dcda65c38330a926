"""`python -m flows.…` from a shell: what it takes, what it refuses at once, and how it is interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import psutil
import pytest
from prefect.exceptions import ParameterTypeError

from akgp.stages.table import STAGES
from flows.compress import prepare, start
from flows.server import settings
from flows.sweep import sweep

ROOT = Path(__file__).parents[2]
PARAMS = "networks: {net: {architecture: cifar_resnet20}}\nteachers: [net]\nstudent: net\n"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield tmp_path
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


def status(monkeypatch: pytest.MonkeyPatch, module: str, *arguments: str) -> object:
    """How `python -m module arguments` exits, run in this process."""
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as end:
        import_module(module).main()
    return end.value.code


@pytest.mark.parametrize("name", ["compress", "nightly", "repro", "server", "sweep"])
def test_help_is_shown_and_what_is_unknown_is_refused(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert status(monkeypatch, f"flows.{name}", "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m flows.{name} [-h]")
    assert status(monkeypatch, f"flows.{name}", "--recipes") == 2
    assert capsys.readouterr().err.endswith("error: unrecognized arguments: --recipes\n")
    assert [file.name for file in workspace.iterdir()] == ["params.yaml"]


def test_a_sweep_shows_one_trial_or_more(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, "flows.sweep", "--best", "0") == 2
    assert capsys.readouterr().err.endswith("error: argument --best: got 0, must be 1 or more\n")
    with pytest.raises(ParameterTypeError, match="greater than or equal to 1"):
        sweep.validate_parameters({"best": 0})
    assert sweep.validate_parameters({"best": 1})["best"] == 1


@pytest.mark.parametrize("module", ["flows.server", "infra.s3"])
@pytest.mark.parametrize("port", ["99999", "0", "-1", "http"])
def test_a_port_is_one(
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
    port: str,
) -> None:
    assert status(monkeypatch, module, "--port", port) == 2
    assert f"error: argument --port: got '{port}', must be from 1 to 65535\n" in capsys.readouterr().err


def test_a_port_of_the_environment_is_one_too(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", "abc")
    assert status(monkeypatch, "flows.server", "--help") == 0
    assert status(monkeypatch, "flows.server") == 2
    said = capsys.readouterr().err
    assert said.endswith("error: PREFECT_SERVER_API_PORT: got 'abc', must be from 1 to 65535\n")
    assert settings(4300)["PREFECT_SERVER_API_PORT"] == "4300"  # an option goes before it


@pytest.mark.parametrize(("given", "level"), [(None, "INFO"), ("DEBUG", "DEBUG")])
def test_the_server_logs_as_the_user_has_set(
    given: str | None, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.server.LOGGING_LEVEL", given)
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")  # as flows has it for a flow at a terminal
    assert settings(4300)["PREFECT_LOGGING_LEVEL"] == level


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (None, "no such file; run this in the project's folder"),
        ("[]", "no stages; it must map `stages` to one or more, by name"),
        ("stages: {data: {cmd: a, params: [seed]}}", None),
    ],
)
def test_what_is_wrong_is_said_before_a_flow_starts(
    workspace: Path, graph: str | None, message: str | None
) -> None:
    if graph is not None:
        (workspace / "dvc.yaml").write_text(graph)
    with pytest.raises(SystemExit) as end:
        start(lambda: pytest.fail("the flow has started"))
    assert message is None or end.value.code == f"akgp: dvc.yaml: {message}"
    assert message is not None or str(end.value.code).startswith("akgp: params.yaml: seed: missing, ")


def test_stages_are_those_of_the_project() -> None:
    assert prepare(ROOT) == list(STAGES)


STAGE = """
import os, signal, sys, time

def end(*_):
    print("akgp: interrupted", file=sys.stderr, flush=True)
    sys.exit(143)

signal.signal(signal.SIGTERM, end)
print("50 %", end="", file=sys.stderr, flush=True)
time.sleep(0.5)
open("started", "w").close()
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_an_interruption_ends_all_and_is_said_once(workspace: Path, number: signal.Signals) -> None:
    """Prefect's own server is among what ends."""
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path(".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", ".dvc")
    Path("stage.py").write_text(STAGE)
    Path("dvc.yaml").write_text(
        f"stages: {{data: {{cmd: exec {sys.executable} stage.py, outs: [data.txt]}}}}"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.compress"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(workspace / "prefect")},
    )  # fmt: skip
    while not Path("started").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    assert any("uvicorn" in each.cmdline() for each in started)
    process.send_signal(number)
    output = process.communicate(timeout=120)
    assert output == ("", "50 %\nakgp: interrupted; run it again to resume\n")
    assert process.returncode == 130
    assert psutil.wait_procs(started, timeout=10)[1] == []
