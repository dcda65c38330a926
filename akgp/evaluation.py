"""What a network is worth: logits and accuracy in PyTorch and in onnxruntime, latency in onnxruntime.

Size (`count`) is computed in `akgp.counting`. Nothing here decides which split is measured.
N: images, C: classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from akgp.counting import Counts, count
from akgp.data.batches import ordered_batches
from akgp.data.images import Images
from akgp.memory_format import format_of
from akgp.params import Evaluate
from akgp.runtime import guarded, session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = [
    "Counts",
    "Latency",
    "Ratio",
    "accuracy",
    "balanced_accuracy",
    "count",
    "latency",
    "onnx_logits",
    "predict_logits",
    "ratio",
]

BLOCK_SECONDS = 0.01
"""A timed block repeats the network for at least this long."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Latency:
    """Time of one inference at batch 1, ms: median over the rounds and its 95 % interval.

    rounds_ms: the mean of each round's block, in the order of the rounds, which all networks share.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    rounds_ms: tuple[float, ...]


@dataclass(frozen=True)
class Ratio:
    """How many times faster one network is than another: median over rounds, 95 % interval."""

    median: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, or `no verdict` where the interval contains 1."""
        if self.low <= 1 <= self.high:
            return "no verdict"
        return "faster" if self.low > 1 else "slower"


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    images: Images,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    batch_size: int = 256,
    rank: int = 0,
    world: int = 1,
) -> Tensor:
    """The logits of every image in order, float32 [N, C] on the CPU, in eval mode and fp32.

    The network is moved to `device` and keeps its mode. With `world` workers only rows of this
    worker's images are filled, the others are zero: their sum over all workers is complete.

    Args:
        mean, std: of each channel, in units of 255.

    Raises:
        ValueError: no image.
    """
    if not len(images):
        raise ValueError("images are empty: there is nothing to predict")
    training = model.training
    model.to(device).eval()
    rows: Tensor | None = None
    for batch in ordered_batches(
        images.to(device), batch_size=batch_size, mean=mean, std=std, rank=rank, world=world,
        channels_last=format_of(model) is torch.channels_last,
    ):  # fmt: skip
        logits = model(batch.inputs).float().cpu()
        if rows is None:
            rows = torch.zeros(len(images), logits.shape[1])
        rows[batch.index.cpu()] = logits
    model.train(training)
    if rows is None:
        raise ValueError(f"worker {rank} of {world} has none of the {len(images)} images; use fewer workers")
    return rows


def onnx_logits(
    path: str | Path,
    images: Images,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    threads: int,
    batch_size: int = 256,
) -> Tensor:
    """The logits of every image in order, float32 [N, C], by onnxruntime on `threads` CPU threads.

    Args:
        path: an ONNX graph with one input [N, channels, H, W] and one output [N, C].
        mean, std: of each channel, in units of 255.
    """
    running = session(path, threads=threads)
    name = running.get_inputs()[0].name
    with guarded(f"{path}: onnxruntime cannot run it"):
        rows = [
            torch.from_numpy(running.run(None, {name: batch.inputs.numpy()})[0])
            for batch in ordered_batches(images.to("cpu"), batch_size=batch_size, mean=mean, std=std)
        ]
    return torch.cat(rows)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the label's (top-1), %.

    Args:
        logits: [N, C]; a tie goes to the lowest class.
        labels: int64 [N].

    Raises:
        ValueError: other shapes, or no image.
    """
    return 100 * float(_right(logits, labels).mean())


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The mean over the classes that occur of each one's `accuracy`, %: so rare ones count alike."""
    right = _right(logits, labels)
    return 100 * float(torch.stack([right[labels == k].mean() for k in labels.unique()]).mean())


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """1 for each image that is classified as its label, else 0: float64 [N]."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            f"logits must be [N, C] and labels [N] with N > 0, "
            f"got {list(logits.shape)} and {list(labels.shape)}"
        )
    return (logits.argmax(1) == labels.to(logits.device)).double()


def latency(
    paths: Mapping[str, Path], input_shape: Sequence[int], params: Evaluate, seed: int
) -> dict[str, Latency]:
    """Time ONNX graphs against each other in onnxruntime, in this process.

    Each network is warmed up for `params.warmup_seconds`. In each of `params.rounds` rounds every
    network is timed once, in a new random order, for a block of at least 10 ms. With one thread
    the thread's CPU time is taken, which other processes on the machine disturb less; with more
    threads wall time. Waiting threads sleep instead of spinning.

    Args:
        paths: ONNX file of each network.
        input_shape: of one inference, (1, channels, H, W).
        seed: of the input, the order and the bootstrap.

    Returns:
        For each network the median over the rounds, and a 95 % percentile bootstrap of it.
    """
    generator = np.random.default_rng(seed)
    sample = generator.standard_normal(tuple(input_shape), dtype=np.float32)
    clock = time.thread_time if params.threads == 1 else time.perf_counter
    blocks = {
        name: _Block(session(path, threads=params.threads), sample, clock) for name, path in paths.items()
    }
    for name, block in blocks.items():
        with guarded(f"{paths[name]}: onnxruntime cannot run it"):
            block.warm_up(params.warmup_seconds)
    times: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(params.rounds):
        for name in generator.permutation(list(paths)):
            times[name].append(1000 * blocks[name].seconds())
    return {
        name: Latency(*_median_interval(np.array(rounds), generator), tuple(rounds))
        for name, rounds in times.items()
    }


def ratio(slow: Latency, fast: Latency, seed: int = 0) -> Ratio:
    """How many times faster `fast` is than `slow`: median of the rounds' ratios, and a 95 % interval.

    Raises:
        ValueError: they were not timed in the same rounds.
    """
    if len(slow.rounds_ms) != len(fast.rounds_ms):
        raise ValueError(
            f"both must be timed in the same rounds, got {len(slow.rounds_ms)} and {len(fast.rounds_ms)}"
        )
    ratios = np.array(slow.rounds_ms) / np.array(fast.rounds_ms)
    return Ratio(*_median_interval(ratios, np.random.default_rng(seed)))


class _Block:
    """A network ready to be timed."""

    def __init__(
        self, session: InferenceSession, sample: NDArray[np.float32], clock: Callable[[], float]
    ) -> None:
        self.session, self.clock, self.repeats = session, clock, 1
        self.feed = {session.get_inputs()[0].name: sample}

    def warm_up(self, seconds: float) -> None:
        """Run for `seconds` of wall time, then settle how many repeats fill a block."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.seconds()
        while (spent := self.repeats * self.seconds()) < BLOCK_SECONDS:
            wanted = self.repeats * 1.2 * BLOCK_SECONDS / max(spent, 1e-6)
            self.repeats = max(self.repeats + 1, math.ceil(wanted))

    def seconds(self) -> float:
        """Mean time of one inference over a block."""
        start = self.clock()
        for _ in range(self.repeats):
            self.session.run(None, self.feed)
        return (self.clock() - start) / self.repeats


def _median_interval(
    values: NDArray[np.float64], generator: np.random.Generator
) -> tuple[float, float, float]:
    medians = np.median(generator.choice(values, (RESAMPLES, len(values))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)
