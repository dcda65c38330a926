"""The flows over a small workspace of shell stages, a real DVC repository, with Prefect's own test server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from akgp.deployment import release
from akgp.params import ParamsError
from flows.compress import compress
from flows.nightly import nightly
from flows.processes import CommandError, run
from flows.sweep import sweep
from tests.support.releases import QUICK, candidate, prepare

ROOT = Path(__file__).parents[2]
PARAMS = "networks: {net: {architecture: cifar_resnet20}}\nteachers: [net]\nstudent: net\n"
METRICS = {"dense": {"top1": 98.4, "params": 10, "macs": 100, "bytes": 1000}}
# data appends to a log whenever it runs; `flaky` fails the first time; `last` needs both.
GRAPH = """
stages:
  data:
    cmd: echo data >> ran; echo the same > data.txt
    outs: [data.txt]
  flaky:
    cmd:
      - echo flaky >> ran
      - test -e tried || { touch tried; echo 'cut off' >&2; exit 1; }
      - cp data.txt flaky.txt
    deps: [data.txt]
    outs: [flaky.txt]
  last:
    cmd: echo last >> ran; mkdir -p reports; cp metrics.json reports/metrics.json
    deps: [flaky.txt]
    outs: [reports/metrics.json]
"""
NIGHTLY_GRAPH = """
stages:
  network_files:
    cmd: echo none
  data:
    cmd: echo data >> ran; echo the same > data.txt
    outs: [data.txt]
  last:
    cmd: echo last >> ran; mkdir -p reports; cp metrics.json reports/metrics.json
    deps: [data.txt]
    outs: [reports/metrics.json]
"""


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text((ROOT / ".dvc" / "config").read_text())
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    return tmp_path


def ran(workspace: Path) -> list[str]:
    log = workspace / "ran"
    return log.read_text().split() if log.exists() else []


@pytest.mark.slow
def test_compress(prefect: None, workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from prefect.artifacts import Artifact

    table = compress(folder=workspace, retry_delay_seconds=0)
    assert ran(workspace) == ["data", "flaky", "flaky", "last"]
    assert "dense  98.40 %" in table
    artifact = Artifact.get("compress", _sync=True)
    assert artifact is not None
    assert artifact.data == f"```text\n{table}\n```\n"
    shown = capfd.readouterr().err
    assert "cut off" in shown
    assert "flaky: failed; tried again" in shown


@pytest.mark.slow
def test_nightly_promotes_keeps_and_fails_by_choice(prefect: None, workspace: Path) -> None:
    from prefect.artifacts import Artifact

    def artifact() -> str:
        found = Artifact.get("nightly", _sync=True)
        assert found is not None
        return str(found.data)

    (workspace / "dvc.yaml").write_text(NIGHTLY_GRAPH)
    (workspace / "params.yaml").write_text(PARAMS + QUICK)
    prepare(workspace, [0, 100, 140, 255])
    candidate(workspace)
    (workspace / "reports" / "metrics.json").rename(workspace / "metrics.json")

    said = nightly(folder=workspace)
    first = release.current(str(workspace / "releases"))
    assert first is not None
    assert "top-1 100.00 %, the first release" in said and said.endswith(f"promoted; in production: {first}")
    assert artifact() == f"```text\n{said}\n```\n"
    assert ran(workspace) == ["data", "last"]
    assert happened("akgp.release.promoted") == {"in production": first, "before": None}

    said = nightly(folder=workspace)  # the source is read again, and is the same
    assert said == f"nothing new: {first} is in production\nunchanged; in production: {first}"
    assert ran(workspace) == ["data", "last", "data"]

    content = (workspace / "metrics.json").read_text()
    candidate(workspace, bias=-2)
    (workspace / "reports" / "metrics.json").write_text(content)
    (workspace / "params.yaml").write_text(PARAMS + QUICK + "release: {on_reject: fail}\n")
    state = nightly(folder=workspace, return_state=True)
    assert state.is_failed()
    with pytest.raises(
        release.ReleaseError, match=r"the new network is rejected: top-1 50\.00 % against 100"
    ):
        state.result()
    assert f"rejected; in production: {first}" in artifact()
    assert release.releases(str(workspace / "releases")) == [first]
    assert happened("akgp.release.rejected") == {"in production": first, "before": first}


def happened(event: str) -> dict[str, str | None]:
    """Payload of the only such event that reached the server, less its reasons."""
    from prefect.client.orchestration import get_client
    from prefect.events.filters import EventFilter, EventNameFilter

    with get_client(sync_client=True) as client:
        for _ in range(100):
            found = client.read_events(EventFilter(event=EventNameFilter(name=[event])), limit=9).events
            if found:
                (only,) = found
                assert only.payload.pop("reasons")
                return dict(only.payload)
            time.sleep(0.1)
    raise AssertionError(f"no event {event}")


@pytest.mark.slow
def test_failure_names_the_stage(prefect: None, workspace: Path) -> None:
    (workspace / "dvc.yaml").write_text(GRAPH.replace("touch tried; ", ""))
    state = compress(folder=workspace, retry_delay_seconds=0, return_state=True)
    assert state.is_failed()
    with pytest.raises(CommandError, match=r"dvc repro flaky: exit status \d+\ncut off"):
        state.result()
    assert "flaky" in (state.message or "")
    assert ran(workspace) == ["data", "flaky", "flaky"]


@pytest.mark.slow
def test_what_a_gate_rejects_is_not_measured_again(
    prefect: None, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the status of its stage, which dvc says."""
    (workspace / "dvc.yaml").write_text(GRAPH.replace("touch tried; ", "").replace("exit 1", "exit 3"))
    assert compress(folder=workspace, retry_delay_seconds=0, return_state=True).is_failed()
    assert ran(workspace) == ["data", "flaky"] and "tried again" not in capfd.readouterr().err


