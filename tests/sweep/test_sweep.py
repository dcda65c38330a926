"""Sweeps: the table, the Pareto front, time left, taking a trial over; and real searches."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from akgp import artifacts, data, params, sweep
from akgp.evaluation.cost import count
from akgp.models import cifar_resnet
from akgp.orchestration.run import run_stage
from akgp.sweep import results
from akgp.sweep.latency import latencies_ms
from akgp.sweep.progress import Progress, TrialProgress, roughly, seconds_left
from akgp.sweep.results import Trial
from akgp.sweep.search import objective
from akgp.sweep.space import draw
from akgp.sweep.trial import BALANCED, NUMBER, TOP1, VALUES
from akgp.workspace import StageError
from tests.support.computing import computed

AKGP = str(Path(sys.executable).with_name("akgp"))


def trial(
    number: int, val_top1: float | None, macs: int | None, status: str = "finished", **values: Any
) -> Trial:
    return Trial(number, values, status, 3, val_top1, macs, macs, 1.0, "boom" if status == "failed" else None)


TRIALS = [
    trial(0, 90.0, 500, **{"prune.ratio": 0.5}),
    trial(1, 92.0, 700, **{"prune.ratio": 0.3}),
    trial(2, 91.0, 800, **{"prune.ratio": 0.2}),  # beaten by 1 in both
    trial(3, 95.0, 900, status="stopped"),
    trial(4, None, None, status="failed"),
    trial(5, 92.0, 650, **{"prune.ratio": 0.35, "distill.temperature": 4.0, "distill.strategy": "fixed"}),
]


def base(**sweep: Any) -> params.Params:
    networks = {"n": {"architecture": "cifar_resnet20"}}
    return params.validate({"networks": networks, "teachers": ["n"], "student": "n", "sweep": sweep})


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Of (accuracy, cost): nowhere worse, and somewhere better."""
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def test_front_is_what_no_finished_trial_beats() -> None:
    front = sweep.pareto_front(TRIALS)
    assert [one.number for one in front] == [0, 5]
    assert [one.macs for one in front] == [500, 650]


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_front_against_brute_force(seed: int, timed: bool) -> None:
    """Few values, so that there are ties; with latencies MACs have no say."""
    draw, statuses = random.Random(seed), ("finished", "stopped")
    trials = [
        replace(
            trial(number, draw.randrange(6) * 10.0, draw.randrange(1, 6), draw.choice(statuses)),
            latency_ms=draw.randrange(1, 6) / 10 if timed else None,
        )
        for number in range(draw.randrange(12))
    ]
    figures = {
        one.number: (one.val_top1 or 0.0, one.latency_ms if timed else float(one.macs or 0))
        for one in trials
        if one.status == "finished"
    }
    unbeaten = {
        mine
        for mine in figures.values()
        if not any(beats(other, mine) for other in figures.values())  # type: ignore[arg-type]
    }
    front = [figures[one.number] for one in sweep.pareto_front(trials)]
    assert set(front) == unbeaten and len(front) == len(unbeaten), "of equal trials one"
    assert [cost for _, cost in front] == sorted(cost for _, cost in front)


