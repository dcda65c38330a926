"""Stages as Ray Train jobs: on a running cluster, and killed and run again."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from akgp import artifacts, params
from akgp.orchestration.progress import bar
from akgp.orchestration.run import run_stage
from akgp.orchestration.session import ENVIRONMENT
from akgp.reporting.metrics import read_metrics
from akgp.workspace import Task
from tests.support.computing import computed

AKGP = str(Path(sys.executable).with_name("akgp"))
MEASURED = {"seconds", "images_per_second"}
NEEDLESS = (  # processes of a Ray that one stage alone uses
    "dashboard/dashboard.py", "log_monitor.py", "monitor.py", "PreemptionWatcher", "PlacementGroupCleaner",
    "DatasetManager", "AutoscalingCoordinator", "TrainController",
)  # fmt: skip


def write_params(root: Path, **changes: Any) -> params.Params:
    """A pipeline that takes seconds, as the params.yaml of `root`."""
    training = {
        "epochs": 3, "batch_size": 64, "learning_rate": 0.1, "augment": {"crop_padding": 1, "flip": False},
    }  # fmt: skip
    tree = {
        "data": {"color": "gray", "splits": {"test": 0.25}},
        "networks": {"small": {"architecture": "cifar_resnet8", "widths": [8, 8, 16]}},
        "teachers": ["small"],
        "student": "small",
        "teacher": training,
        "prune": {"ratio": 0.5, "scope": "all", "round_to": 4},
        "distill": {"training": training},
        "evaluate": {"rounds": 6, "warmup_seconds": 0.0, "speed_gate": "warn"},
        "ray": {"cpus_per_worker": 1},
    } | changes
    validated = params.validate(tree)
    (root / "params.yaml").write_text(params.dump(validated))
    return validated


def history(root: Path, folder: str) -> list[dict[str, float]]:
    rows = json.loads((root / "models" / folder / "history.json").read_text())
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]


UNREAD = """
import json, sys, time
from types import SimpleNamespace
from akgp.orchestration.progress import bar
sys.stdin.readline()
with bar(SimpleNamespace(label="distill"), 3) as file, file.open("a") as rows:
    for epoch in (1, 2, 3):
        print(json.dumps({"epoch": epoch}), file=rows, flush=True)
        time.sleep(0.5)
print("ended", flush=True)
"""


def test_a_bar_that_nobody_reads_any_more_does_not_hold_the_stage() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", UNREAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:  # fmt: skip
        assert process.stderr is not None
        process.stderr.close()
        try:
            assert process.communicate(b"\n", timeout=60)[0] == b"ended\n"
        finally:
            process.kill()


def test_a_line_of_the_log_stands_by_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        with bar(Task("distill", write_params(tmp_path), tmp_path), 3), logging_redirect_tqdm():
            logging.getLogger().warning("a worker died")
    finally:
        logging.getLogger().removeHandler(handler)
    assert "a worker died" in capfd.readouterr().err.replace("\r", "\n").splitlines()


CLUSTER = """
from ray.cluster_utils import Cluster
running = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
print(running.address, flush=True)
input()
running.shutdown()
"""


def environment() -> dict[str, str]:
    """This process's, without what other tests' Rays have left in it."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | ENVIRONMENT


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster that was there before us."""
    quick = environment() | {"RAY_prestart_worker_first_driver": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=quick, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate("\n", timeout=60)


def run_stages(root: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Run the stages one after the other in a process of their own."""
    code = f"from akgp.orchestration.run import run_stage\nfor name in {names}: run_stage(name)"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment(), capture_output=True, text=True, timeout=500
    )


@pytest.mark.ray
def test_the_pipeline_on_a_running_cluster(cluster: str, tmp_path: Path) -> None:
    """What several workers share and the last stage; the cluster would run the others as it runs that one."""
    ray = {"cpus_per_worker": 1, "workers": 2, "address": cluster}
    write_params(tmp_path, folds=2, ray=ray, deploy={"runtime": "openvino"})
    for stage in ("data", "network_files"):
        run_stage(stage, root=tmp_path)
    computed(tmp_path, "teacher", "small")
    computed(tmp_path, "prune")
    for here in (("folds", "distill"), ("evaluate",)):
        ran = run_stages(tmp_path, *here)
        assert ran.returncode == 0, ran.stderr
        if "distill" in here:
            computed(tmp_path, "quantize")
    metrics = read_metrics(tmp_path / "reports" / "metrics.json")
    assert list(metrics) == ["teacher", "dense", "pruned", "student", "int8"]
    assert metrics["teacher"]["top1"] == metrics["dense"]["top1"]
    assert all(0 < row["balanced_top1"] <= 100 for row in metrics.values())
    assert metrics["student"]["macs"] < 0.5 * metrics["dense"]["macs"]
    assert metrics["int8"]["bytes"] == (tmp_path / "models" / "int8" / "model.onnx").stat().st_size
    assert metrics["int8"]["floating_convolutions"] == 0 < metrics["int8"]["integer_convolutions"]
    assert metrics["int8"]["latency_ms"] > 0
    assert {row["latency_runtime"].split(",")[0] for row in metrics.values()} == {"openvino"}
    assert json.loads((tmp_path / "models" / "student" / "metrics.json").read_text())["folds"] == 2
    student = artifacts.load(tmp_path / "models" / "student")
    assert sum(p.numel() for p in student.parameters()) == metrics["student"]["params"]
    assert len(history(tmp_path, "student")) == 3
    assert (tmp_path / "reports" / "index.html").stat().st_size > 10_000
    assert not list((tmp_path / "runs").iterdir()), "checkpoints of ended jobs are removed"


