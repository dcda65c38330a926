"""The experiments' bookkeeping: what is compared with what, and how the tables say it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from akgp import evaluation, models
from akgp.data.batches import Batch
from akgp.training import Epoch
from benchmarks import sweep_scaling
from benchmarks.sweep_scaling import Case, Timed
from experiments import (
    ablation,
    against_dense,
    against_torch_pruning,
    criteria,
    curve,
    defaults,
    mobile,
    paper,
    scope,
    seeds,
    when_to_prune,
)
from experiments.weighting import design, reporting, running, teachers, testing
from experiments.weighting.design import FULL, GRID
from experiments.weighting.learning import finished
from experiments.weighting.students import TrialProgress, checkpoint_of, folder_of, remembered
from experiments.weighting.teachers import ReferenceRun


def test_every_student_has_a_folder_of_its_own(tmp_path: Path) -> None:
    cells = list(GRID.cells())
    folders = [folder_of(tmp_path, cell, arm) for cell in cells for arm in GRID.arms_of(cell.setting)]
    assert len(set(folders)) == len(folders) == len(GRID.pairs) * 222
    checkpoints = {checkpoint_of(tmp_path, cell, arm) for cell in cells for arm in GRID.arms_of(cell.setting)}
    assert len(checkpoints) == len(folders) and not checkpoints & set(folders)
    assert {cell.setting for cell in cells[: len(GRID.settings)]} == set(GRID.settings), "seeds one by one"
    for arm in GRID.arms_of(design.Setting("long tail 1:50", "in-sample")):
        expected = "off" if arm is design.NO_SHIFT else "on"
        assert GRID.distill("long tail 1:50", arm).logit_adjustment == expected
    assert GRID.digest != FULL.digest


def test_trials_come_after_what_they_need() -> None:
    """Networks first, then the students that measure w0 for others, then those."""
    networks, measuring, rest = running.trials(GRID)
    assert {(trial.regime, trial.teacher_seed) for trial in networks} == {
        (cell.setting.regime, cell.teacher_seed) for cell in GRID.cells()
    }
    known = {(trial.cell.setting, trial.teacher_seed) for trial in measuring if trial.cell}
    assert all((trial.cell.setting, trial.teacher_seed) in known for trial in rest if trial.cell)
    assert all(trial.cell for trial in (*measuring, *rest))
    assert sorted(trial.cell.name for trial in (*measuring, *rest) if trial.cell) == sorted(
        cell.name for cell in GRID.cells()
    )


def test_a_killed_training_goes_on_after_its_last_whole_epoch(tmp_path: Path) -> None:
    """Also one that was killed between its last epoch and its end."""

    def training(state: dict[str, Any] | None) -> Iterator[Epoch]:
        for number in range(state["epoch"] if state else 0, 3):
            started.append(number)
            yield Epoch({"epoch": number}, {"epoch": number + 1})

    started: list[int] = []
    checkpoint = tmp_path / "folder" / "a.checkpoint"

    def killed(state: dict[str, Any] | None) -> Iterator[Epoch]:
        yield from islice(training(state), 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finished(killed, checkpoint)
    copied = checkpoint.read_bytes()
    assert finished(training, checkpoint).row == {"epoch": 2}
    assert started == [0, 1, 2] and not checkpoint.exists()
    checkpoint.write_bytes(copied)
    assert finished(lambda state: iter(()), checkpoint).row == {"epoch": 1}


def small_cifar10(folder: Path) -> Path:
    """A Parquet directory in the layout of CIFAR-10: 700 + 100 images, a colour and noise for each class."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 700), ("test", 100)):
        rows = []
        for index in range(count):
            pixels = random.normal(25 * (index % 10), 30, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "png")
            rows.append({"img": {"bytes": content.getvalue(), "path": None}, "label": index % 10})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{part}.parquet")
    return folder


