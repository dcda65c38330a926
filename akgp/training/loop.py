"""The training loop: a generator that yields a row of metrics and a resumable state an epoch.

It trains any network on any objective, alone or as one of several data-parallel workers
(where torch.distributed is initialised). It neither logs nor writes files: its caller does.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from akgp.data.batches import BatchSource
from akgp.models.memory_format import settle
from akgp.params import Training
from akgp.params.training_defaults import resolved
from akgp.training.errors import TrainingError
from akgp.training.freezing import frozen
from akgp.training.objective import Objective
from akgp.training.schedule import Schedule, learning_rate_factor
from akgp.training.step import Optimization, weights_of
from akgp.training.validation import evaluate
from akgp.training.workers import all_reduced, place

JUDGED_BY = {"best": "val_top1", "balanced": "val_balanced_top1", "last": "epoch"}
"""The figure that is largest in the row of the kept epoch, for each `Training.keep`."""
NOTHING = (-math.inf, -math.inf)
"""Less than any `merit`."""

SANE = (-100.0, 1e6)
"""Mean losses of an epoch, nats, beyond which no training recovers. Against the labels (`distill.w0` above 1)
it has no lower bound: at -100 their probability is no longer a float32."""


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: its row of metrics, and the state from which `train` resumes.

    row: epoch (from 1), loss and val_loss (nats), train_top1, val_top1 and val_balanced_top1 (%, see
    `Metrics`), learning_rate, images_per_second and seconds.
    state: tensors and plain values. It shares its tensors with the training: write or copy it before
    requesting the next epoch.
    """

    row: dict[str, float]
    state: dict[str, Any]


def train(
    model: nn.Module,
    source: BatchSource,
    validation: BatchSource,
    *,
    params: Training,
    objective: Objective,
    seed: int,
    device: torch.device | str = "cpu",
    state: dict[str, Any] | None = None,
    schedule: Schedule = learning_rate_factor,
) -> Iterator[Epoch]:
    """Train `model` in place as `akgp.training` describes; yield an `Epoch` after each pass over `source`.

    Once exhausted, `model` holds the weights to keep (`params.keep`), in eval mode.

    Args:
        source: the training images: augmented, shuffled by (seed, epoch); only whole batches are used,
            or all images as one batch if they are fewer.
        validation: measured after every epoch, every image once over all workers.
        state: of an earlier `Epoch`: training resumes after it, as if it had never stopped.
        params: a batch size or a learning rate of None is resolved by `training_defaults.resolved`.

    Raises:
        ValueError: `params.augment.cutout` hides whole images.
        TrainingError: `params.freeze` names no module of the network, or all; the loss is no longer finite,
            or beyond SANE; the device does not support the precision, CUDA graphs or a common BatchNorm;
            several workers cannot share the images, the batch or the parameters.
    """
    device = torch.device(device)
    _, world = place()
    params = _complete(params, len(source), world)
    params.augment.require_visible(*source.image_shape[1:])
    source, validation = source.to(device), validation.to(device)
    channels_last = settle(model.to(device), source.image_shape, channels_last=params.channels_last)
    done, best, kept = 0, NOTHING, dict[str, Tensor]()
    with frozen(model, params.freeze):
        optimization = Optimization(model, objective, params, device, world)
        if state is not None:
            done, best, kept = state["epoch"], state["best"], state["kept"]
            optimization.load_state_dict(state["optimization"])
        for epoch in range(done, params.epochs):
            start = time.perf_counter()
            learned = _pass(optimization, source, params, schedule, seed, epoch, channels_last)
            row = {"epoch": epoch + 1} | _validated(optimization, learned, validation, epoch, params)
            reached = merit(row, params.keep)
            # The last also where the state is of a training that kept its best, as a branch's is.
            if params.keep == "last" or reached > best:
                best, kept = reached, weights_of(optimization.judged)
            row["seconds"] = time.perf_counter() - start
            rest = {"best": best, "kept": kept, "optimization": optimization.state_dict()}
            yield Epoch(row, {"epoch": epoch + 1} | rest)
    model.load_state_dict(kept)
    model.eval()


def merit(row: Mapping[str, float], keep: str) -> tuple[float, float]:
    """What is largest in the row of the kept epoch; of equal accuracies, as of few images, the lower loss."""
    return row[JUDGED_BY[keep]], -row["val_loss"]


def _complete(params: Training, images: int, world: int) -> Training:
    """The parameters with a batch size and a learning rate, for so many images and workers."""
    if images < world:
        raise TrainingError(f"got {images} training images for {world} workers: use fewer workers")
    params = resolved(params, images, workers=(world,))
    if params.batch_size is not None and params.batch_size % world:
        raise TrainingError(f"batch_size ({params.batch_size}) must be divisible by the {world} workers")
    return params


class _Pass(NamedTuple):
    loss: float
    top1: float
    learning_rate: float
    images_per_second: float


def _pass(
    optimization: Optimization,
    source: BatchSource,
    params: Training,
    schedule: Schedule,
    seed: int,
    epoch: int,
    channels_last: bool,
) -> _Pass:
    """Learn from all batches of an epoch (from 0).

    Raises:
        TrainingError: the mean loss is not finite, or beyond SANE.
    """
    start = time.perf_counter()
    (rank, world), device = place(), optimization.device
    assert params.batch_size is not None and params.learning_rate is not None
    # Whole batches only; a set smaller than a batch is one batch.
    steps = max(len(source) // params.batch_size, 1)
    batches = source.epoch(
        batch_size=params.batch_size, augment=params.augment, seed=seed, epoch=epoch, rank=rank, world=world,
        channels_last=channels_last,
    )  # fmt: skip
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, correct, images
    # Dropout draws other numbers on each worker, and the same ones in an epoch that is resumed: its seed is
    # made of (seed, epoch, rank), told apart by a prime above any number of epochs and workers.
    with _seeded((seed * 1_000_003 + epoch) * 1_000_003 + rank, device):
        for step, batch in enumerate(batches, epoch * steps + 1):
            rate = params.learning_rate * schedule(step, steps, params)
            sums += optimization.step(batch, rate, progress=(step - 1) / (steps * params.epochs))
    loss, correct, images = all_reduced(sums)
    _require_sane("loss", loss / images, epoch, params)
    return _Pass(loss / images, 100 * correct / images, rate, images / (time.perf_counter() - start))


def _validated(
    optimization: Optimization, learned: _Pass, validation: BatchSource, epoch: int, params: Training
) -> dict[str, float]:
    """The row of an epoch: its figures in training, and the network's on `validation` after it.

    Raises:
        TrainingError: the loss there is not finite, or beyond SANE.
    """
    optimization.agree_on_buffers()
    measured = evaluate(optimization.judged, validation)
    # The last step may have left weights that are not finite: the losses before it don't show it.
    _require_sane("val_loss", measured.loss, epoch, params)
    return {
        "loss": learned.loss, "train_top1": learned.top1,
        "val_loss": measured.loss, "val_top1": measured.top1, "val_balanced_top1": measured.balanced_top1,
        "learning_rate": learned.learning_rate, "images_per_second": learned.images_per_second,
    }  # fmt: skip


def _require_sane(name: str, value: float, epoch: int, params: Training) -> None:
    if not SANE[0] < value < SANE[1]:  # false of NaN too
        raise TrainingError(
            f"{name} is {value:.3g} in epoch {epoch + 1}: lower learning_rate ({params.learning_rate}) "
            f"or raise warmup_epochs ({params.warmup:g})"
        )


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's generators for `device` seeded inside the block, and as they were after it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield
