"""Training with int8 gradients, simulated (Zhu et al. 2020, Towards Unified INT8 Training): what it costs.

`python -m experiments.int8_training` trains ResNet-20 with half of its channels on 1,078 of the digits,
judged by the last epoch on the 719 others. Weights (a scale for each output channel), the inputs of layers
and the gradients of their outputs (a scale each) are rounded to 8 bits before every convolution's and the
linear layer's three products; the rest is float32, and so are the products: accuracy is what int8 kernels
would give, speed is not. Writes results/int8-training/table.json and table.md after each run; started again,
it does those that are missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import typer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from akgp.data import IndexedSource
from akgp.params import Augment, Training
from akgp.training import TrainingError, cross_entropy, train
from experiments import defaults
from experiments.resumable import Row, complete, markdown, spread

RESULTS = Path("results/int8-training")
SEEDS = (0, 1, 2, 3, 4)
NETWORK, EPOCHS = "cifar_resnet20", 10
FORWARD, EXTREMES, DIRECTION, BOTH = "forward", "extremes", "direction", "direction and rate"
WAYS = {
    "float": "float32",
    FORWARD: "weights and inputs in int8, gradients in float (as quantization-aware training)",
    EXTREMES: "gradients too, each scaled by its largest value",
    DIRECTION: "gradients too, clipped where their direction changes least",
    BOTH: "and the learning rate lowered by the change of direction",
}
LARGEST = 127
CLIPS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.06)
"""Shares of the largest gradient, from which the clip is chosen every EVERY steps."""
EVERY = 10
STEEPNESS, LEAST = 20.0, 0.1
"""alpha and beta of the paper: a layer's rate is times max(exp(-alpha d), beta), d: cosine distance."""


@dataclass(frozen=True)
class Run:
    """way: of WAYS."""

    way: str
    seed: int


def rounded(x: Tensor, scale: Tensor, *, stochastic: bool = False) -> Tensor:
    steps = x / scale.clamp_min(torch.finfo(x.dtype).tiny)
    steps = (steps + torch.rand_like(steps)).floor() if stochastic else steps.round()
    return steps.clamp(-LARGEST, LARGEST) * scale


def straight_through(x: Tensor, scale: Tensor) -> Tensor:
    """x rounded to 8 bits; its gradient is passed as it is."""
    return x + (rounded(x, scale) - x).detach()


class Weights(nn.Module):
    """A parametrization: one scale for each output channel."""

    def forward(self, weight: Tensor) -> Tensor:
        largest_O = weight.detach().abs().flatten(1).amax(1)
        return straight_through(weight, largest_O.view(-1, *[1] * (weight.ndim - 1)) / LARGEST)


@dataclass
class Gradients:
    """Rounds the gradients of one layer's outputs, stochastically."""

    way: str
    step: int = 0
    clip: float = 1.0
    rate: float = field(default=1.0, init=False)

    def __call__(self, gradient: Tensor) -> Tensor:
        largest = gradient.abs().max()
        if self.way != EXTREMES and self.step % EVERY == 0:
            tried = {clip: rounded(gradient, clip * largest / LARGEST) for clip in CLIPS}
            self.clip = min(tried, key=lambda clip: deviation(gradient, tried[clip]))
        self.step += 1
        made = rounded(gradient, self.clip * largest / LARGEST, stochastic=True)
        if self.way == BOTH:
            self.rate = max(math.exp(-STEEPNESS * deviation(gradient, made)), LEAST)
        return made

    def slowed(self, gradient: Tensor) -> Tensor:
        """A weight's gradient, smaller as the rate is."""
        return gradient * self.rate


def deviation(gradient: Tensor, made: Tensor) -> float:
    """Cosine distance."""
    return 1 - float(torch.cosine_similarity(gradient.flatten(), made.flatten(), dim=0))


def simulate_int8(model: nn.Module, way: str) -> None:
    """Round, in place, what the layers' products take."""
    for layer in [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear)]:
        parametrize.register_parametrization(layer, "weight", Weights())
        layer.register_forward_pre_hook(_round_input)
        if way != FORWARD:
            gradients = Gradients(way)
            layer.register_forward_hook(partial(_round_gradient, gradients))
            weight = dict(layer.named_parameters())["parametrizations.weight.original"]
            weight.register_hook(gradients.slowed)


def _round_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return straight_through(inputs[0], inputs[0].detach().abs().max() / LARGEST)


def _round_gradient(gradients: Gradients, layer: nn.Module, inputs: object, output: Tensor) -> None:
    if output.requires_grad:
        output.register_hook(gradients)


def measured(run: Run) -> Row:
    """Validation top-1 of the last epoch, %, None where it diverges; and the processor's seconds."""
    images, validation = defaults.splits(defaults.Run(NETWORK, 1078, 32, 0.2, run.seed))
    model = defaults.built(defaults.Run(NETWORK, 1078, 32, 0.2, run.seed), 10, *images.pixels.shape[1:3])
    if run.way != "float":
        simulate_int8(model, run.way)
    training = Training(
        epochs=EPOCHS,
        batch_size=32,
        learning_rate=0.05,
        keep="last",
        augment=Augment(crop_padding=1, flip=False),
    )
    sources = [IndexedSource.of(each, *defaults.MEAN_STD[1]) for each in (images, validation)]
    start = time.process_time()
    epochs = train(model, *sources, params=training, objective=cross_entropy(), seed=run.seed)
    try:
        top1 = [epoch.row["val_top1"] for epoch in epochs][-1]
    except TrainingError:
        top1 = None
    return {"val_top1": top1, "cpu_seconds": round(time.process_time() - start, 1)}


def plan() -> Iterator[Run]:
    for seed in SEEDS:
        yield from (Run(way, seed) for way in WAYS)


ABOUT = """# Training with int8 gradients, simulated

`python -m experiments.int8_training`: validation top-1, %, of the last epoch, ResNet-20 with half of its
channels, 1,078 digits, 10 epochs; mean ± standard error (how many seeds). Seconds: of the processor, for the
simulation. One thread. {machines}. Runs of the plan: {done} of {planned}.

| way | what is rounded to 8 bits | top-1 | seconds |
| --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """Markdown: a way a line."""
    lines = []
    for way, what in WAYS.items():
        if found := [row for row in rows if row["way"] == way]:
            known = [row["val_top1"] for row in found if row["val_top1"] is not None]
            diverged = f" {len(found) - len(known)} diverged" if len(known) < len(found) else ""
            seconds = spread([row["cpu_seconds"] for row in found])
            lines.append(f"| {way} | {what} | {spread(known)}{diverged} | {seconds} |")
    return markdown(ABOUT, rows, plan(), lines)


def main() -> None:
    """Train the runs of the plan that results/int8-training/table.json does not hold."""
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
