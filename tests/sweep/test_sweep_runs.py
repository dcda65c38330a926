from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from akgp import artifacts, data, params, sweep
from akgp.evaluation.cost import count
from akgp.models import cifar_resnet
from akgp.orchestration.run import run_stage
from akgp.sweep.results import Trial
from akgp.sweep.space import draw
from akgp.workspace import StageError
from tests.support.computing import computed

AKGP = str(Path(sys.executable).with_name("akgp"))


def write_params(root: Path, **changes: Any) -> params.Params:
    training = {
        "epochs": 4,
        "batch_size": 64,
        "learning_rate": 0.1,
        "augment": {"crop_padding": 1, "flip": False},
    }
    tree = {
        "data": {"color": "gray", "splits": {"test": 0.25}},
        "networks": {"small": {"architecture": "cifar_resnet20", "widths": [8, 8, 16]}},
        "teachers": ["small"],
        "student": "small",
        "teacher": training,
        "prune": {"ratio": 0.5, "round_to": 4},
        "distill": {"training": training},
        "ray": {"cpus_per_worker": 1},
        "sweep": {
            "trials": 3,
            "concurrent": 2,
            "grace_epochs": 4,
            "space": {
                "prune.ratio": {"min": 0.2, "max": 0.6},
                "distill.w0": {"choices": [0.0, 0.7]},
                "distill.temperature": {"min": 1, "max": 6, "log": True},
            },
        },
    } | changes
    validated = params.validate(tree)
    (root / "params.yaml").write_text(params.dump(validated))
    return validated


def workspace(root: Path, **changes: Any) -> None:
    write_params(root, **changes)
    run_stage("data", root=root)
    computed(root, "teacher", "small")


def untrained_workspace(root: Path, **changes: Any) -> None:
    """The same without Ray: a teacher that knows nothing will do."""
    prepared = root / "data" / "prepared"
    prepared.mkdir(parents=True)
    written = write_params(root, **changes)
    data.prepare(written.data, 0, prepared)
    torch.manual_seed(0)
    network = cifar_resnet(20, widths=written.networks["small"].widths, num_classes=10, in_channels=1)
    artifacts.save(network, root / "models" / "dense" / "small")


RATE = "distill.training.learning_rate"


QUICK = {"epochs": 1, "batch_size": 64, "learning_rate": 0.1, "warmup_epochs": 0.0}


