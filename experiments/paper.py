"""The paper's experiment: an int8 ResNet-32 at half of the MACs against its own dense network, seed by seed.

`python -m experiments.paper`, in a clone of its own with its `.venv` active: for each seed a strong teacher
(recipe cifar10-teacher), then the whole pipeline (recipe cifar10-resnet32); a row is appended to
results/cifar10-resnet32/table.json and table.md as each seed ends. Stages resume where they were interrupted,
and seeds that are in the table are left out, so it may be killed and started again over days. Each seed has a
teacher of its own: another seed's has been trained on images that this one validates on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from akgp import params
from akgp.params import Params
from akgp.workspace import Workspace
from experiments.resumable import Row, complete, markdown, spread
from experiments.seeds import NETWORKS, reached, repro

RESULTS = Path("results/cifar10-resnet32")


@dataclass(frozen=True)
class Run:
    """scale: of all epochs; 1 is the recipes' own."""

    seed: int
    scale: float = 1.0


def plan(seeds: int = 3, scale: float = 1.0) -> Iterator[Run]:
    yield from (Run(seed, scale) for seed in range(seeds))


def recipe(name: str, seed: int, *, cpu: bool, scale: float) -> Params:
    """The recipe with this seed, all epochs times `scale`; on processors alone if `cpu`."""
    tree: dict[str, Any] = params.load(Path("recipes") / f"{name}.yaml").model_dump(mode="json")
    tree["seed"] = seed
    if cpu:
        tree["ray"]["gpus_per_worker"] = 0
    for training in (tree["teacher"], tree["distill"]["training"]):
        training["epochs"] = max(round(training["epochs"] * scale), 2)
    for network in tree["networks"].values():
        if network["checkpoint"]:
            network["checkpoint"] = str(teacher_file(seed, scale))
    return params.validate(tree)


def teacher_file(seed: int, scale: float) -> Path:
    """A trial's teacher is not that of the whole run."""
    return Path("teachers") / (
        f"wide-{seed}.safetensors" if scale == 1 else f"wide-{seed}-{scale:g}.safetensors"
    )


def measured(run: Run, *, cpu: bool) -> Row:
    """Train the seed's teacher, unless it is there, and run the pipeline; see `seeds.reached`."""
    made, file = partial(recipe, seed=run.seed, cpu=cpu, scale=run.scale), teacher_file(run.seed, run.scale)
    if not file.exists():
        repro(made("cifar10-teacher"), "teacher")
        file.parent.mkdir(exist_ok=True)
        shutil.copy(Workspace(Path()).dense("wide") / "model.safetensors", file)
    repro(made("cifar10-resnet32"))
    return reached()


ABOUT = """# The paper's experiment

`python -m experiments.paper`, see the head of that file: top-1 on the test split, %; all is chosen on
validation. Epochs are those of the recipes times `scale`. {machines}. Above dense: int8 at scale 1, {above}
points.

| seed | scale | teacher | dense | student | int8 | above dense | MACs | int8 bytes |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """Markdown: a seed a line; above it how far int8 is above dense, mean ± standard error (how many).

    Trials, with other scales, are left out of the mean.
    """
    lines, gains = [], []
    for row in rows:
        gain = row["int8_top1"] - row["dense_top1"]
        gains += [gain] if row["scale"] == 1 else []
        accuracies = " | ".join(f"{row[f'{name}_top1']:.2f}" for name in NETWORKS)
        lines.append(
            f"| {row['seed']} | {row['scale']:g} | {accuracies} | {gain:+.2f} | {row['macs_share']:.3f} | "
            f"{row['int8_bytes']:,} |"
        )
    return markdown(ABOUT, rows, plan(len(rows), 1.0), lines, above=spread(gains) or "not measured")


def main(
    seeds: Annotated[int, typer.Option(help="How many, from 0.")] = 3,
    cpu: Annotated[bool, typer.Option(help="Without a GPU: nine days on two cores.")] = False,
    scale: Annotated[float, typer.Option(help="All epochs times this, for a trial.")] = 1.0,
) -> None:
    """Run the seeds that results/cifar10-resnet32/table.json does not hold."""
    complete(RESULTS, plan(seeds, scale), partial(measured, cpu=cpu), table)


if __name__ == "__main__":
    typer.run(main)
