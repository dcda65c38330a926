"""Half of the MACs by FPGM, cut by akgp and by torch-pruning: what is left, and after the same recovery.

`AKGP_CIFAR10=DIR python -m experiments.against_torch_pruning` writes a table as experiments.criteria does, on
whose dense networks, images and recovery it stands: akgp's rows are its runs of fpgm, which cut everywhere,
taken from results/criteria where they are done, and runs inside the residual blocks, the pipeline's default.
torch-pruning cuts by `BasePruner` with `FPGMImportance` in multiples of 4, once by the same ratio in every
layer, its default, and once by scores of all layers (`global_pruning`); the ratio is the one that comes
nearest to half of the MACs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from akgp.evaluation import count
from akgp.io.errors import message
from akgp.pruning import prune
from experiments import criteria
from experiments.criteria import SEEDS, SIDES, dense, recovered
from experiments.resumable import Row, complete, markdown, rows_in, spread

RESULTS = Path("results/recovery-against-torch-pruning")
MACS = 0.5
AKGP, INSIDE = "akgp", "akgp, inside"
LOCAL, GLOBAL = "torch-pruning", "torch-pruning, global"


@dataclass(frozen=True)
class Run:
    network: str
    seed: int
    tool: str


def plan() -> Iterator[Run]:
    for network in SIDES:
        for seed in SEEDS:
            yield from (Run(network, seed, tool) for tool in (AKGP, INSIDE, LOCAL, GLOBAL))


def ignored(model: nn.Module) -> list[nn.Module]:
    """The classifier; of a CIFAR ResNet the streams too, whose shortcut torch-pruning cuts wrongly."""
    streams = hasattr(model, "layer3") and not hasattr(model, "layer4")
    return [
        module
        for name, module in model.named_modules()
        if getattr(module, "out_features", None) == 10
        or (streams and (name == "conv1" or name.endswith(".conv2")))
    ]


def by_torch_pruning(model: nn.Module, example: Tensor, ratio: float, everywhere: bool) -> nn.Module:
    import torch_pruning

    smaller = copy.deepcopy(model)
    torch_pruning.pruner.BasePruner(
        smaller, example, importance=torch_pruning.importance.FPGMImportance(), pruning_ratio=ratio,
        round_to=4, ignored_layers=ignored(smaller), global_pruning=everywhere,
    ).step()  # fmt: skip
    return smaller


def nearest(model: nn.Module, example: Tensor, everywhere: bool) -> nn.Module:
    """The cut whose MACs are nearest to MACS of the dense network's, by bisecting the ratio."""
    whole, low, high = count(model, example).macs, 0.0, 0.95
    best, distance = model, float("inf")
    for _ in range(10):
        ratio = (low + high) / 2
        smaller = by_torch_pruning(model, example, ratio, everywhere)
        share = count(smaller, example).macs / whole
        if abs(share - MACS) < distance:
            best, distance = smaller, abs(share - MACS)
        low, high = (ratio, high) if share > MACS else (low, ratio)
    return best


def by_akgp(run: Run) -> Row:
    """The row of experiments.criteria."""
    asked = {"network": run.network, "seed": run.seed, "macs": MACS, "criterion": "fpgm"}
    row = next((each for each in rows_in(criteria.RESULTS) if asked.items() <= each.items()), None)
    row = row or criteria.measured(criteria.Run(**asked))  # type: ignore[arg-type]
    return {key: row[key] for key in ("dense", "before", "after", "prune_seconds")} | {"macs": MACS}


def measured(run: Run) -> dict[str, Any]:
    """Top-1 before and after the recovery, %; the dense network's; the share of the MACs; seconds to cut."""
    if run.tool == AKGP:
        return by_akgp(run)
    (model, reference), side = dense(run.network, run.seed), SIDES[run.network]
    example, start = torch.zeros(1, 3, side, side), time.perf_counter()
    try:
        if run.tool == INSIDE:
            smaller = prune(model, example, macs=MACS, scope="inside", round_to=4).model
        else:
            smaller = nearest(model, example, run.tool == GLOBAL)
    except Exception as error:  # the row says so
        return {"dense": reference, "error": message(error)[:100]}
    seconds = time.perf_counter() - start
    share = count(smaller, example).macs / count(model, example).macs
    before, after = recovered(smaller, run.network, run.seed)
    return {
        "dense": reference, "before": before, "after": after, "prune_seconds": round(seconds, 1),
        "macs": round(share, 3),
    }  # fmt: skip


ABOUT = """# After the same recovery: pruned by akgp and by torch-pruning

Cut inside the blocks, the default of the pipeline, akgp loses least on each of the three, by less than two
standard errors; cut everywhere it is level with torch-pruning or behind. The criterion makes more of a
difference: `knowledge` leaves MobileNetV2 0.6 and ResNet-18 1.3 points below the dense network
([criteria](../criteria/table.md)).

`AKGP_CIFAR10=DIR python -m experiments.against_torch_pruning`, see the head of that file: FPGM to half of the
MACs in multiples of 4, from the same dense networks (10,000 images of CIFAR-10-J75), two epochs over 5,000 of
them as recovery, taught by the dense network. Validation top-1 of the last epoch, %, mean ± standard error
over the seeds (how many). *akgp* cuts everywhere (its share is what was asked, met within 2 %), *inside*
leaves the residual streams whole, the default of the pipeline; *torch-pruning* removes one ratio from every
layer, *global* by the scores of all layers. In cifar_resnet20 torch-pruning's cut of the parameter-free
shortcuts does not run, so the streams were kept from it. One thread, fp32.
{machines}. Runs of the plan: {done} of {planned}.

| network | tool | MACs | before recovery | after | less than dense |
| --- | --- | --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """Markdown: a line for each network and tool."""
    arms: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        arms.setdefault((row["network"], row["tool"]), []).append(row)
    lines = []
    for (network, tool), every in sorted(arms.items()):
        done = [row for row in every if "error" not in row]
        if not done:
            lines.append(f"| {network} | {tool} | {every[0]['error']} | | | |")
            continue
        lost = [row["dense"] - row["after"] for row in done]
        cells = [spread([row[key] for row in done]) for key in ("before", "after")] + [spread(lost)]
        share = mean(row["macs"] for row in done)
        lines.append(f"| {network} | {tool} | {share:.3f} | {' | '.join(cells)} |")
    return markdown(ABOUT, rows, plan(), lines)


def main(network: Annotated[str | None, typer.Option(help="only the runs of this one")] = None) -> None:
    """Do the runs of the plan that the table does not hold."""
    if network not in (None, *SIDES):
        raise typer.BadParameter(f"network: {network!r} is none of {', '.join(SIDES)}")
    complete(RESULTS, [run for run in plan() if network in (None, run.network)], measured, table)


if __name__ == "__main__":
    typer.run(main)
