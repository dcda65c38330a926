"""Sweeps: the table, the Pareto front, time left, taking a trial over; and real searches."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akgp import data, params, sweep
from akgp.sweep import results
from akgp.sweep.identity import keys_of_search
from akgp.sweep.latency import latencies_ms
from akgp.sweep.progress import Progress, TrialProgress, roughly, seconds_left
from akgp.sweep.results import Trial
from akgp.sweep.search import objective
from akgp.sweep.space import draw
from akgp.sweep.trial import BALANCED, NUMBER, TOP1, VALUES
from akgp.workspace import StageError


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


def test_a_sweep_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials and the parameters that they vary are of one sweep."""
    (tmp_path / results.FOLDER).mkdir()
    results.write(tmp_path, TRIALS, base())

    def refuse(*_: Any) -> None:
        raise OSError("no figure")

    monkeypatch.setattr(results, "_draw", refuse)
    with pytest.raises(OSError, match="no figure"):
        results.write(tmp_path, TRIALS[:1], base().model_copy(update={"seed": 7}))
    assert results.read_base(tmp_path).seed == 0 and len(results.read_trials(tmp_path)) == len(TRIALS)
    assert sorted(file.name for file in (tmp_path / results.FOLDER).iterdir()) == sorted(
        (results.TABLE, results.BASE, results.PLOT)
    )


def test_trials_of_another_number_of_workers_are_of_another_sweep() -> None:
    assert "ray.workers" in keys_of_search(base())


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
        ["trial", "temperature", "ratio", "removed"],
        ["5", "4", "0.35"],
        ["1", "0.3"],
        ["4"],
    ]  # fmt: skip
    head, row, *more = sweep.table([replace(TRIALS[0], latency_ms=0.04567)]).splitlines()
    assert head.split()[5:8] == ["params", "int8", "ms"] and row.split()[4] == "0.0457"
    assert [line.split() for line in more] == [[], ["trial", "ratio", "removed"], ["0", "0.5"]]


def test_null_is_a_value_as_others_are(tmp_path: Path) -> None:
    """Drawn, learned from, kept in the table, applied, and shown as in params.yaml."""
    space = {"distill.training.ema": {"choices": [0.9, None]}, "distill.noise_posterior": {"choices": [True]}}
    searched = base(space=space)
    first = draw(0, {}, searched, ["max"])
    second = draw(1, {0: (first, [90.0])}, searched, ["max"], tried=[first])
    trials = [trial(number, 90.0, 500, **values) for number, values in enumerate((first, second))]
    (tmp_path / "sweeps").mkdir()
    results.write(tmp_path, trials, searched)
    assert {one.values["distill.training.ema"] for one in sweep.best(2, tmp_path)} == {0.9, None}
    empty = next(one.number for one in trials if one.values["distill.training.ema"] is None)
    assert sweep.apply(empty, tmp_path).distill.training.ema is None
    block = sweep.table(trials).split("\n\n")[-1]
    rows = [line.split() for line in block.splitlines()]
    assert rows[0] == ["trial", "noise_posterior", "ema"]
    assert sorted(row[1:] for row in rows[1:]) == [["true", "0.9"], ["true", "null"]]


def test_lists_and_sections_are_values_as_others_are(tmp_path: Path) -> None:
    blocks, schedule = [[], ["layer1.1"]], {"steps": 2, "recovery": {"epochs": 1}}
    searched = base(space={"prune.bypass": {"choices": blocks}, "prune.schedule": {"choices": [schedule]}})
    first = draw(0, {}, searched, ["max"])
    second = draw(1, {0: (first, [90.0])}, searched, ["max"], tried=[first])
    assert sorted(one["prune.bypass"] for one in (first, second)) == blocks
    (tmp_path / "sweeps").mkdir()
    trials = [trial(number, 90.0, 500, **values) for number, values in enumerate((first, second))]
    results.write(tmp_path, trials, searched)
    (without,) = (one.number for one in sweep.best(2, tmp_path) if one.values["prune.bypass"])
    applied = sweep.apply(without, tmp_path).prune
    assert applied.bypass == ("layer1.1",) and applied.schedule and applied.schedule.steps == 2
    assert '["layer1.1"]' in sweep.table(trials)


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
    assert " ratio removed" in text and " MACs kept" in text, "of the dense network, which is not the same"
    assert {
        "round_to", "learning_rate", "mixup.alpha", "logit_adjustment.alpha",
        "training.epochs", "averaging",
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
    results.write(tmp_path, [*TRIALS[:2], TRIALS[5]], base())  # of an interrupted sweep
    with pytest.raises(StageError, match="trial 3 has not ended; `akgp sweep run` resumes it"):
        sweep.apply(3, tmp_path)


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


def without_its_columns(file: Path) -> None:
    pq.write_table(pa.table({"number": [0], "values": ["{}"]}), file)


def without_values(file: Path) -> None:
    pq.write_table(pa.table({"number": [0], "status": ["finished"]}), file)


@pytest.mark.parametrize(
    ("name", "damage", "state"),
    [
        ("trials.parquet", lambda file: file.write_text("x\n"), "damaged"),
        ("trials.parquet", lambda file: file.write_bytes(file.read_bytes()[:-300]), "damaged"),
        ("trials.parquet", without_its_columns, "damaged"),
        ("trials.parquet", without_values, "damaged"),
        ("params.yaml", Path.unlink, "missing"),
        ("params.yaml", lambda file: file.write_text("seed: 0\n"), "damaged (networks: missing)"),
    ],
)
def test_a_damaged_file_is_named_with_what_writes_it_again(
    tmp_path: Path, name: str, damage: Callable[[Path], object], state: str
) -> None:
    (tmp_path / "sweeps").mkdir()
    results.write(tmp_path, TRIALS, base())
    file = tmp_path / "sweeps" / name
    damage(file)
    for use in (lambda: sweep.best(1, tmp_path), lambda: sweep.apply(1, tmp_path)):
        with pytest.raises(StageError) as error:
            use()
        assert str(error.value) == f"{file}: {state}; `akgp sweep run` writes it again"


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