def a_fold_fails(root: Path, address: str | None) -> None:
    """It says why, and the earlier folds stay."""
    diverging = {
        "epochs": 2,
        "batch_size": 64,
        "learning_rate": 10.0,
        "weight_decay": 1.0,
        "warmup_epochs": 0,
    }
    write_params(root, folds=2, teacher=diverging, ray={"cpus_per_worker": 1, "address": address})
    (root / "models" / "folds" / "small" / "earlier").mkdir(parents=True)
    run_stage("data", root=root)
    ran = run_stages(root, "folds")
    assert ran.returncode == 1
    assert re.search(
        r"TrainingError: .*is (nan|[\d.]+e\+\d\d) in epoch 1: lower learning_rate \(10.0\)", ran.stderr
    ), ran.stderr
    assert [each.name for each in (root / "models" / "folds" / "small").iterdir()] == ["earlier"]


@pytest.mark.ray
def test_a_fold_that_fails_on_a_cluster(cluster: str, tmp_path: Path) -> None:
    a_fold_fails(tmp_path, cluster)


@pytest.mark.slow
def test_a_fold_that_fails_on_a_ray_of_the_stages_own(tmp_path: Path) -> None:
    a_fold_fails(tmp_path, None)


def start(root: Path, stage: str = "teacher") -> subprocess.Popen[bytes]:
    with (root / "stderr").open("wb") as errors:
        return subprocess.Popen(
            [AKGP, "stage", stage, "--network", "small"], cwd=root, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip


def errors(root: Path) -> list[str]:
    """What the stage last started in `root` wrote to stderr, but for its bar."""
    lines = (root / "stderr").read_text().replace("\r", "\n").splitlines()
    return [
        line for line in lines if line.strip() and not line.startswith(("teacher@small ", "folds@small "))
    ]


def checkpoints(root: Path) -> set[Path]:
    return set(root.glob("runs/teacher-small-*/checkpoint_*/state.pt"))


def workers(driver: int) -> list[int]:
    """Process ids of Ray Train workers in the tree below `driver`."""
    import psutil

    below = psutil.Process(driver).children(recursive=True)
    return [process.pid for process in below if "RayTrainWorker" in " ".join(process.cmdline())]


def told(root: Path) -> list[str]:
    """What is said, but that the interruption before met Ray while it wrote its snapshot."""
    return [line for line in errors(root) if "is damaged: the run goes on from" not in line]


def interrupted(root: Path, victim: str) -> None:
    """Start or resume the teacher, kill the victim after the next epoch, compare what is said and left."""
    import psutil

    before, process = checkpoints(root), start(root)
    deadline = time.monotonic() + 300
    while not checkpoints(root) - before:
        assert process.poll() is None and time.monotonic() < deadline, errors(root)
        time.sleep(0.05)
    below, computing = psutil.Process(process.pid).children(recursive=True), workers(process.pid)
    started = " ".join(word for each in below for word in each.cmdline())
    assert computing and not [name for name in NEEDLESS if name in started]
    if victim == "terminated":
        process.terminate()
        assert process.wait(50) == 128 + signal.SIGTERM
        assert told(root) == ["akgp: interrupted; run it again to resume"]
    elif victim in ("gcs_server", "raylet"):
        next(each for each in below if victim in each.name()).kill()
        assert process.wait(50) == 1, "Ray itself takes a minute"
        said = "akgp: Ray's own processes died; the same command resumes from its last epoch"
        assert told(root) == [said]
    elif victim == "worker":
        os.kill(computing[0], signal.SIGKILL)
        assert process.wait(300) != 0
        (line,) = told(root)
        assert line.startswith("akgp: teacher@small: a worker died") and "resumes from its last epoch" in line
    else:
        process.kill()
        process.wait(50)
        below = [each for each in below if each.pid in computing]  # they outlive it for some seconds
    assert not psutil.wait_procs(below, timeout=30)[1]
    assert not (root / "models" / "dense").exists()


@pytest.mark.slow
def test_a_kill_while_ray_writes_its_snapshot_costs_no_epoch(tmp_path: Path) -> None:
    write_params(tmp_path, teacher={"epochs": 30, "batch_size": 64, "learning_rate": 0.1})
    run_stage("data", root=tmp_path)
    interrupted(tmp_path, "driver")
    last = max(checkpoints(tmp_path))
    snapshot = last.parents[1] / "checkpoint_manager_snapshot.json"
    snapshot.write_text('{"ray_version": "2.', encoding="utf-8")
    done = torch.load(last, weights_only=True)[0]["history"]
    assert start(tmp_path).wait(300) == 0
    (said,) = [line for line in errors(tmp_path) if "is damaged" in line]
    assert said.endswith(f"{snapshot.name} is damaged: the run goes on from {last.parent.name}")
    rows = json.loads((tmp_path / "models/dense/small/history.json").read_text(encoding="utf-8"))
    assert len(rows) == 30 and done and rows[: len(done)] == done  # with the seconds that they took then


@pytest.mark.ray
def test_an_interrupted_stage_is_resumed_and_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    """One training, interrupted in every way; after the first its checkpoint is damaged, too."""
    undisturbed, root = tmp_path / "undisturbed", tmp_path / "root"
    for folder in (undisturbed, root):
        folder.mkdir()
        write_params(folder, teacher={"epochs": 40, "batch_size": 64, "learning_rate": 0.1})
        run_stage("data", root=folder)
    reference = computed(undisturbed, "teacher", "small")
    damaged = "state.pt is damaged: this checkpoint is not used"
    interrupted(root, "driver")
    for state in checkpoints(root):
        state.write_bytes(state.read_bytes()[:-1000])
    interrupted(root, "driver")
    assert any(damaged in line for line in errors(root))
    for victim in ("worker", "terminated", "gcs_server", "raylet"):
        interrupted(root, victim)
    assert start(root).wait(300) == 0
    assert not any(damaged in line for line in errors(root))
    assert history(root, "dense/small") == history(undisturbed, "dense/small")
    weights = [folder / "model.safetensors" for folder in (reference, root / "models" / "dense" / "small")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.ray
def test_a_training_whose_parameters_are_edited_is_neither_recorded_nor_lost(tmp_path: Path) -> None:
    training = {"epochs": 4, "batch_size": 64, "learning_rate": 0.1}
    write_params(tmp_path, teacher=training)
    run_stage("data", root=tmp_path)
    process = start(tmp_path)
    while not checkpoints(tmp_path):
        assert process.poll() is None, errors(tmp_path)
        time.sleep(0.05)
    write_params(tmp_path, teacher=training | {"epochs": 5})
    assert process.wait(300) == 1
    assert errors(tmp_path) == [
        "akgp: params.yaml has changed while teacher@small was computed (teacher.epochs: 4, now 5): run it "
        "again"
    ]
    assert not (tmp_path / "models" / "dense").exists()
    (state,) = checkpoints(tmp_path)
    trained = state.stat().st_mtime_ns
    write_params(tmp_path, teacher=training)
    process = start(tmp_path)
    while process.poll() is None:
        assert not state.exists() or state.stat().st_mtime_ns == trained, "it was trained again"
        time.sleep(0.05)
    assert process.returncode == 0 and len(history(tmp_path, "dense/small")) == 4


def finished_folds(root: Path) -> dict[str, str]:
    """The histories, with their timings, of the folds whose training has ended, by number."""
    return {
        re.search(r"fold=(\d+)", str(file))[1]: file.read_text()  # type: ignore[index]
        for file in root.glob("runs/folds-small-*/*/checkpoint_*/artifact/history.json")
    }


@pytest.mark.ray
def test_killed_folds_go_on_and_finished_ones_are_kept(tmp_path: Path) -> None:
    from akgp.orchestration import cross_fit
    from akgp.workspace import Task

    training = {"epochs": 12, "batch_size": 64, "learning_rate": 0.1, "precision": "fp32"}
    checked = write_params(tmp_path, folds=3, teacher=training)
    run_stage("data", root=tmp_path)
    process = start(tmp_path, "folds")
    deadline = time.monotonic() + 300
    while not finished_folds(tmp_path):
        assert process.poll() is None and time.monotonic() < deadline, "no fold ended"
        time.sleep(0.05)
    time.sleep(1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = finished_folds(tmp_path)
    assert kept and not (tmp_path / "models" / "folds" / "small").exists()

    assert start(tmp_path, "folds").wait(300) == 0, errors(tmp_path)
    assert errors(tmp_path) == []
    networks = tmp_path / "models" / "folds" / "small"
    assert {k: (networks / k / "history.json").read_text() for k in kept} == kept
    assert not list((tmp_path / "runs").iterdir())
    torch.set_num_threads(1)
    for k in range(3):
        undisturbed = tmp_path / "undisturbed" / str(k)
        undisturbed.mkdir(parents=True)
        for _ in cross_fit.compute(Task("folds", checked, tmp_path, "small"), undisturbed, None, fold=k):
            pass
        weights = [folder / "model.safetensors" for folder in (networks / str(k), undisturbed)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
