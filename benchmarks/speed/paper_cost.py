"""What the paper's experiment would take without a GPU: core hours a seed, from measured rates.

`python -m benchmarks.speed.paper_cost`: images a second of processor time, one thread, fp32, batches of 128
at 32×32; epochs and networks are those of the recipes cifar10-teacher and cifar10-resnet32.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from akgp import params
from akgp.models import cifar_resnet
from akgp.pruning import prune
from experiments.machine import described

BATCH, REPEATS, IMAGES = 128, 3, 45_000
"""IMAGES: of an epoch, the training split of both recipes."""


def rate(step: Callable[[], object]) -> float:
    """Images a second of processor time, after one step that is not counted."""
    step()
    start = time.process_time()
    for _ in range(REPEATS):
        step()
    return BATCH * REPEATS / (time.process_time() - start)


def training(model: nn.Module) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.train().parameters(), 0.1, momentum=0.9, nesterov=True)
    labels = torch.zeros(BATCH, dtype=torch.int64)

    def step() -> None:
        loss = F.cross_entropy(model(inputs()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inputs() -> torch.Tensor:
    return torch.zeros(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)


def main() -> None:
    torch.set_num_threads(1)
    strong, whole = (params.load(Path(f"recipes/cifar10-{name}.yaml")) for name in ("teacher", "resnet32"))
    widths = strong.networks["wide"].widths
    assert widths is not None
    wide, dense = (
        model.to(memory_format=torch.channels_last) for model in (cifar_resnet(20, widths), cifar_resnet(32))
    )
    half = prune(dense, inputs()[:1], macs=whole.prune.macs, scope=whole.prune.scope).model
    with torch.no_grad():
        asked = rate(lambda: wide.eval()(inputs()))
    student = 1 / (1 / rate(training(half)) + 1 / asked)
    rows = [
        ("the wide teacher", strong.teacher.epochs, rate(training(wide))),
        ("the dense ResNet-32", whole.teacher.epochs, rate(training(dense))),
        ("the student, its teacher asked in each step", whole.distill.training.epochs, student),
    ]
    hours = [epochs * IMAGES / speed / 3600 for _, epochs, speed in rows]
    print(described())
    print("| training, a seed | epochs | images/s | core hours |\n| --- | --- | --- | --- |")
    for (name, epochs, speed), needed in zip(rows, hours, strict=True):
        print(f"| {name} | {epochs} | {speed:.0f} | {needed:.0f} |")
    print(f"| all | | | {sum(hours):.0f} |")


if __name__ == "__main__":
    main()
