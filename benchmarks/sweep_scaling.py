"""What a trial of a sweep costs beside its epochs, and what two trials at a time gain.

`python -m benchmarks.sweep_scaling` sweeps the embedded digits with one trial at a time and with two, each
trial on one core, then again with measured latency as the second objective, and writes
results/sweep-scaling/table.md. Each sweep is `akgp sweep run` as a user starts it, and stops no trial early.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean

import torch
import typer

from akgp import params, recipes
from akgp.orchestration.run import run_stage

RUNS, RESULTS = Path("runs/sweep-scaling"), Path("results/sweep-scaling")
CASES: tuple[tuple[int, str | None], ...] = ((1, None), (2, None), (1, "latency"), (2, "latency"))
SPACE = {
    "prune.ratio": {"min": 0.3, "max": 0.7},
    "distill.w0": {"min": 0.3, "max": 1.0},
    "distill.temperature": {"min": 1.0, "max": 6.0, "log": True},
}


@dataclass(frozen=True)
class Timed:
    """A trial: when it began and ended (seconds since the epoch), and how long its epochs took, seconds.

    It begins when its process is ready, and ends with its last epoch's report.
    """

    began: float
    ended: float
    epochs: float

    @property
    def inside(self) -> float:
        """Of its own time what no epoch took: pruning, measuring, what is shared, reports, checkpoints."""
        return self.ended - self.began - self.epochs


@dataclass(frozen=True)
class Case:
    """One sweep: when the command started (seconds since the epoch) and how long it took, seconds.

    load: the last minute's, before and after.
    """

    concurrent: int
    against: str | None
    started: float
    seconds: float
    trials: list[Timed]
    load: tuple[float, float]

    @property
    def span(self) -> float:
        """From the first trial's begin to the last one's end, seconds."""
        return max(trial.ended for trial in self.trials) - min(trial.began for trial in self.trials)


def between(trials: Sequence[Timed], concurrent: int) -> list[float]:
    """How long each place was empty before its next trial began, seconds; not before its first.

    A trial takes the place that has been empty for longest.
    """
    ends: list[float] = []
    gaps = []
    for trial in sorted(trials, key=lambda trial: trial.began):
        if len(ends) == concurrent:
            gaps.append(max(0.0, trial.began - ends.pop(ends.index(min(ends)))))
        ends.append(trial.ended)
    return gaps


def read_trial(file: Path) -> Timed:
    """From Ray Tune's rows, one an epoch. It notes times in whole seconds, so gaps are right on average."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    began = rows[0]["timestamp"] - rows[0]["time_this_iter_s"]
    return Timed(began, began + rows[-1]["time_total_s"], sum(row["seconds"] for row in rows))


def prepare(root: Path) -> None:
    """A workspace with the digits and a dense network of few epochs: how good it is does not matter."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    write_params(root, 1, 1, 1, None)
    for stage, network in (("data", None), ("teacher", "resnet20")):
        run_stage(stage, network=network, root=root)


def write_params(root: Path, trials: int, epochs: int, concurrent: int, against: str | None) -> None:
    recipe = params.load(recipes.available()["digits"])
    tree = recipe.model_dump(mode="json")
    tree["teacher"]["epochs"] = 5
    tree["distill"]["training"] |= {"epochs": epochs, "warmup_epochs": 0.5}
    tree["ray"]["cpus_per_worker"] = 1
    tree["sweep"] = {
        "trials": trials,
        "concurrent": concurrent,
        "against": against,
        "grace_epochs": epochs,
        "space": SPACE,
    }
    (root / "params.yaml").write_text(params.dump(params.validate(tree)), encoding="utf-8")


def measure(root: Path, trials: int, epochs: int, concurrent: int, against: str | None) -> Case:
    shutil.rmtree(root / "sweeps", ignore_errors=True)
    write_params(root, trials, epochs, concurrent, against)
    before, started = os.getloadavg()[0], time.time()
    subprocess.run([sys.executable, "-m", "akgp.cli", "sweep", "run"], cwd=root, check=True)
    seconds = time.time() - started
    timed = [read_trial(file) for file in sorted(root.glob("sweeps/*/*/result.json"))]
    assert len(timed) == trials
    return Case(concurrent, against, started, seconds, timed, (before, os.getloadavg()[0]))


def table(cases: Sequence[Case]) -> str:
    """Markdown: a row a sweep, means over its trials; then every trial."""
    lines = [
        "| objectives | trials at a time | whole command, s | until the first trial, s | trials, s "
        "| a trial: its epochs, s | … beside them, s | … until the next, s | load before, after |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        gaps = between(case.trials, case.concurrent)
        first = min(trial.began for trial in case.trials) - case.started
        lines.append(
            f"| {objectives(case)} | {case.concurrent} | {case.seconds:.0f} | {first:.0f} | {case.span:.0f} "
            f"| {mean(trial.epochs for trial in case.trials):.2f} "
            f"| {mean(trial.inside for trial in case.trials):.2f} | {mean(gaps):.2f} "
            f"| {case.load[0]:.1f}, {case.load[1]:.1f} |"
        )
    lines += ["", "1 → 2 trials at a time:", ""]
    for one in cases:
        for two in cases:
            if (one.concurrent, two.concurrent, one.against) == (1, 2, two.against):
                lines.append(
                    f"- {objectives(one)}: the trials take {one.span / two.span:.2f} times less, the whole "
                    f"command {one.seconds / two.seconds:.2f} times."
                )
    lines += ["", "Every trial, in seconds: all, epochs, beside them.", ""]
    for case in cases:
        rows = "; ".join(
            f"{trial.ended - trial.began:.1f}, {trial.epochs:.1f}, {trial.inside:.1f}"
            for trial in sorted(case.trials, key=lambda trial: trial.began)
        )
        lines.append(f"- {objectives(case)}, {case.concurrent} at a time: {rows}")
    return "\n".join(lines)


def objectives(case: Case) -> str:
    return f"accuracy, {case.against}" if case.against else "accuracy"


def conditions(trials: int, epochs: int) -> str:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, encoding="utf-8"
    )
    cpu = torch.cpu.get_capabilities().get("cpu_name", "?")
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "optuna", "onnxruntime"))
    return (
        f"`python -m benchmarks.sweep_scaling --trials {trials} --epochs {epochs}` on "
        f"{time.strftime('%Y-%m-%d')}, commit {commit.stdout.strip() or '?'}, seed 0: ResNet-20 pruned, "
        f"digits, one core a trial. {platform.machine()}, {cpu}, {os.cpu_count()} cores; Python "
        f"{platform.python_version()}, {packages}. The load says how many processes wanted a core: above the "
        "number of cores all seconds are too long."
    )


def main(trials: int = 8, epochs: int = 20) -> None:
    """Run the four sweeps and write the table."""
    prepare(RUNS)
    cases = [measure(RUNS, trials, epochs, concurrent, against) for concurrent, against in CASES]
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = f"# Sweeps: overhead and scaling\n\n{conditions(trials, epochs)}\n\n{table(cases)}\n"
    (RESULTS / "table.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
