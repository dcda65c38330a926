"""The command: `python -m benchmarks.chaos`, or `make chaos`."""

from __future__ import annotations

import hashlib
import os
import platform
import random
import subprocess
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from filelock import FileLock

from benchmarks.chaos import damage, kills, records, servers
from benchmarks.chaos.bench import ReferenceRun, bench
from benchmarks.chaos.records import Experiment, Fault
from benchmarks.chaos.workspace import ROOT

RESULTS, RUNS = ROOT / "results" / "chaos", ROOT / ".akgp" / "chaos"
FILE = RESULTS / "faults.json"
CODE = ("akgp", "flows", "infra", "dvc.yaml", "constraints.txt")
EXPERIMENTS = {
    "kills, whole pipeline": kills.whole_pipeline,
    "kills, second half": kills.second_half,
    "checkpoints": damage.checkpoints,
    "nodes": kills.nodes,
    "two at once": damage.second_repro,
    "disk": damage.full_disk,
    "clock": damage.clock,
    "artifacts": damage.artifacts,
    "prefect": servers.prefect,
    "store, training": servers.store_in_training,
    "promotions": kills.promotions,
    "store, promotion": servers.store_in_promotion,
}


def main(
    seed: Annotated[int, typer.Option(help="of all random points")] = 0,
    limit: Annotated[float, typer.Option(help="seconds after which no experiment is begun")] = 3600,
    fresh: Annotated[bool, typer.Option("--fresh", help="forget what is recorded")] = False,
    only: Annotated[str, typer.Option(help="experiments whose name holds this")] = "",
) -> None:
    """Run the fault matrix and write results/chaos; what is recorded for seed and commit is not run again."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    RUNS.mkdir(parents=True, exist_ok=True)
    begun, now = time.monotonic(), commit()
    compared, known = bench(RUNS / now), {} if fresh else records.load(FILE, seed)
    for name, experiment in EXPERIMENTS.items():
        if only not in name or (name in known and known[name].commit == now):
            continue
        if time.monotonic() - begun > limit:
            typer.echo(f"{name}: not begun, the limit of {limit:.0f} s is over")
            continue
        record(seed, name, carried_out(name, experiment, compared, random.Random(f"{seed} {name}"), now))
    done = records.load(FILE, seed)
    failed = sum(fault.outcome == "FAILED" for each in done.values() for fault in each.faults)
    typer.echo(
        f"{RESULTS / 'table.md'}: {len(done)} of {len(EXPERIMENTS)} experiments, {failed} faults failed"
    )
    raise typer.Exit(1 if failed or len(done) < len(EXPERIMENTS) else 0)


def carried_out(
    name: str,
    experiment: Callable[[ReferenceRun, random.Random], list[Fault]],
    compared: ReferenceRun,
    draw: random.Random,
    now: str,
) -> Experiment:
    """What came of an experiment; one that cannot continue is a failed fault."""
    typer.echo(f"{name} …")
    begun = time.monotonic()
    try:
        faults = experiment(compared, draw)
    except Exception as error:
        traceback.print_exc()
        faults = [Fault(name, "the experiment ends", problems=[f"{type(error).__name__}: {error}"])]
    for fault in faults:
        typer.echo(f"  {fault.outcome}: {fault.row}, {fault.point}: {fault.happened} {fault.problems}")
    return Experiment(now, f"{datetime.now(UTC):%Y-%m-%d %H:%M}", time.monotonic() - begun, faults)


def record(seed: int, name: str, experiment: Experiment) -> None:
    """Write an experiment beside what is recorded, in the order of EXPERIMENTS."""
    with FileLock(RUNS / "lock"):
        found = records.load(FILE, seed) | {name: experiment}
        done = {each: found[each] for each in EXPERIMENTS if each in found}
        header = heading(seed) | {"not_run": [each for each in EXPERIMENTS if each not in done]}
        records.save(FILE, header, done)
        (RESULTS / "table.md").write_text(records.table(header, done), encoding="utf-8")


def commit() -> str:
    """Of the code that a fault can meet; with a digest of what is not committed."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, encoding="utf-8"
        ).stdout

    last = git("log", "-1", "--format=%h", "--", *CODE).strip()
    edits = git("diff", "HEAD", "--", *CODE).encode()
    for name in git("ls-files", "--others", "--exclude-standard", "--", *CODE).splitlines():
        edits += f"{name}\n".encode() + (ROOT / name).read_bytes()
    return f"{last}-changed-{hashlib.sha256(edits).hexdigest()[:8]}" if edits else last


def heading(seed: int) -> dict[str, Any]:
    """What the table says about the run."""
    return {
        "command": f"make chaos SEED={seed}",
        "seed": seed,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores shared with others, "
        f"Python {platform.python_version()}",
    }


if __name__ == "__main__":
    typer.run(main)
