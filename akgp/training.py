"""The training loop: a generator that yields a row of metrics and a resumable state an epoch.

It trains any network on any objective, alone or as one of several data-parallel workers
(where torch.distributed is initialised). It neither logs nor writes files: its caller does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from akgp.data.batches import Batch, epoch_batches, ordered_batches
from akgp.data.images import Images
from akgp.params import Training

Objective = Callable[[Batch, Tensor], Tensor]
"""(batch, logits [B, C]) -> scalar loss, in nats a sample."""

EVALUATION_BATCH = 512


class TrainingError(ValueError):
    """The training cannot go on with these parameters."""


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: its row of metrics, and the state from which `train` goes on."""

    row: dict[str, float]
    state: dict[str, Any]


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """The objective of ordinary training: mean cross-entropy with the true labels, nats."""
    return lambda batch, logits: F.cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)


def train(
    model: nn.Module,
    images: Images,
    validation: Images,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    params: Training,
    objective: Objective,
    seed: int,
    device: torch.device | str = "cpu",
    state: dict[str, Any] | None = None,
) -> Iterator[Epoch]:
    """Train `model` in place; yield an `Epoch` after each pass over `images`.

    Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013); the learning
    rate follows `learning_rate_factor`; weight decay only where a parameter has two or more
    dimensions. A row holds epoch (from 1), loss and val_loss (nats), train_top1 and val_top1
    (%), learning_rate, images_per_second and seconds. Once exhausted, `model` holds the
    weights to keep (`params.keep`, and the averaged ones if `params.ema`), in eval mode.

    With `world` workers each step averages the gradients of `world` equal slices of one global
    batch of `params.batch_size`; each worker's BatchNorm normalises its own slice, and worker
    0's running statistics are kept.

    Args:
        images: augmented, shuffled by (seed, epoch); only whole batches are used.
        validation: measured after every epoch, exactly, over all workers.
        mean, std: of each channel, in units of 255.
        state: of an earlier `Epoch`: training goes on behind it, as if it had never stopped.

    Raises:
        TrainingError: the loss is no longer finite, or the device lacks the precision.
    """
    device = torch.device(device)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    images, validation = images.to(device), validation.to(device)
    optimization = _Optimization(model, params, device, parallel=world > 1)
    steps = max(len(images) // params.batch_size, 1)
    done, best = 0, -math.inf
    kept: dict[str, Tensor] = {}
    if state is not None:
        done, best, kept = state["epoch"], state["best"], state["kept"]
        optimization.load_state_dict(state["optimization"])

    for epoch in range(done, params.epochs):
        start = time.perf_counter()
        sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, correct, images
        batches = epoch_batches(
            images, batch_size=params.batch_size, mean=mean, std=std, augment=params.augment, seed=seed,
            epoch=epoch, rank=rank, world=world, channels_last=params.channels_last,
        )  # fmt: skip
        for step, batch in enumerate(batches, epoch * steps + 1):
            rate = params.learning_rate * learning_rate_factor(step, steps, params)
            sums += optimization.step(batch, rate, objective)
        loss_sum, correct, seen = _all_reduced(sums)
        if not math.isfinite(loss_sum):
            raise TrainingError(
                f"the loss is {loss_sum} in epoch {epoch + 1}: lower learning_rate "
                f"({params.learning_rate}) or raise warmup_epochs ({params.warmup_epochs})"
            )
        trained = time.perf_counter() - start
        judged = optimization.judged
        val_loss, val_top1 = evaluate(judged, validation, mean=mean, std=std, rank=rank, world=world)
        if val_top1 > best or params.keep == "last":
            best, kept = max(val_top1, best), _copy(judged)
        row = {
            "epoch": epoch + 1, "loss": loss_sum / seen, "train_top1": 100 * correct / seen,
            "val_loss": val_loss, "val_top1": val_top1, "learning_rate": rate,
            "images_per_second": seen / trained, "seconds": time.perf_counter() - start,
        }  # fmt: skip
        going_on = {"epoch": epoch + 1, "best": best, "kept": kept, "optimization": optimization.state_dict()}
        yield Epoch(row, going_on)
    model.load_state_dict(kept)
    model.eval()


class _Optimization:
    """A network under optimization: all that a step changes, and one step."""

    def __init__(self, model: nn.Module, params: Training, device: torch.device, *, parallel: bool) -> None:
        self.memory_format = torch.channels_last if params.channels_last else torch.contiguous_format
        model.to(device=device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self.model = model
        forward = DistributedDataParallel(model) if parallel else model
        self.forward = torch.compile(forward) if params.compile else forward
        self.device, self.dtype = device, autocast_dtype(params.precision, device)
        self.optimizer = torch.optim.SGD(
            _parameter_groups(model, params.weight_decay), lr=0.0, momentum=params.momentum,
            nesterov=params.momentum > 0,
        )  # fmt: skip
        average = get_ema_multi_avg_fn(params.ema) if params.ema else None
        self.average = AveragedModel(model, multi_avg_fn=average) if average else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    @property
    def judged(self) -> nn.Module:
        """The network whose weights are validated and kept."""
        return self.model if self.average is None else self.average.module

    def step(self, batch: Batch, rate: float, objective: Objective) -> Tensor:
        """Learn from one batch; returns loss times images, correct answers and images, float64 [3]."""
        self.forward.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            logits = self.forward(batch.inputs).float()
        loss = objective(batch, logits)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        images = len(batch.labels)
        correct = (logits.detach().argmax(1) == batch.labels).sum()
        return torch.stack([loss.detach().double() * images, correct, torch.full_like(correct, images)])

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def learning_rate_factor(step: int, steps: int, params: Training) -> float:
    """Share of the peak learning rate in `step` (from 1), of `steps` an epoch: in (0, 1].

    Rises linearly over `params.warmup_epochs`, then falls to zero by a half cosine
    (Loshchilov & Hutter 2017, eq. 5 without restarts) or linearly.
    """
    warmup, total = params.warmup_epochs * steps, params.epochs * steps
    if step <= warmup:
        return step / warmup
    progress = (step - warmup - 1) / (total - warmup)
    return (1 + math.cos(math.pi * progress)) / 2 if params.schedule == "cosine" else 1 - progress


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: Images,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    rank: int = 0,
    world: int = 1,
) -> tuple[float, float]:
    """Mean cross-entropy (nats) and top-1 (%) in eval mode, every image counted once over all workers."""
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=images.labels.device)
    for batch in ordered_batches(
        images, batch_size=EVALUATION_BATCH, mean=mean, std=std, rank=rank, world=world
    ):
        logits = model(batch.inputs).float()
        sums[0] += F.cross_entropy(logits, batch.labels, reduction="sum")
        sums[1] += (logits.argmax(1) == batch.labels).sum()
        sums[2] += len(batch.labels)
    loss, correct, seen = _all_reduced(sums)
    return loss / seen, 100 * correct / seen


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type in which `device` computes forward passes; None: fp32 throughout.

    `auto` is bf16 where the processor multiplies in it: emulated, it is slower than fp32.

    Raises:
        TrainingError: fp16 on a processor.
    """
    if precision == "fp16":
        if device.type != "cuda":
            raise TrainingError(f"precision fp16 needs a GPU, the device is {device.type}")
        return torch.float16
    if precision == "auto":
        native = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else bool(torch.cpu.get_capabilities().get("avx512_bf16"))
        )
        return torch.bfloat16 if native else None
    return torch.bfloat16 if precision == "bf16" else None


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _all_reduced(sums: Tensor) -> list[float]:
    if dist.is_initialized():
        dist.all_reduce(sums)
    return sums.tolist()


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