@pytest.mark.slow
def test_invalid_params_run_nothing(prefect: None, workspace: Path) -> None:
    (workspace / "params.yaml").write_text(PARAMS + "distill: {temperature: true}\n")
    with pytest.raises(ParamsError, match=r"distill\.temperature: got true"):
        compress(folder=workspace)
    with pytest.raises(ParamsError, match="no recipes here"):
        compress(recipe="digits", folder=workspace)
    (workspace / "params.yaml").write_text(PARAMS)
    (workspace / "dvc.yaml").write_text(
        GRAPH.replace("deps: [flaky.txt]", "deps: [flaky.txt]\n    params: [release]")
    )
    for flow in (compress, sweep, nightly):
        with pytest.raises(ParamsError, match="release: missing"):
            flow(folder=workspace)
    assert ran(workspace) == []


@pytest.mark.slow
def test_sweep_prepares_searches_and_publishes(
    prefect: None, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.artifacts import Artifact

    compress_module, sweep_module = sys.modules["flows.compress"], sys.modules["flows.sweep"]

    commands: list[str] = []

    def recorded(command: list[str], folder: Path) -> str:
        assert folder == workspace
        commands.append(" ".join(command))
        return "trial  val top-1 %\n" if "best" in command else ""

    monkeypatch.setattr(compress_module, "run", recorded)
    monkeypatch.setattr(sweep_module, "run", recorded)
    assert sweep(best=3, folder=workspace) == "trial  val top-1 %\n"
    assert commands == [
        "dvc repro teacher", "dvc repro folds", "akgp.cli sweep run", "akgp.cli sweep best 3",
    ]  # fmt: skip
    artifact = Artifact.get("sweep", _sync=True)
    assert artifact is not None
    assert artifact.data == "```text\ntrial  val top-1 %\n```\n"


def test_deployments_can_be_loaded() -> None:
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.flows import Flow, load_flow_from_entrypoint

    deployments = YAML(typ="safe").load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert [each["name"] for each in deployments] == ["compress", "sweep", "nightly"]
    for each in deployments:
        flow: Flow[..., str] = load_flow_from_entrypoint(str(ROOT / each["entrypoint"]))
        assert flow.name == each["name"]
        for schedule in each.get("schedules", ()):
            assert CronSchedule(**schedule).timezone
    assert deployments[2]["schedules"]


def test_output_and_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "speaks.py"
    script.write_text("import sys; print('out'); print('1 %\\r2 %\\nlast\\n', file=sys.stderr); sys.exit(3)")
    with pytest.raises(CommandError) as error:
        run(["speaks"], tmp_path)
    assert str(error.value) == "speaks: exit status 3\n2 %\nlast"
    assert capsys.readouterr().err == "1 %\r2 %\nlast\n\n"
    script.write_text("print('out')")
    assert run(["speaks"], tmp_path) == "out\n"


def test_nobody_reads_what_is_forwarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a pipe holds: the command would wait for ever."""
    (tmp_path / "speaks.py").write_text("import sys; sys.stderr.write('x' * 300_000); print('out')")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", closefd=False) as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        assert run(["speaks"], tmp_path) == "out\n"
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            screen.close()
    os.close(writer)


FLOW = "from flows import processes; from pathlib import Path; processes.GRACE_SECONDS = 0.5; "


@pytest.mark.parametrize(
    ("stubborn", "number"), [(False, signal.SIGINT), (True, signal.SIGINT), (True, signal.SIGHUP)]
)
def test_interruption_ends_the_whole_group(tmp_path: Path, stubborn: bool, number: signal.Signals) -> None:
    (tmp_path / "starts.py").write_text(
        "import os, pathlib, signal, subprocess, sys\n"
        f"if {stubborn}: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path('new').write_text(str(child.pid)); os.rename('new', 'pid'); child.wait()"
    )
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # whatever these tests run under
    code += f"processes.end_as_by_ctrl_c(); processes.run(['starts'], Path({str(tmp_path)!r}))"
    flow = [sys.executable, "-c", FLOW + code]
    with subprocess.Popen(flow, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        child = started(tmp_path / "pid", process)
        process.send_signal(number)
        if number == signal.SIGHUP:  # a closed terminal's, and then its shell's
            time.sleep(0.1)
            process.send_signal(number)
        assert process.communicate(timeout=60)[1].splitlines()[-1] == "KeyboardInterrupt"
    assert gone(child)


def test_an_interruption_before_the_output_is_read_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "sleeps.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr("flows.processes.threading.Thread.start", interrupted)
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(["sleeps"], tmp_path)
    assert time.monotonic() - before < 30


def test_nohup_is_respected() -> None:
    code = "import signal; from flows.processes import end_as_by_ctrl_c; end_as_by_ctrl_c(); "
    code += "signal.raise_signal(signal.SIGHUP); print('goes on')"
    nohup = subprocess.run(["nohup", sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert nohup.stdout == "goes on\n", nohup.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the system's signal at a parent's death is Linux's")
def test_a_command_ends_when_its_flow_is_killed(tmp_path: Path) -> None:
    (tmp_path / "sleeps.py").write_text(
        "import os, pathlib, sys, time\nassert sys.argv[1:] == ['--now'] and __name__ == '__main__'\n"
        "pathlib.Path('new').write_text(str(os.getpid())); os.rename('new', 'pid'); time.sleep(60)"
    )
    flow = [sys.executable, "-c", FLOW + f"processes.run(['sleeps', '--now'], Path({str(tmp_path)!r}))"]
    with subprocess.Popen(flow, cwd=ROOT) as process:
        command = started(tmp_path / "pid", process)
        process.kill()
    assert gone(command)


def started(file: Path, process: subprocess.Popen[Any]) -> int:
    """The process number that a command of `process` writes when it runs."""
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.05)
    return int(file.read_text())


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def test_no_server_setting_is_needed() -> None:
    code = (
        "import flows, prefect.settings as s; c = s.get_current_settings(); "
        "print(c.server.analytics_enabled, c.server.ephemeral.enabled)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    assert done.stdout.split() == ["False", "True"]
