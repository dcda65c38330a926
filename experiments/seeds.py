"""A recipe with one seed after another: what its networks reach, and int8 against its dense network.

`AKGP_CIFAR10=DIR python -m experiments.seeds`, in a clone of its own with its `.venv` active: `dvc repro` of
each recipe of `RECIPES` with each seed; a row is written to results/seeds/table.json and table.md as each
ends. Stages resume where they were interrupted, and runs that are in the table are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from akgp import params
from akgp.params import Params
from akgp.workspace import Workspace
from experiments.resumable import Row, complete, markdown, spread

RESULTS = Path("results/seeds")
RECIPES = ("cifar10-resnet32-quick", "cifar10-quick")
SEEDS = (0, 1, 2)
NETWORKS = ("teacher", "dense", "student", "int8")


@dataclass(frozen=True)
class Run:
    recipe: str
    seed: int


def plan() -> Iterator[Run]:
    """Recipe by recipe."""
    yield from (Run(recipe, seed) for recipe in RECIPES for seed in SEEDS)


def measured(run: Run) -> Row:
    """Run the recipe; see `reached`."""
    asked = params.load(Path("recipes") / f"{run.recipe}.yaml")
    repro(asked.model_copy(update={"seed": run.seed}))
    return reached()


def repro(asked: Params, *stages: str) -> None:
    """`dvc repro` with these parameters; a stage that was interrupted resumes."""
    Path("params.yaml").write_text(params.dump(asked), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "dvc", "repro", *stages], check=True)


def reached() -> Row:
    """From reports/metrics.json: top-1 of each network on the test split, %, share of MACs, bytes of int8."""
    file = Workspace(Path()).reports / "metrics.json"
    metrics = json.loads(file.read_text(encoding="utf-8"))
    return {f"{name}_top1": round(metrics[name]["top1"], 2) for name in NETWORKS} | {
        "macs_share": round(metrics["student"]["macs"] / metrics["dense"]["macs"], 4),
        "int8_bytes": metrics["int8"]["bytes"],
    }  # fmt: skip


ABOUT = """# Recipes, seed by seed

`AKGP_CIFAR10=DIR python -m experiments.seeds`, see the head of that file: CIFAR-10-J75, top-1 on the 10,000
test images, %; all is chosen on validation. The last line of a recipe: mean ± standard error over its seeds
(how many). {machines}. Runs of the plan: {done} of {planned}.

| recipe | seed | commit | dense | student | int8 | int8 above dense | MACs | int8 bytes |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """Markdown: a run a line, below the runs of a recipe their mean."""
    lines = []
    for recipe in RECIPES:
        mine = [row for row in rows if row["recipe"] == recipe]
        if not mine:
            continue
        columns = [[row[f"{name}_top1"] for row in mine] for name in ("dense", "student", "int8")]
        columns.append([int8 - dense for dense, _, int8 in zip(*columns, strict=True)])
        for row, *values in zip(mine, *columns, strict=True):
            cells = [recipe, str(row["seed"]), row["commit"], *(f"{value:.2f}" for value in values),
                     f"{row['macs_share']:.3f}", f"{row['int8_bytes']:,}"]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        lines.append(f"| {recipe} | all | | {' | '.join(map(spread, columns))} | | |")
    return markdown(ABOUT, rows, plan(), lines)


def main() -> None:
    """Do the runs that results/seeds/table.json does not hold."""
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