def test_results_are_written_read_and_ranked(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    results.write(tmp_path, TRIALS, base())
    assert [one.number for one in sweep.best(2, tmp_path)] == [5, 1]  # a tie goes to the smaller network
    assert pq.read_table(tmp_path / "sweeps" / "trials.parquet").num_rows == len(TRIALS)
    plot = (tmp_path / "sweeps" / "pareto.svg").read_text()
    assert plot.startswith("<?xml") and "<!-- MMACs -->" in plot


def test_with_two_objectives_the_front_comes_first(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    results.write(tmp_path, TRIALS, base(against="macs"))
    assert [one.number for one in sweep.best(10, tmp_path)] == [5, 0, 1, 2]
    times = [0.3, 0.1, 0.2, 0.4, None, 0.5]
    timed = [replace(one, latency_ms=ms) for one, ms in zip(TRIALS, times, strict=True)]
    results.write(tmp_path, timed, base(against="latency"))
    assert [one.number for one in sweep.best(10, tmp_path)] == [1, 5, 2, 0]
    assert "<!-- int8 latency at batch 1, ms -->" in (tmp_path / "sweeps" / "pareto.svg").read_text()


def test_table_has_all_figures_and_all_searched_parameters() -> None:
    lines = sweep.table([TRIALS[5], TRIALS[1], TRIALS[4]]).splitlines()
    assert [line.split() for line in lines] == [
        ["trial", "val", "top-1", "%", "MACs", "params", "epochs", "seconds", "status", "front", "strategy"],
        ["5", "92.00", "650", "650", "3", "1.0", "finished", "*", "fixed"],
        ["1", "92.00", "700", "700", "3", "1.0", "finished"],
        ["4", "-", "-", "-", "3", "1.0", "failed"],
        [],
        ["trial", "temperature", "ratio"],
        ["5", "4", "0.35"],
        ["1", "0.3"],
        ["4"],
    ]  # fmt: skip
    head, row, *more = sweep.table([replace(TRIALS[0], latency_ms=0.04567)]).splitlines()
    assert head.split()[5:8] == ["params", "int8", "ms"] and row.split()[4] == "0.0457"
    assert [line.split() for line in more] == [[], ["trial", "ratio"], ["0", "0.5"]]


def test_table_fits_a_terminal_whatever_the_parameters_are_called() -> None:
    """Names are shortened as far as they tell each other, and the table's heads, apart."""
    values = {
        "prune.ratio": 0.123456789,
        "prune.round_to": 8,
        "distill.training.learning_rate": 1.2345e-05,
        "distill.training.mixup.alpha": 0.2,
        "distill.logit_adjustment.alpha": 1,
        "distill.training.epochs": 160,
        "distill.training.averaging": "exponential-" * 20,
        "prune.macs": 0.5,
    }
    full = {"val_balanced_top1": 98.7, "latency_ms": 123.4567, "compute": 12.34, "seconds": 123456.7}
    one = replace(trial(100, 98.7, 12_345_678_901, "stopped", **values), **full)
    text = sweep.table([one, TRIALS[4]])
    assert max(map(len, text.splitlines())) <= 80
    blocks = [[line.split() for line in block.splitlines()] for block in text.split("\n\n")]
    assert [[row[0] for row in block] for block in blocks] == [["trial", "100", "4"]] * len(blocks)
    heads = [head for block in blocks for head in block[0]]
    assert {
        "ratio", "round_to", "learning_rate", "mixup.alpha", "logit_adjustment.alpha",
        "training.epochs", "averaging", "prune.macs",
    } <= set(heads)  # fmt: skip
    cells = [cell for block in blocks for cell in block[1]]
    assert {"0.1235", "1.234e-05", "160", "12.3", "G", "123.4567", "12.34", "123456.7"} <= set(cells)
    assert any(cell.startswith("exponential-exp") and cell.endswith("…") for cell in cells)


def test_on_a_long_tail_trials_are_judged_by_the_mean_over_classes(tmp_path: Path) -> None:
    trials = [
        replace(one, val_balanced_top1=top1) for one, top1 in zip(TRIALS[:3], (50, 40, 60), strict=True)
    ]
    assert [one.number for one in sweep.pareto_front(trials)] == [0, 2]
    lines = [line.split() for line in sweep.table([replace(one, compute=1.3) for one in trials]).splitlines()]
    assert lines[0][4:11] == ["val", "balanced", "top-1", "%", "MACs", "params", "compute"]
    assert lines[1][:6] == ["0", "90.00", "50.00", "500", "500", "1.30"]
    (tmp_path / "sweeps").mkdir()
    results.write(tmp_path, trials, base())
    assert sweep.best(3, tmp_path) == [trials[2], trials[0], trials[1]]
    assert "<!-- validation balanced top-1, % -->" in (tmp_path / "sweeps" / "pareto.svg").read_text()


def test_latencies_are_shares_of_the_dense_networks_time() -> None:
    """A machine that slows down to half its pace changes none of them; equal networks have equal ones."""
    found = [
        {"macs": 10, "params": 5, "latency": 0.50, "dense_latency_ms": 1.0},
        {"macs": 20, "params": 5, "latency": 0.80, "dense_latency_ms": 1.0},
        {},
        {"macs": 10, "params": 5, "latency": 0.54, "dense_latency_ms": 2.0},
    ]
    assert latencies_ms(found) == pytest.approx([0.52, 0.8, None, 0.52])
    assert latencies_ms([{"macs": 1, "params": 1}]) == [None]


def course(epochs: int, seconds: float, ended: bool = False, planned: int = 4) -> TrialProgress:
    return TrialProgress(epochs, planned, seconds, 2.0 if epochs else 0.0, ended)


@pytest.mark.parametrize(
    ("begun", "trials", "concurrent", "expected"),
    [
        ([], 4, 1, None),
        ([course(0, 0)], 4, 1, None),
        ([course(1, 5)], 1, 1, 3 * 2),
        ([course(1, 5)], 3, 1, 3 * 2 + 2 * (3 + 4 * 2)),  # others start as long as it did: 3 s
        ([course(1, 5), course(0, 0)], 3, 2, (3 * 2 + 2 * (3 + 4 * 2)) / 2),
        ([course(4, 11, ended=True), course(1, 5)], 2, 2, 3 * 2),  # nothing else can run beside it
        ([course(4, 11, ended=True), course(2, 7, ended=True)], 3, 1, 3 + 3 * 2),  # early ends are expected
        ([course(4, 11, ended=True)], 1, 1, 0),
        ([course(0, 0, ended=True), course(4, 11, ended=True)], 4, 1, 2 * (3 + 2 * 2)),  # one failed
    ],
)
def test_time_left(begun: list[TrialProgress], trials: int, concurrent: int, expected: float | None) -> None:
    assert seconds_left(begun, trials, concurrent) == expected


def test_time_left_is_said_as_precisely_as_it_is_known() -> None:
    assert [roughly(each) for each in (0, 1, 31, 59, 61, 5399, 9000)] == [
        "10 s", "10 s", "40 s", "60 s", "2 min", "90 min", "2.5 h",
    ]  # fmt: skip


def test_apply_writes_the_trials_params_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    results.write(tmp_path, TRIALS, base())
    sweep.apply(5, tmp_path)
    applied = params.load(tmp_path / "params.yaml")
    assert (applied.prune.ratio, applied.distill.temperature, applied.distill.strategy) == (
        0.35,
        4.0,
        "fixed",
    )
    assert applied.model_copy(update={"prune": base().prune, "distill": base().distill}) == base()
    with pytest.raises(StageError, match="got trial 9, must be one of 0 to 5"):
        sweep.apply(9, tmp_path)


def test_apply_keeps_a_params_file_that_was_edited(tmp_path: Path) -> None:
    """Edited is what is neither the sweep's parameters, in whatever layout, nor those of a trial of it."""
    (tmp_path / "sweeps").mkdir()
    results.write(tmp_path, TRIALS, base())
    file = tmp_path / "params.yaml"
    whole = params.dump(base())
    for text in (whole, "\n".join(line.partition("  #")[0] for line in whole.splitlines())):
        file.write_text(text)
        for number in (5, 1, 5):  # one after the other: no trial's parameters are an edit
            sweep.apply(number, tmp_path)
    applied = file.read_text()
    edits = ("# mine\n" + applied, applied.replace("temperature: 4.0", "temperature: 3.5"), "networks: [\n")
    for edited in edits:
        file.write_text(edited)
        with pytest.raises(params.ParamsError, match=r"params\.yaml: has been edited.*sweep apply 1 --force"):
            sweep.apply(1, tmp_path)
        assert file.read_text() == edited
    sweep.apply(1, tmp_path, force=True)
    assert params.load(file).prune.ratio == 0.3


def test_nothing_to_show_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"trials.parquet: missing; `akgp sweep run` makes it"):
        sweep.best(1, tmp_path)


@pytest.mark.parametrize(("imbalance", "expected"), [(1.0, TOP1), (3.0, TOP1), (3.1, BALANCED)])
def test_all_trials_have_the_objective_that_the_data_ask_for(imbalance: float, expected: str) -> None:
    """The ratio is that above which `akgp` adjusts logits; of the training split."""
    summary = data.Summary(
        source="digits", classes=("a", "b"), image_size=(8, 8), channels=1, counts={}, mean=(0.5,),
        std=(0.2,), imbalance=imbalance, skipped=0, digest="",
    )  # fmt: skip
    assert objective(summary) == expected


class TuneTrial:
    """As much of Ray Tune's trial as the progress bar looks at."""

    def __init__(self, status: str, epoch: int = 0, best: float = 0.0) -> None:
        self.status, self.config = status, {NUMBER: 0, VALUES: {"distill.w0": 0.5}}
        row = {"epoch": epoch, "seconds": 10.0, "time_total_s": 5 + 10.0 * epoch, TOP1: best}
        self.last_result = row if epoch else {}

    def is_finished(self) -> bool:
        return self.status in ("TERMINATED", "ERROR")


def test_progress_says_what_is_done_and_what_is_left() -> None:
    bar = Progress.shown(trials=4, concurrent=2, planned=lambda values: 4, metric=TOP1)
    said = []
    with bar:
        for trials in (
            [],
            [TuneTrial("RUNNING"), TuneTrial("RUNNING")],
            [TuneTrial("RUNNING", 1, 50.0), TuneTrial("RUNNING")],
            [TuneTrial("TERMINATED", 4, 70.25), TuneTrial("RUNNING", 2, 60.0), TuneTrial("PENDING")],
            [TuneTrial("TERMINATED", 4, 70.25), TuneTrial("ERROR"), TuneTrial("RUNNING", 3, 71.0)],
            [TuneTrial("TERMINATED", 4, 70.25), TuneTrial("ERROR"), *(TuneTrial("TERMINATED", 4, 71.0),) * 2],
        ):
            Progress().on_step_end(0, trials)
            said.append((bar.n, bar.postfix))
    assert said == [
        (0, "0 of 4 trials"),
        (0, "0 of 4 trials"),
        (6, "0 of 4 trials, best val top-1 50.00 %, about 2 min left"),  # 30 + 3 × 45 s, two at a time
        (38, "1 of 4 trials, best val top-1 70.25 %, about 60 s left"),  # 20 + 2 × 45 s
        (70, "2 of 4 trials (1 failed), best val top-1 71.00 %, about 30 s left"),  # 10 s beside 5 + 2 × 10 s
        (100, "4 of 4 trials (1 failed), best val top-1 71.00 %"),
    ]


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


def test_a_search_of_two_objectives_runs_through_ray(tmp_path: Path) -> None:
    """Quick enough to be run always: what only Ray does to the trials has broken all of them before.

    On a long tail, so that the mean over classes is the first objective, of those that learn by labels too.
    """
    space = {
        "prune.ratio": {"choices": [0.2, 0.5, 0.6]},
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
        (number, "finished", 1, None) for number in range(3)
    ]
    assert all(one.val_top1 and one.val_balanced_top1 and one.params for one in trials)
    assert all(one.latency_ms is None and one.compute == 1 for one in trials)
    dense = count(artifacts.load(tmp_path / "models" / "dense" / "small"), torch.zeros(1, 1, 8, 8))
    assert all(0 < (one.macs or 0) < dense.macs for one in trials)
    assert all(one.values.keys() == space.keys() for one in trials)


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [AKGP, "sweep", "run"], cwd=root, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_trials_of_two_workers_follow_each_other(tmp_path: Path) -> None:
    """A trial gets the workers of the one before, also where that was stopped early: the second here."""
    space = {RATE: {"choices": [0.1, 1e-4]}}
    training = {"epochs": 3, "batch_size": 64, "learning_rate": 0.1, "precision": "fp32"}
    untrained_workspace(
        tmp_path,
        seed=5,  # which draws 0.1 first, then 1e-4
        distill={"strategy": "labels", "training": training},
        ray={"cpus_per_worker": 1, "workers": 2},
        sweep={"trials": 3, "concurrent": 1, "grace_epochs": 1, "space": space},
    )
    trials = sweep.run(tmp_path)
    assert [one.values[RATE] for one in trials] == [0.1, 1e-4, 0.1]
    assert [one.status for one in trials] == ["finished", "stopped", "finished"]
    assert all(one.val_top1 and one.macs and one.epochs for one in trials)


@pytest.mark.slow
def test_latency_is_measured_where_it_is_an_objective(tmp_path: Path) -> None:
    """Networks of very different size: the smallest must be the fastest."""
    space = {"prune.ratio": {"choices": [0.0, 0.75]}}
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


@pytest.mark.slow
def test_stopped_and_failed_trials_do_not_disturb_the_next_ones(tmp_path: Path) -> None:
    """They run in the processes of earlier ones. Values that don't go together are not tried."""
    training = {"epochs": 3, "batch_size": 64, "learning_rate": 0.1}
    space = {
        "distill.training.learning_rate": {"choices": [0.1, 10.0]},
        "distill.training.epochs": {"choices": [2, 4]},
        "distill.training.warmup_epochs": {"choices": [1.0, 2.0]},
        "prune.macs": {"choices": [0.5, 0.0001]},
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
        if one.values["prune.macs"] < 0.01:
            assert one.status == "failed" and "a budget of" in (one.error or "")
        else:
            assert (one.error is None and one.epochs == epochs) or one.status == "stopped"
    assert any(one.epochs == 4 for one in trials), "more epochs than params.yaml has outside of the space"