@pytest.mark.slow
def test_a_search_of_two_objectives_runs_through_ray(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What only Ray does to the trials has broken all of them before.

    On a long tail, so that the mean over classes is the first objective, of those that learn by labels too.
    """
    space = {
        "prune.bypass": {"choices": [["layer1.1"]]},
        "distill.strategy": {"choices": ["akgp", "labels"]},
    }
    untrained_workspace(
        tmp_path,
        data={"color": "gray", "splits": {"test": 0.25}, "regime": {"imbalance": 8}},
        distill={"training": QUICK},
        sweep={"trials": 3, "concurrent": 1, "against": "macs", "space": space},
    )
    trials = sweep.run(tmp_path)
    assert [(one.number, one.status, one.epochs, one.error) for one in trials] == [
        (number, "finished", 1, None) for number in range(2)
    ]
    assert caplog.messages == [
        "sweep.space: its 2 valid combinations have all been tried: the sweep ends after 2 of 3 trials"
    ]
    assert sweep.run(tmp_path, trials=4) == trials, "also where it begins with none left"
    assert all(one.val_top1 and one.val_balanced_top1 and one.params for one in trials)
    assert all(one.latency_ms is None and one.compute == 1 for one in trials)
    dense = count(artifacts.load(tmp_path / "models" / "dense" / "small"), torch.zeros(1, 1, 8, 8))
    assert all(0 < (one.macs or 0) < dense.macs for one in trials)
    assert {one.values["prune.bypass"][0] for one in trials} == {"layer1.1"}
    assert all(one.values.keys() == space.keys() for one in trials)


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [AKGP, "sweep", "run"], cwd=root, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.ray
def test_a_search_is_killed_resumed_and_its_best_trial_reproduced(tmp_path: Path) -> None:
    workspace(tmp_path)
    killed = start(tmp_path)
    deadline = time.monotonic() + 180
    while not list(tmp_path.glob("sweeps/*/*/checkpoint_*/state.pt")):
        assert killed.poll() is None and time.monotonic() < deadline, "no trial began"
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "sweeps" / "trials.parquet").exists()
    time.sleep(5)  # its workers end

    resumed = start(tmp_path)
    output, errors = resumed.communicate(timeout=400)
    assert resumed.returncode == 0, errors
    assert not [
        line for line in errors.replace("\r", "\n").splitlines() if line.strip() and "sweep" not in line
    ]
    trials = sweep.best(10, tmp_path)
    assert len(trials) == 3 and {one.status for one in trials} == {"finished"}
    assert {f"{number}" for number in range(3)} <= {line.split()[0] for line in output.splitlines() if line}

    chosen = trials[0]
    sweep.apply(chosen.number, tmp_path)
    for stage in ("prune", "distill"):
        computed(tmp_path, stage)
    metrics = json.loads((tmp_path / "models" / "student" / "metrics.json").read_text())
    assert metrics["val_top1"] == chosen.val_top1


@pytest.mark.ray
def test_an_interrupted_search_shows_the_trials_that_ended(tmp_path: Path) -> None:
    space = {"prune.ratio": {"min": 0.1, "max": 0.6}}
    sizes = {"trials": 40, "concurrent": 1, "space": space}
    untrained_workspace(tmp_path, distill={"training": QUICK}, sweep=sizes)
    interrupted = start(tmp_path)
    deadline = time.monotonic() + 180
    while not list(tmp_path.glob("sweeps/*/2-*/checkpoint_*")):
        assert interrupted.poll() is None and time.monotonic() < deadline, "no third trial began"
        time.sleep(0.1)
    os.killpg(interrupted.pid, signal.SIGINT)
    _, errors = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130 and errors.endswith("akgp: interrupted; run it again to resume\n")
    found = sweep.best(10, tmp_path)
    assert {0, 1} <= {one.number for one in found} and {one.status for one in found} == {"finished"}
    assert (tmp_path / "sweeps" / "pareto.svg").exists() and not sweep.outdated(tmp_path)


@pytest.mark.ray
def test_a_finished_search_keeps_its_trials_and_is_extended(tmp_path: Path) -> None:
    """One at a time, so that the trials are those of a search of as many from the start."""
    space = {
        "prune.ratio": {"min": 0.1, "max": 0.6},
        "distill.training.batch_size": {"min": 32, "max": 96},
    }

    def changed(trials: int) -> dict[str, Any]:
        return {
            "distill": {"training": QUICK},
            "sweep": {"trials": trials, "concurrent": 1, "against": "macs", "space": space},
        }

    def known(trials: list[Trial]) -> list[Any]:
        return [
            (one.number, one.values, one.status, one.val_top1, one.macs, one.seconds, one.error)
            for one in trials
        ]

    untrained_workspace(tmp_path, **changed(2))
    first = sweep.run(tmp_path)
    assert [one.number for one in first] == [0, 1]
    assert {type(one.values["distill.training.batch_size"]) for one in first} == {int}
    assert known(sweep.run(tmp_path)) == known(first)

    sweep.apply(1, tmp_path)  # what trials set themselves makes no other search
    assert params.load(tmp_path / "params.yaml").prune.ratio == first[1].values["prune.ratio"]
    extended = sweep.run(tmp_path, trials=3)
    assert known(extended[:2]) == known(first) and [one.number for one in extended] == [0, 1, 2]
    write_params(tmp_path, **changed(4))
    longest = sweep.run(tmp_path)
    assert known(longest[:3]) == known(extended) and len(longest) == 4
    assert len(sweep.best(10, tmp_path)) == 4

    searched, ended = params.load(tmp_path / "params.yaml"), {}
    for one in longest:  # a search from the start would draw them from what ended before them
        assert one.values == draw(one.number, ended, searched, ("max", "min"))
        ended[one.number] = one.values, (one.val_top1 or 0.0, one.macs or 0)


@pytest.mark.ray
def test_trials_of_two_workers_follow_each_other(tmp_path: Path) -> None:
    """A trial gets the workers of the one before, also where that was stopped early: the second here.

    Networks are pruned, and recovered between cuts, by one worker, as the stage does it.
    """
    momentum = {"choices": [0.9, 0.91]}  # hardly an effect: so that a rate can be drawn twice
    space = {RATE: {"choices": [0.1, 1e-4]}, "distill.training.momentum": momentum}
    # Without a warm-up and by many steps: three epochs tell the rates apart.
    training = {
        "epochs": 5,
        "batch_size": 16,
        "learning_rate": 0.1,
        "warmup_epochs": 0.0,
        "precision": "fp32",
    }
    alone = {"epochs": 1, "batch_size": 129, "learning_rate": 0.1}  # not a batch of two workers
    untrained_workspace(
        tmp_path,
        seed=11,  # which draws 0.1 first, then 1e-4, then 0.1
        prune={"ratio": 0.5, "schedule": {"steps": 2, "recovery": alone}},
        distill={"strategy": "labels", "training": training},
        ray={"cpus_per_worker": 1, "workers": 2},
        sweep={"trials": 3, "concurrent": 1, "grace_epochs": 3, "space": space},
    )
    trials = sweep.run(tmp_path)
    assert [one.values[RATE] for one in trials] == [0.1, 1e-4, 0.1]
    assert [one.status for one in trials] == ["finished", "stopped", "finished"]
    assert all(one.val_top1 and one.macs and one.epochs for one in trials)


@pytest.mark.ray
def test_latency_is_measured_where_it_is_an_objective(tmp_path: Path) -> None:
    """Networks of very different size: the smallest must be the fastest."""
    space = {"prune.ratio": {"choices": [0.0, 0.75]}, "distill.w0": {"choices": [0.2, 0.3]}}
    network = {"architecture": "cifar_resnet20", "widths": [32, 64, 128]}
    untrained_workspace(
        tmp_path,
        data={"color": "gray", "image_size": 16, "splits": {"test": 0.25}},
        networks={"small": network},
        distill={"training": QUICK},
        sweep={"trials": 3, "concurrent": 1, "against": "latency", "space": space},
    )
    trials = sweep.run(tmp_path)
    assert {one.status for one in trials} == {"finished"}
    times = {one.values["prune.ratio"]: one.latency_ms or 0 for one in trials}
    assert len(times) == 2 and 0 < times[0.75] < 0.8 * times[0.0]
    assert {one.latency_ms for one in trials} == set(times.values()), "equal networks, equal latencies"
    on_front = {one.values["prune.ratio"] for one in sweep.pareto_front(trials)}
    assert 0.75 in on_front
    assert "int8 ms" in sweep.table(sweep.best(3, tmp_path))


@pytest.mark.ray
def test_stopped_and_failed_trials_do_not_disturb_the_next_ones(tmp_path: Path) -> None:
    """They run in the processes of earlier ones. Values that don't go together are not tried."""
    training = {"epochs": 3, "batch_size": 64, "learning_rate": 0.1}
    space = {
        "distill.training.learning_rate": {"choices": [0.1, 10.0]},
        "distill.training.epochs": {"choices": [4, 5]},  # more than params.yaml has outside of the space
        "distill.training.warmup_epochs": {"choices": [1.0, 4.0]},
        "prune.macs": {"choices": [0.5, 0.25]},
    }
    untrained_workspace(
        tmp_path,
        distill={"strategy": "labels", "training": training},
        sweep={"trials": 6, "concurrent": 2, "grace_epochs": 1, "space": space},
    )
    trials = sweep.run(tmp_path)
    assert {one.status for one in trials} == {"finished", "stopped", "failed"}
    for one in trials:
        epochs, warmup = (one.values[f"distill.training.{key}"] for key in ("epochs", "warmup_epochs"))
        assert warmup < epochs
        if one.status == "failed":
            assert one.values[RATE] == 10.0 and "lower learning_rate (10.0)" in (one.error or "")
        else:
            assert (one.error is None and one.epochs == epochs) or one.status == "stopped"


@pytest.mark.parametrize("key", ["prune.bypass", "prune.skip"])
def test_modules_that_the_network_lacks_are_named_before_anything_computes(tmp_path: Path, key: str) -> None:
    space = {key: {"choices": [[], ["layer1.1"], ["layer9"]]}}
    untrained_workspace(tmp_path, sweep={"space": space})
    with pytest.raises(StageError, match=f"^sweep.space: {key}: 'layer9' is not a module of the network"):
        sweep.run(tmp_path)
    assert not list((tmp_path / "sweeps").glob("*"))
