"""Accuracy over MACs: a recipe at several budgets, in int8 beside its dense network.

`AKGP_CIFAR10=DIR python -m experiments.curve`, in a clone of its own with its `.venv` active: `dvc repro` of
the recipe with each of `SCOPES` and each seed; a row is written to results/curve/table.json and table.md as
each ends. The dense network of a seed is trained once. Stages resume where they were interrupted, and runs
that are in the table are left out. A quarter is out of reach of the filters inside the blocks in multiples of
eight (stage one has 16), so the streams are cut too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from akgp import params
from experiments.resumable import Row, complete, markdown, spread
from experiments.seeds import SEEDS, reached, repro

RESULTS = Path("results/curve")
RECIPE = "cifar10-resnet32-quick"
SCOPES = {0.75: "inside", 0.5: "inside", 0.35: "inside", 0.25: "all"}  # by MACs


@dataclass(frozen=True)
class Run:
    """macs: the share of the dense network's that `prune.macs` asks for."""

    seed: int
    macs: float


def plan(seeds: Iterable[int] = SEEDS) -> Iterator[Run]:
    """Seed by seed, each on its own dense network."""
    yield from (Run(seed, macs) for seed in seeds for macs in SCOPES)


def measured(run: Run) -> Row:
    """Run the recipe with this budget; see `seeds.reached`."""
    asked = params.load(Path("recipes") / f"{RECIPE}.yaml")
    prune = asked.prune.model_copy(update={"macs": run.macs, "scope": SCOPES[run.macs]})
    repro(asked.model_copy(update={"seed": run.seed, "prune": prune}))
    return reached()


ABOUT = """# Accuracy over MACs

`AKGP_CIFAR10=DIR python -m experiments.curve`, see the head of that file: recipe {recipe}, CIFAR-10-J75,
top-1 on the 10,000 test images, %, mean ± standard error over the seeds (how many); all is chosen on
validation. {machines}. Runs of the plan: {done} of {planned}.

| MACs | scope | student | int8 | int8 above dense | int8 bytes |
| --- | --- | --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """Markdown: a line for the dense networks, then one for each budget."""
    dense = {row["seed"]: row["dense_top1"] for row in rows}
    lines = [f"| 1 (dense) | {spread(list(dense.values()))} | | | | |"]
    for macs, scope in SCOPES.items():
        if mine := [row for row in rows if row["macs"] == macs]:
            columns = [[row[f"{name}_top1"] for row in mine] for name in ("student", "int8")]
            columns.append([row["int8_top1"] - row["dense_top1"] for row in mine])
            share = sum(row["macs_share"] for row in mine) / len(mine)
            size = f"{max(row['int8_bytes'] for row in mine):,}"
            lines.append(f"| {share:.3f} | {scope} | {' | '.join(map(spread, columns))} | {size} |")
    return markdown(ABOUT, rows, plan(), lines, recipe=RECIPE)


def main(seed: Annotated[int | None, typer.Option(help="This one alone.")] = None) -> None:
    """Do the runs that results/curve/table.json does not hold."""
    complete(RESULTS, plan(SEEDS if seed is None else [seed]), measured, table)


if __name__ == "__main__":
    typer.run(main)
