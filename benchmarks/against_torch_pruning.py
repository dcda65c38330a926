"""Torchvision's classifiers pruned by akgp and by torch-pruning: how far, how long, and with what memory.

    python -m benchmarks.against_torch_pruning

Each network of benchmarks.families, at a ratio of .5 in multiples of 8 by FPGM, everything but the classifier
allowed: `akgp.pruning.prune` with its checks, and torch-pruning's `BasePruner` with the importance
`FPGMImportance`, nothing else set but, for attention, the number of heads. Random weights (seed 0), 10
classes, one thread. A row a run, in a process of its own, so that its peak of memory is known; it ends after
SECONDS of processor time, and where it asks for more than BYTES. Started again, the missing ones are done.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention

from akgp.evaluation.cost import count
from akgp.models import Spec, create
from akgp.pruning import prune
from benchmarks.families import NAMES, PIXELS, tried
from experiments.resumable import Row, complete, markdown

RESULTS = Path("results/against-torch-pruning")
SECONDS, BYTES = 180, 12 * 2**30
"""What a run may take: processor time, and address space beside what the network has."""
HEADER = """# Pruned by akgp and by torch-pruning

`python -m benchmarks.against_torch_pruning`, see the head of that file: a ratio of .5, multiples of 8, FPGM,
random weights. *MACs*: of the dense network's, or why there are none; *s*: processor time of the call, akgp's
with its check of every cut in float64; *MB*: by how much the process's peak of memory exceeds what it held
before. One thread. {machines}.

akgp prunes all 23; torch-pruning fails on seven: both RegNets, ResNeXt, ShuffleNet, the Swins, which ask for
more than 12 GiB, and MaxViT, which takes more than 180 s. On ViT it stops at two thirds of the MACs. Where
both prune, akgp takes up to 15 times the processor time and 6 times the memory, its checks included.

Where akgp keeps markedly more, in MobileNetV2 and V3-small, MNASNet and EfficientNet-B0, it is the rounding:
half of 24, 28, 40, 72, 88 or 120 filters lies between two multiples of 8, and akgp takes the wider,
torch-pruning the narrower. But for two of EfficientNet's, of 10, all other layers have equal widths.
`macs: 0.265` asks for a budget instead.

| network | MACs, akgp | torch-pruning | s, akgp | torch-pruning | MB, akgp | torch-pruning |
| --- | --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Run:
    network: str
    tool: str


def plan() -> Iterator[Run]:
    for network in NAMES.split():
        yield from (Run(network, tool) for tool in TOOLS)


def by_akgp(model: nn.Module, example: Tensor) -> nn.Module:
    return prune(model, example, ratio=0.5).model


def by_torch_pruning(model: nn.Module, example: Tensor) -> nn.Module:
    import torch_pruning

    classifiers = [module for module in model.modules() if getattr(module, "out_features", None) == 10]
    heads: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            heads[module] = module.num_heads
        elif isinstance(module, ShiftedWindowAttention):
            heads[module.qkv] = module.num_heads
    torch_pruning.pruner.BasePruner(
        model, example, importance=torch_pruning.importance.FPGMImportance(), pruning_ratio=0.5,
        round_to=8, ignored_layers=classifiers, num_heads=heads,
    ).step()  # fmt: skip
    return model


TOOLS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "akgp": by_akgp, "torch-pruning": by_torch_pruning,
}  # fmt: skip


def peak() -> int:
    """The process's peak of memory so far, bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def limit() -> None:
    """Raise in what runs beyond SECONDS of processor time or BYTES."""

    def end(*_: Any) -> NoReturn:
        raise TimeoutError(f"no end after {SECONDS} s")

    signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES,) * 2)


def run_alone(run: Run) -> Row:
    """The row of a run, in a process that does nothing else. Its MACs, or the error in a line."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = create(Spec(run.network, 10, 3)).eval()
    pixels = PIXELS.get(run.network, 64)
    example = torch.zeros(1, 3, pixels, pixels)
    dense = count(model, example).macs
    before, start = peak(), time.process_time()
    limit()
    smaller = tried(lambda: TOOLS[run.tool](model, example))
    signal.setitimer(signal.ITIMER_PROF, 0)
    seconds, memory = time.process_time() - start, peak() - before
    share = tried(lambda: count(smaller, example).macs / dense) if isinstance(smaller, nn.Module) else smaller
    return {"macs": share, "processor_seconds": round(seconds, 1), "megabytes": round(memory / 1e6)}


def measured(run: Run) -> Row:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run_alone, run).result()


def table(rows: list[Row]) -> str:
    """A line a network, in the order of the plan."""
    found = {(row["network"], row["tool"]): row for row in rows}

    def shown(network: str, key: str) -> Iterator[str]:
        for tool in TOOLS:
            value = found.get((network, tool), {}).get(key, "")
            yield f"{value:.3f}" if isinstance(value, float) and key == "macs" else str(value)

    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        cells = [cell for key in ("macs", "processor_seconds", "megabytes") for cell in shown(network, key)]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return markdown(HEADER, rows, plan(), lines)


def main() -> None:
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    main()
