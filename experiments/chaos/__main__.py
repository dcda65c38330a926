"""The command: `python -m experiments.chaos`, or `make chaos`."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import time
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from experiments.chaos import kills, records
from experiments.chaos.bench import bench
from experiments.chaos.records import Conditions, Fault
from experiments.chaos.workspace import ROOT

RESULTS, RUNS = ROOT / "results" / "chaos", ROOT / ".akgp" / "chaos"
CODE = ("akgp", "flows", "infra", "experiments/chaos", "dvc.yaml", "constraints.txt")
EXPERIMENTS = {
    "kills, whole pipeline": kills.whole_pipeline,
    "kills, second half": kills.second_half,
}


def main(
    seed: Annotated[int, typer.Option(help="of all random points")] = 0,
    limit: Annotated[float, typer.Option(help="seconds after which no experiment is begun")] = 3600,
    fresh: Annotated[bool, typer.Option("--fresh", help="forget what is recorded")] = False,
    only: Annotated[str, typer.Option(help="experiments whose name holds this")] = "",
) -> None:
    """Run the fault matrix and write results/chaos; what is recorded for seed and commit is not run again."""
    conditions = Conditions(seed, commit())
    RESULTS.mkdir(parents=True, exist_ok=True)
    file, started = RESULTS / "faults.json", time.monotonic()
    done = {} if fresh else records.load(file, conditions)
    compared = bench(RUNS / conditions.commit)
    spent = sum(each.recovered or 0 for faults in done.values() for each in faults)
    for name, experiment in EXPERIMENTS.items():
        if name in done or only not in name:
            continue
        if time.monotonic() - started > limit:
            typer.echo(f"{name}: not begun, the limit of {limit:.0f} s is over")
            continue
        typer.echo(f"{name} …")
        begun = time.monotonic()
        try:
            done[name] = experiment(compared, random.Random(f"{seed} {name}"))
        except Exception as error:
            traceback.print_exc()
            done[name] = [Fault(name, "", happened=[], problems=[f"{type(error).__name__}: {error}"])]
        for fault in done[name]:
            typer.echo(f"  {fault.outcome}: {fault.row}, {fault.point}: {fault.happened} {fault.problems}")
        spent += time.monotonic() - begun
        header = heading(conditions, spent)
        records.save(file, header, done)
        (RESULTS / "table.md").write_text(records.table(header, done))
    failed = sum(fault.outcome == "FAILED" for faults in done.values() for fault in faults)
    typer.echo(f"{RESULTS / 'table.md'}: {failed} failed")
    raise typer.Exit(1 if failed else 0)


def commit() -> str:
    """Of the code that a fault can meet; with a digest of what is not committed."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    last = git("log", "-1", "--format=%h", "--", *CODE).strip()
    return last + ("-changed" if git("status", "--porcelain", "--", *CODE) else "")


def heading(conditions: Conditions, seconds: float) -> dict[str, Any]:
    """What the table says about the run."""
    return asdict(conditions) | {
        "command": f"make chaos SEED={conditions.seed}",
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores shared with others, "
        f"Python {platform.python_version()}",
        "seconds": round(seconds),
    }


if __name__ == "__main__":
    typer.run(main)