@pytest.mark.slow
def test_every_kind_of_teacher_and_strategy_is_trained_tested_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKGP_CIFAR10", str(small_cifar10(tmp_path / "cifar10")))
    monkeypatch.setattr(teachers, "LARGE", (8, (8, 8, 8)))
    monkeypatch.setattr(teachers, "OTHERS", 200)
    in_sample = design.Setting("clean", "in-sample")
    small = replace(
        design.LONG,
        settings=(
            *(replace(in_sample, teacher=teacher) for teacher in ("in-sample", "strong", "several", "large")),
            design.Setting("symmetric 40 %", "cross-fitted"),
        ),
        pairs=((0, 0),),
        arms=(*design.fixed(0.0, 0.7), design.AKGP_LOW, *GRID.arms[-2:], design.ANSWERS),
        duels=((design.ANSWERS.name, "fixed 0.7"),),
        subset=dict.fromkeys(design.REGIMES, 300),
        widths=(8, 8, 8),
        folds=2,
        teacher=design.LONG.teacher | {"epochs": 2, "precision": "fp32"},
        student=design.LONG.student | {"epochs": 4, "precision": "fp32"},
    )
    written = []
    for _ in range(2):
        for trial in (trial for group in running.trials(small) for trial in group):
            trial.run(small, tmp_path)
        written.append({file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")})
    assert written[0] == written[1], "nothing is trained twice"
    rows = testing.test(small, tmp_path, partial=False)
    by_name = {(row["teacher"], row["strategy"]): row for row in rows}
    assert len(by_name) == len(rows) == 5 * len(small.arms) + 1 + 1 + 1 + 2
    read = TrialProgress(ReferenceRun(small, tmp_path, "clean", 0), design.Cell(in_sample, 0, 0)).data
    knows = read.taught.profile.informative
    assert by_name["in-sample", design.ANSWERS.name]["w"] == (0.3 if knows else 0)
    assert by_name["strong", design.ANSWERS.name]["w"] != 0.3
    assert by_name["strong", "akgp, branches from answers"]["compute"] == 1.5
    assert 1 < by_name["in-sample", "self"]["compute"] < 2
    assert {("several", "confidence"), ("several", "learned")} <= set(by_name)
    testing.write(rows, small, tmp_path / "trials.parquet")
    results = reporting.Results(pd.read_parquet(tmp_path / "trials.parquet"), small)
    text = reporting.tables(results)
    assert "## clean, several teacher" in text and "mean of 3 settings" in text
    reporting.plots(results, tmp_path)


def trials() -> pd.DataFrame:
    """Two settings, three pairs of seeds; strategies differ by a constant and by noise."""
    random = np.random.default_rng(0)
    rows = []
    for regime, best in (("clean", "fixed 0.9"), ("symmetric 40 %", "fixed 0.1")):
        for seed in range(3):
            level = 60 + 5 * seed
            for name in [arm.name for arm in GRID.arms]:
                top1 = level + (name == best) + 2 * (name == "akgp from 0.3") + 0.1 * random.standard_normal()
                rows.append(
                    {
                        "regime": regime, "teacher": "in-sample", "strategy": name, "w": 0.5, "compute": 1.0,
                        "teacher_seed": 0, "student_seed": seed, "test_top1": top1, "device": "cpu",
                        "dense_test_top1": 60.0, "val_top1": 60 - top1,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_regret_is_paired_and_against_the_best_fixed_weight_of_each_setting() -> None:
    table = trials()
    results = reporting.Results(table, GRID)
    clean, noisy = ("clean", "in-sample"), ("symmetric 40 %", "in-sample")
    assert [results.best_fixed(setting) for setting in (clean, noisy)] == ["fixed 0.9", "fixed 0.1"]
    of_clean = table[table.regime == "clean"].set_index("student_seed")
    best, mine = (of_clean[of_clean.strategy == name].test_top1 for name in ("fixed 0.9", "akgp from 0.3"))
    difference = (best - mine).to_numpy()
    found = reporting.mean(results.regret(clean, "akgp from 0.3"))
    assert found.mean == pytest.approx(difference.mean())
    assert found.error == pytest.approx(difference.std(ddof=1) / 3**0.5)
    assert found.error < 0.2, "the seeds' own level, ten points apart, cancels"
    assert results.mean_regret("akgp from 0.3").mean == pytest.approx(-1, abs=0.2)
    assert results.mean_regret("fixed 0.9").mean == pytest.approx(0.5, abs=0.2)
    text = reporting.tables(results)
    assert "## clean, in-sample teacher" in text and "best fixed weight in hindsight: fixed 0.1" in text


def test_settings_err_together_because_they_share_their_seeds() -> None:
    """The error of the mean over settings is that of the pairs' means; a setting of one pair adds its own."""
    random = np.random.default_rng(0)
    shared, own = random.standard_normal(3), random.standard_normal((3, 4))
    settings = [pd.Series(shared + 0.1 * own[:, k]) for k in range(4)]
    by_pair = pd.concat(settings, axis=1).mean(axis=1)
    found = reporting.over_settings(settings)
    assert found.mean == pytest.approx(by_pair.mean())
    assert found.error == pytest.approx(by_pair.std(ddof=1) / 3**0.5)
    more = reporting.over_settings([*settings, pd.Series([9.0])])
    variance = np.mean([setting.var(ddof=1) for setting in settings])
    assert more.error == pytest.approx(((4 * found.error) ** 2 + variance) ** 0.5 / 5)
    assert np.isnan(reporting.over_settings([pd.Series([9.0])]).error)


def test_the_weight_that_other_seeds_choose_owes_nothing_to_luck() -> None:
    """0.1 is best in hindsight for one lucky pair, which the other pairs do not know of."""
    table = trials()
    table["test_top1"] = table.strategy.map({"fixed 0": 62.0, "dkd": 61.0}).fillna(50.0)
    lucky = table.strategy == "fixed 0.1"
    table.loc[lucky, "test_top1"] = table[lucky].student_seed.map({0: 70.0, 1: 60.0, 2: 60.0})
    results = reporting.Results(table, GRID)
    clean = ("clean", "in-sample")
    assert results.regret(clean, "dkd").mean() == pytest.approx((70 + 60 + 60) / 3 - 61)
    assert results.regret_elsewhere(clean, "dkd").mean() == pytest.approx((62 + 60 + 60) / 3 - 61)
    mean = results.mean_regret_elsewhere("dkd")
    assert mean is not None and mean.mean == pytest.approx((62 + 60 + 60) / 3 - 61)
    one = reporting.Results(table[table.student_seed == 0], GRID)
    assert one.mean_regret_elsewhere("dkd") is None, "one pair has no other"


def test_a_search_takes_what_validation_likes_best_and_costs_all_its_trainings() -> None:
    table = trials()
    table["val_top1"] = table.strategy.map({"fixed 0.5": 90.0, "dkd": 99.0}).fillna(50.0)
    results = reporting.Results(table, GRID)
    for each in results.by_setting.values():
        assert (each[design.SEARCHED] == each["fixed 0.5"]).all()
    assert results.compute(design.SEARCHED) == len(design.WEIGHTS)
    assert results.students == len(table), "a search is no student"
    assert f"| {design.SEARCHED} | 7.00 |" in reporting.tables(results)


def test_plots_and_trials_are_written(tmp_path: Path) -> None:
    rows = trials().to_dict("records")
    file, cell = tmp_path / "trials.parquet", len(GRID.arms)
    for part in (rows[: 2 * cell], rows, rows[-5:]):
        testing.write(part, GRID, file)
    read = pd.read_parquet(file)
    assert len(read) == len(rows) - cell + 5, "cells that are not written again stay"
    with pytest.raises(SystemExit, match=r"trials\.parquet: its trials are not of this design"):
        testing.write(rows, FULL, file)
    testing.write(rows, GRID, file)
    read = pd.read_parquet(file)
    assert len(read) == len(rows) and read.test_top1.notna().all()
    reporting.plots(reporting.Results(read, GRID), tmp_path)
    assert {file.name for file in tmp_path.glob("*.svg")} == {"clean.svg", "symmetric-40.svg"}


def test_the_test_split_stays_closed_until_all_is_trained(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"60 cells are not trained: the test split stays closed"):
        testing.test(GRID, tmp_path, partial=False)
    assert testing.test(GRID, tmp_path, partial=True) == []


def test_a_teacher_is_asked_once_about_the_same_images() -> None:
    asked = []

    def ask(batch: Batch) -> torch.Tensor:
        asked.append(batch)
        return batch.inputs.sum((1, 2, 3))[:, None]

    guide = remembered(ask)
    one, other = (Batch(torch.arange(2), torch.rand(2, 3, 4, 4), torch.zeros(2).long()) for _ in range(2))
    same = Batch(one.index, one.inputs.clone(memory_format=torch.channels_last), one.labels)
    answers = [guide(batch) for batch in (one, other, same, other)]
    assert len(asked) == 2
    assert torch.equal(answers[0], answers[2]) and torch.equal(answers[1], answers[3])
    assert not torch.equal(answers[0], answers[1])


def test_a_place_of_a_sweep_is_empty_between_its_trials() -> None:
    """Two places: 0–10 then 12–20, and 1–5 then 6–30: empty for 2 and 1 seconds."""
    trials = [Timed(12, 20, 6), Timed(0, 10, 7), Timed(1, 5, 4), Timed(6, 30, 20)]
    assert sorted(sweep_scaling.between(trials, concurrent=2)) == [1, 2]
    assert sorted(sweep_scaling.between([Timed(0, 10, 7), Timed(12, 20, 6)], concurrent=1)) == [2]
    assert trials[0].inside == 2


def test_a_sweeps_table_compares_one_with_two_trials_at_a_time(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 105, "time_this_iter_s": 5.0, "time_total_s": 5.0, "seconds": 2.0},
        {"timestamp": 107, "time_this_iter_s": 2.0, "time_total_s": 7.0, "seconds": 1.5},
    ]
    file = tmp_path / "result.json"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    trial = sweep_scaling.read_trial(file)
    assert trial == Timed(100, 107, 3.5)
    one = Case(1, None, 90, 40, [trial, Timed(108, 114, 3)], (0.1, 1.2))
    two = Case(2, None, 90, 32, [trial, Timed(100, 107, 4), Timed(107, 108, 1)], (0.1, 2.2))
    text = sweep_scaling.table([one, two])
    assert "| accuracy | 1 | 40 | 10 | 14 | 3.25 | 3.25 | 1.00 | 0.1, 1.2 |" in text
    assert "- accuracy: the trials take 1.75 times less, the whole command 1.25 times." in text
    assert "- accuracy, 1 at a time: 7.0, 3.5, 3.5; 6.0, 3.0, 3.0" in text


# Batch size and learning rate by the number of images


def test_the_defaults_are_measured_on_four_sizes_and_two_networks_each_run_once() -> None:
    runs = list(defaults.plan())
    assert len(set(runs)) == len(runs)
    assert {run.images for run in runs} == set(defaults.EPOCHS) == {600, 1078, 5000, 40000}
    assert {run.network for run in runs} == set(defaults.SIDE)
    assert all(run.training.learning_rate == run.rate * run.batch / 128 for run in runs)
    rows = [asdict(run) | {"val_top1": 40.0 + run.seed, "machine": "A"} for run in runs]
    table = defaults.table(rows)
    assert f"{len(runs)} of {len(runs)}" in table and "| 32 |" in table and "40.5 (2)" in table


def test_an_ablation_changes_one_thing_and_says_what_it_gains() -> None:
    base = ablation.distill_params(ablation.ARMS["nothing"]).model_dump()
    for name, arm in ablation.ARMS.items():
        given = ablation.distill_params(arm)
        assert given.training.epochs == arm.epochs and given.training.keep == "last"
        if name.startswith(("views", "loss", "averages")):
            assert given.model_dump() != base and arm.epochs == 16
    rows = [
        asdict(ablation.Run(seed, changed))
        | {"val_top1": top1 + seed, "dense_top1": 70.0 + seed, "machine": "AB"[seed]}
        for seed in (0, 1)
        for changed, top1 in (("nothing", 71.0), ("epochs: 32", 72.5))
    ]
    text = ablation.table(rows)
    assert "| epochs: 32 | 73.00 ± 0.50 (2) | 1.50 ± 0.00 (2) | 2.50 ± 0.00 (2) |" in text
    assert f"A (2); B (2). Runs of the plan: 4 of {2 * len(ablation.ARMS)}." in text


def test_scope_compares_at_equal_cost() -> None:
    """Iterative pruning costs no more than at once, and its phases share one decay of the learning rate."""
    runs = list(scope.plan())
    assert len(set(runs)) == len(runs) == 30
    for macs, steps in scope.STEPS.items():
        costs = [sum(epochs * (3 * share + 1) for share, epochs in each)
                 for each in (steps, scope.Run(0, macs).steps)]  # fmt: skip
        assert steps[-1][0] == macs and 0.97 < costs[0] / costs[1] <= 1
    phases = [scope.part_of(done, 4)(step, 5, scope.settings(1)) for done in range(4) for step in range(1, 6)]
    assert phases[4] == 1 and phases[5:] == sorted(phases[5:], reverse=True)
    row = {"seed": 0, "val_top1": 70.0, "dense_top1": 70.0, "macs_share": 0.5, "params_share": 0.5,
           "latency_share": 0.8, "machine": "A"}  # fmt: skip
    text = scope.table(
        [
            asdict(scope.Run(0, schedule="labels")) | row,
            asdict(scope.Run(0, 0.5, "inside")) | row | {"val_top1": 69.0},
        ]
    )
    assert "| 0.5 | inside | at once | 69.00 (1) | 1.00 (1) | 0.500 | 0.500 | 0.800 |" in text


def test_a_half_is_compared_with_the_dense_network_that_validation_chooses() -> None:
    runs = list(against_dense.plan())
    assert len(set(runs)) == len(runs) == 3 * len(against_dense.ARMS)
    arms = list(against_dense.ARMS)
    assert arms[: len(against_dense.DENSE)] == list(against_dense.DENSE), "before what is made of one of them"
    assert not any(arm.taught_by for arm in against_dense.DENSE.values())
    for number, arm in enumerate(against_dense.ARMS.values()):
        assert all(arms.index(each) < number for each in arm.taught_by)
    accuracies = {"32 epochs": (70.0, 75.0), "64 epochs": (72.0, 71.0), "half": (71.0, 72.0)}
    rows = [
        asdict(against_dense.Run(seed, arm))
        | {"val_top1": validation, "test_top1": test, "int8_test_top1": test - seed / 2, "macs_share": 0.5}
        | {"machine": "A"}
        for seed in (0, 1)
        for arm, (validation, test) in accuracies.items()
    ]
    text = against_dense.table(rows)
    assert "(seed 0: 64 epochs; seed 1: 64 epochs)" in text
    assert "| half | 0.50 | 71.00 ± 0.00 (2) | 72.00 ± 0.00 (2) | 71.75 ± 0.25 (2) | 0.75 ± 0.25 (2)" in text


def test_mobile_tables_a_network_a_line_and_its_mean() -> None:
    row = {"network": "mobilenet_v3_small", "float": 70.0, "int8": 60.0, "int8_agreement": 80.0,
           "corrected": 69.0, "corrected_agreement": 95.0, "kept": True, "machine": "A"}  # fmt: skip
    text = mobile.table([row | {"seed": 0}, row | {"seed": 1, "corrected": 68.0}])
    assert "| mobilenet_v3_small | 0 | 70.00 | 60.00 | 80.00 | 69.00 | 95.00 | yes |" in text
    assert "| mobilenet_v3_small | mean | **70.00** | **60.00** | **80.00** | **68.50** |" in text


def test_the_papers_experiment_has_a_teacher_a_seed() -> None:
    asked = paper.recipe("cifar10-resnet32", 2, cpu=True, scale=0.01)
    assert asked.networks["wide"].checkpoint == "teachers/wide-2-0.01.safetensors"
    assert (asked.seed, asked.ray.gpus_per_worker, asked.teacher.epochs) == (2, 0, 2)
    assert (asked.prune.macs, asked.prune.scope, asked.distill.training.epochs) == (0.5, "inside", 3)
    teacher = paper.recipe("cifar10-teacher", 2, cpu=False, scale=1)
    assert teacher.networks["wide"].checkpoint is None and teacher.teacher.augment.mixes
    assert teacher.data == asked.data
    row = {"seed": 0, "scale": 1, "teacher_top1": 95, "dense_top1": 92, "student_top1": 93, "macs_share": 0.5,
           "int8_bytes": 4000, "machine": "A"}  # fmt: skip
    trial = row | {"int8_top1": 82.0, "scale": 0.02}
    text = paper.table([row | {"int8_top1": 92.5}, row | {"int8_top1": 93.5}, trial])
    assert "int8 at scale 1, 1.00 ± 0.50 (2)\npoints" in text
    assert "| 0 | 1 | 95.00 | 92.00 | 93.00 | 92.50 | +0.50 | 0.500 | 4,000 |" in text


def test_seeds_are_read_from_the_reports_and_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("reports").mkdir()
    network = {"top1": 84.0, "macs": 100, "bytes": 9000}
    smaller = {"top1": 84.5, "macs": 50, "bytes": 4000}
    metrics = dict.fromkeys(("teacher", "dense"), network) | dict.fromkeys(("student", "int8"), smaller)
    Path("reports/metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    row = seeds.reached() | {"recipe": "cifar10-quick", "commit": "abc", "machine": "A"}
    text = seeds.table([row | {"seed": 0}, row | {"seed": 1, "int8_top1": 85.5}])
    assert "| cifar10-quick | 0 | abc | 84.00 | 84.50 | 84.50 | 0.50 | 0.500 | 4,000 |" in text
    assert "| 1.00 ± 0.50 (2) | | |" in text and "2 of 6" in text
    lines = curve.table([row | {"seed": 0, "macs": 0.25}, row | {"seed": 1, "macs": 0.75}]).splitlines()[-3:]
    assert lines[0] == "| 1 (dense) | 84.00 ± 0.00 (2) | | | | |"
    assert lines[2] == "| 0.500 | all | 84.50 (1) | 84.50 (1) | 0.50 (1) | 4,000 |"


def test_every_way_to_share_the_time_costs_the_same() -> None:
    for run in when_to_prune.plan():
        passes = 3 * run.dense_epochs + run.half_epochs * (1.5 + (run.dense_epochs > 0))
        assert passes == pytest.approx(3 * when_to_prune.EPOCHS, rel=0.02)
    row = {"dense_epochs": 24, "dense_top1": 70.0, "seconds": 90.0, "machine": "A"}
    scratch = row | {"dense_epochs": 0, "dense_top1": None, "val_top1": 71.0, "seed": 0}
    rows = [row | {"seed": 0, "val_top1": 71.0}, row | {"seed": 1, "val_top1": 72.0}, scratch]
    lines = when_to_prune.table(rows).splitlines()[-2:]
    assert lines[0] == "| 24 | 29 | 70.00 ± 0.00 (2) | 71.50 ± 0.50 (2) | 1.5 |"
    assert lines[1] == "| 0 | 96 | not trained | 71.00 (1) | 1.5 |"


@pytest.mark.slow
def test_torch_pruning_cuts_to_half_of_the_macs() -> None:
    model, example = models.cifar_resnet(8, (8, 16, 32)), torch.zeros(1, 3, 8, 8)
    smaller = against_torch_pruning.by_torch_pruning(model, example, 0.5, everywhere=False)
    macs = [evaluation.count(each, example).macs for each in (smaller, model)]
    assert macs[0] == pytest.approx(0.5 * macs[1], rel=0.1)  # the streams, whose cut would not run, stay


def test_torch_pruning_is_compared_with_a_row_of_the_criteria(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"network": "resnet18", "seed": 1, "macs": 0.5, "criterion": "fpgm"}
    row = {"dense": 71.0, "before": 10.0, "after": 66.0, "prune_seconds": 2.0}
    (tmp_path / "table.json").write_text(json.dumps([asked | row]), encoding="utf-8")
    monkeypatch.setattr(criteria, "RESULTS", tmp_path)
    run = against_torch_pruning.Run("resnet18", 1, "akgp")
    found = asdict(run) | against_torch_pruning.measured(run) | {"machine": "A"}
    failed = {"network": "resnet18", "tool": "torch-pruning", "dense": 71.0, "error": "no", "machine": "A"}
    lines = against_torch_pruning.table([found, failed]).splitlines()[-2:]
    assert lines == [
        "| resnet18 | akgp | 0.500 | 10.00 (1) | 66.00 (1) | 5.00 (1) |",
        "| resnet18 | torch-pruning | no | | | |",
    ]


def test_criteria_are_ranked_by_what_is_left_after_the_recovery() -> None:
    plan = list(criteria.plan())
    assert len(plan) == len(set(plan)) == 3 * 3 * 2 * len(criteria.NAMES)
    row = {"network": "resnet18", "macs": 0.5, "dense": 70.0, "before": 20.0, "prune_seconds": 1.0,
           "machine": "A"}  # fmt: skip
    text = criteria.table(
        [row | {"seed": seed, "criterion": name, "after": after + seed}
         for name, after in (("fpgm", 60.0), ("knowledge", 65.0)) for seed in (0, 2)]
    )  # fmt: skip
    assert text.index("| knowledge | 20.00 ± 0.00 (2) | 66.00 ± 1.00 (2) | 4.00 ± 1.00") < text.index(
        "| fpgm | 20.00"
    )
    assert "| knowledge | fpgm |\n| --- | --- |\n| 4.0 | 9.0 |" in text
