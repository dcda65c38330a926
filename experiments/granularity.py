"""Whole channels or single kernels (Anwar et al. 2017, section 3), at equal multiply-accumulates.

`AKGP_CIFAR10=DIR python -m experiments.granularity` writes a table as experiments.criteria does, on whose
dense ResNet-20, images and recovery it stands. A kernel is the k×k weights between one channel that enters a
convolution and one that leaves it. Those of the least l1 norms, each as a share of its layer's mean, are set
to zero until the others are so many of the MACs, and stay zero in the recovery. Where all kernels that write
or all that read an inner channel of a block go, the channel goes. The rows of channels are l1's of
experiments.criteria.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import typer
from torch import Tensor, nn

from akgp.evaluation import count
from akgp.pruning import prune
from akgp.pruning.coupling.preparation import copy_network
from experiments import criteria
from experiments.criteria import MACS, SEEDS, SIDES, dense, recovered
from experiments.resumable import Row, complete, markdown, rows_in, spread

RESULTS = Path("results/granularity")
NETWORK = "cifar_resnet20"
EXAMPLE = torch.zeros(1, 3, SIDES[NETWORK], SIDES[NETWORK])


@dataclass(frozen=True)
class Run:
    seed: int
    macs: float


def plan() -> Iterator[Run]:
    return (Run(seed, macs) for seed in SEEDS for macs in MACS)


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: each for name, each in model.named_modules() if isinstance(each, nn.Conv2d)}


def norms(layer: nn.Conv2d) -> Tensor:
    """The l1 norm of each kernel [O, I]."""
    return layer.weight.detach().abs().sum((2, 3))


def kernel_macs(model: nn.Module) -> dict[str, int]:
    """Multiply-accumulates of one kernel of each convolution, for one image."""
    found: dict[str, int] = {}

    def note(name: str, layer: nn.Conv2d) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found[name] = layer.weight[0, 0].numel() * output[0, 0].numel()

        return hook

    handles = [each.register_forward_hook(note(name, each)) for name, each in convolutions(model).items()]
    with torch.no_grad():
        model(EXAMPLE)
    for handle in handles:
        handle.remove()
    return found


def without_kernels(model: nn.Module, macs: float) -> nn.Module:
    """A copy with the least kernels set to zero: the others are this share of the network's MACs."""
    smaller = copy_network(model)
    layers, costs = convolutions(smaller), kernel_macs(smaller)
    scores = torch.cat([(norms(each) / norms(each).mean()).flatten() for each in layers.values()])
    cost = torch.cat([torch.full((norms(each).numel(),), costs[name]) for name, each in layers.items()])
    order = scores.argsort()
    too_many = (1 - macs) * count(smaller, EXAMPLE).macs
    gone = torch.zeros(len(order), dtype=torch.bool)
    gone[order[: int((cost[order].cumsum(0) <= too_many).sum())]] = True
    for each, part in zip(
        layers.values(), gone.split([norms(each).numel() for each in layers.values()]), strict=True
    ):
        each.weight.data[part.view(norms(each).shape)] = 0
    return smaller


def without_channels(model: nn.Module) -> tuple[nn.Module, int]:
    """A copy without the inner channels of blocks that no kernel writes or reads, and how many these are."""
    model = copy_network(model)
    shares, many = {}, 0
    for name, block in model.named_modules():
        if not hasattr(block, "conv2"):
            continue
        unused = (norms(block.conv1).sum(1) == 0) | (norms(block.conv2).sum(0) == 0)
        block.conv1.weight.data[unused] = 0  # so that these are the least of its filters
        if unused.any() and not unused.all():
            shares[f"{name}.conv1"] = float(unused.double().mean())
            many += int(unused.sum())
    if not shares:
        return model, 0
    return prune(
        model, EXAMPLE, ratio=0, layers=shares, criterion="l1", scope="inside", round_to=1
    ).model, many  # fmt: skip


def hold_zeros(model: nn.Module) -> None:
    """Let kernels of zeros have no gradient, without which SGD leaves them as they are."""
    for each in convolutions(model).values():
        kept = (norms(each) > 0)[..., None, None]
        each.weight.register_hook(lambda gradient, kept=kept: gradient * kept)


def kept_macs(model: nn.Module) -> int:
    """Multiply-accumulates without the kernels of zeros."""
    costs = kernel_macs(model)
    zeros = sum(int((norms(each) == 0).sum()) * costs[name] for name, each in convolutions(model).items())
    return count(model, EXAMPLE).macs - zeros


def measured(run: Run) -> Row:
    """Top-1 before and after the recovery, %; the dense network's; shares of the MACs; channels that went."""
    model, reference = dense(NETWORK, run.seed)
    smaller, channels = without_channels(without_kernels(model, run.macs))
    kept = kept_macs(smaller)
    hold_zeros(smaller)
    before, after = recovered(smaller, NETWORK, run.seed)
    if kept_macs(smaller) != kept:
        raise AssertionError("the recovery has filled kernels of zeros")
    whole = count(model, EXAMPLE).macs
    return {
        "dense": reference, "before": before, "after": after, "channels": channels,
        "kept": round(kept / whole, 4), "executed": round(count(smaller, EXAMPLE).macs / whole, 4),
    }  # fmt: skip


ABOUT = """# Channels or kernels

`AKGP_CIFAR10=DIR python -m experiments.granularity`, see the head of that file: ResNet-20, its networks and
two epochs of recovery those of [criteria](../criteria/table.md), by l1. *Kept*: the MACs without those of
zero weights. *Executed*: what a runtime for dense tensors computes, which does not skip a kernel of zeros; no
runtime of akgp does. Validation top-1 of the last epoch, %, mean ± standard error over the seeds (how many).
One thread, fp32. {machines}. Runs of the plan: {done} of {planned}.

| removed | MACs kept | executed | channels that went | before recovery | after | less than dense |
| --- | --- | --- | --- | --- | --- | --- |
"""


def line(removed: str, rows: list[Row]) -> str:
    cells = [removed, *(f"{mean(row[key] for row in rows):.3f}" for key in ("kept", "executed"))]
    cells.append(", ".join(dict.fromkeys(str(row["channels"]) for row in rows)))
    cells += [spread([row[key] for row in rows]) for key in ("before", "after")]
    cells.append(spread([row["dense"] - row["after"] for row in rows]))
    return f"| {' | '.join(cells)} |"


def of_channels(macs: float) -> list[Row]:
    """Rows of experiments.criteria."""
    asked = {"network": NETWORK, "macs": macs, "criterion": "l1"}
    same = {"kept": macs, "executed": macs, "channels": "all"}
    return [row | same for row in rows_in(criteria.RESULTS) if asked.items() <= row.items()]


def table(rows: list[Row]) -> str:
    """Markdown: for each share of the MACs a line of kernels and one of channels."""
    lines = []
    for macs in MACS:
        if of_kernels := [row for row in rows if row["macs"] == macs]:
            lines += [line("kernels", of_kernels), line("channels", of_channels(macs))]
    return markdown(ABOUT, rows, plan(), lines)


def main() -> None:
    """Do the runs of the plan that results/granularity/table.json does not hold."""
    if not all(map(of_channels, MACS)):
        raise SystemExit("results/criteria lacks rows of l1: run experiments.criteria first")
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
