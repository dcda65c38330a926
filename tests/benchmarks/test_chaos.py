"""The fault matrix's own logic: what it takes for a failure, and what it says of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from akgp import params
from akgp.orchestration.worker import report
from akgp.workspace import Step
from benchmarks.chaos import processes, records
from benchmarks.chaos.bench import ReferenceRun
from benchmarks.chaos.kills import plan
from benchmarks.chaos.records import MISSED, Experiment, Fault
from benchmarks.chaos.workspace import PARAMS, Workspace

METRICS = {"student": {"top1": 90.0, "latency_ms": 0.1, "times_faster_low": 1.0}}


def finished(root: Path, **student: float) -> Workspace:
    """A workspace as a run leaves it."""
    for folder in ("models/student", "reports", ".git"):
        (root / folder).mkdir(parents=True)
    (root / "models/student/model.safetensors").write_bytes(b"weights")
    (root / "models/student/history.json").write_text(json.dumps([{"epoch": 1, "seconds": os.getpid()}]))
    (root / "reports/metrics.json").write_text(json.dumps({"student": METRICS["student"] | student}))
    return Workspace(root)


@pytest.fixture
def bench(tmp_path: Path) -> ReferenceRun:
    finished(tmp_path / "done")
    return ReferenceRun(tmp_path, {})


def judged(bench: ReferenceRun, workspace: Workspace, status: int = 0) -> Fault:
    workspace.log("log").write_text("akgp: distill: a worker died\n")
    fault = Fault("kill", "goes on")
    bench.judge(workspace, [fault], status)
    return fault


def test_what_the_undisturbed_run_gives_is_as_expected_whatever_its_clock_said(bench: ReferenceRun) -> None:
    workspace = finished(bench.folder / "same", latency_ms=9.0, times_faster_low=0.5)
    fault = judged(bench, workspace)
    assert (fault.outcome, fault.equal, fault.problems) == ("as expected", True, [])


def test_how_far_a_training_is_is_read_from_its_last_checkpoint(tmp_path: Path) -> None:
    """As a worker writes it."""
    folder = tmp_path / "runs/distill-0123/checkpoint_1"

    class Api:
        class Checkpoint:
            from_directory = staticmethod(lambda written: shutil.copytree(written, folder))

        report = staticmethod(lambda row, checkpoint: None)

    (tmp_path / "params.yaml").write_text(params.dump(params.validate(PARAMS)))
    assert Workspace(tmp_path).rows("distill") == []
    report(Api, Step({}, {"history": [{"epoch": 1, "loss": 0.5}], "weight": torch.ones(2)}))  # type: ignore[arg-type]
    assert Workspace(tmp_path).rows("distill") == [{"epoch": 1, "loss": 0.5}]


def test_every_broken_promise_is_a_failure(bench: ReferenceRun) -> None:
    other = finished(bench.folder / "other", top1=89.9)
    assert judged(bench, other).outcome == "FAILED" and judged(bench, other).equal is False

    damaged = finished(bench.folder / "damaged")
    (damaged.root / "models/student/model.safetensors").write_bytes(b"weight")
    assert judged(bench, damaged).problems == [
        "models/student/model.safetensors differs from the undisturbed run's"
    ]

    half = finished(bench.folder / "half")
    (half.root / "models/.student.new").mkdir()
    half.most = 2
    assert judged(bench, half).problems == [
        "models/.student.new is left half-written", "2 computations ran side by side",
    ]  # fmt: skip

    fault = judged(bench, finished(bench.folder / "ended"), status=1)
    assert fault.problems == ["the last `dvc repro` ended with 1: akgp: distill: a worker died"]
    assert fault.equal is False


def test_a_process_that_is_left_is_seen_and_killed_and_no_other(
    bench: ReferenceRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = finished(bench.folder / "orphan")
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(Workspace, "left", lambda self: [each.line for each in self.processes()])
    with (
        subprocess.Popen(sleep, env={processes.MARKER: workspace.marker}) as ours,
        subprocess.Popen(sleep, env={processes.MARKER: f"{workspace.marker}s"}) as other,
    ):
        fault = judged(bench, workspace)
        assert len(fault.problems) == 1 and fault.problems[0].startswith("a process is left: ")
        assert ours.wait(5) == -9
        assert other.poll() is None
        other.kill()


def test_points_come_from_the_seed_and_in_the_order_of_the_pipeline() -> None:
    places = ["data", "teacher", "distill", "quantize"]
    once, again, other = (
        plan(random.Random(seed), ["dvc", "worker", "head"] * 5, places) for seed in (1, 1, 2)
    )
    assert once == again != other
    assert once == sorted(once, key=lambda kill: kill.order)
    assert {kill.stage for kill in once if kill.victim != "dvc"} <= {"teacher", "distill", "quantize"}


def test_what_is_recorded_is_read_again_and_said_in_the_table(tmp_path: Path) -> None:
    failed = Fault("kill", "goes on", "distill", happened=["hung"], problems=["hung | long"], kills=1)
    faults = [failed, Fault("kill", "goes on", happened=[MISSED])]
    done = {"kills": Experiment("abc", "2026-01-31 12:00", 60, faults)}
    header = {"seed": 1, "command": "make chaos", "machine": "one", "not_run": ["disk"]}
    records.save(tmp_path / "faults.json", header, done)
    assert records.load(tmp_path / "faults.json", 1) == done
    assert records.load(tmp_path / "faults.json", 2) == {}
    page = records.table(header, done)
    assert "2 faults, 1 kills by SIGKILL; 0 as expected, 1 failed, 1 missed" in page
    assert "Not run here: disk." in page
    assert "| kill | distill | 0.0 | hung; **hung / long** | — | — | FAILED |" in page
    assert "| kill | 1 | 1 | goes on | 0 of 1 | — | — |" in page
    assert "| kills | 2026-01-31 12:00 | `abc` | 1 | 2 |" in page
