"""The training loop: a generator that yields a row of metrics and a resumable state an epoch.

It trains any network on any objective, alone or as one of several data-parallel workers
(where torch.distributed is initialised). It neither logs nor writes files: its caller does.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from akgp.data.batches import Batch, BatchSource
from akgp.models.memory_format import format_of, settle
from akgp.params import Training
from akgp.params.training_defaults import resolved

Objective = Callable[[Batch, Tensor, float], Tensor]
"""(batch, logits [B, C], progress) -> scalar loss, in nats a sample.

progress: share of the training's steps that are done, in [0, 1): 0 in the first step. An objective
that is an `nn.Module` may have parameters of its own, which are trained together with the network.
"""

Schedule = Callable[[int, int, Training], float]
"""(step from 1, steps an epoch, params) -> share of the peak learning rate."""

JUDGED_BY = {"best": "val_top1", "balanced": "val_balanced_top1", "last": "epoch"}
"""What the row of the epoch whose weights are kept has most of, for each `Training.keep`."""

EVALUATION_BATCH = 512
DIVERGED = 1e6
"""A mean loss an epoch, nats, from which no training comes back."""
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class TrainingError(ValueError):
    """The training cannot continue with these parameters."""


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: its row of metrics, and the state from which `train` resumes.

    The state is tensors and plain values, and shares its tensors with the training: write or copy
    it before the next epoch is asked for.
    """

    row: dict[str, float]
    state: dict[str, Any]


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """The objective of ordinary training: mean cross-entropy with the true labels, nats."""

    def objective(batch: Batch, logits: Tensor, progress: float) -> Tensor:
        return F.cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)

    return objective


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
    schedule: Schedule | None = None,
) -> Iterator[Epoch]:
    """Train `model` in place; yield an `Epoch` after each pass over `source`.

    Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013); the learning
    rate follows `learning_rate_factor`; no weight decay on norms and on parameters of fewer than
    two dimensions, such as biases. The parameters of an objective follow the same rules; they are
    part of the state, not of `model`. With `params.ema`, exponential averages over the steps are
    validated and kept, see `_move`. A row holds epoch (from 1), loss and val_loss (nats),
    train_top1, val_top1 and val_balanced_top1 (%, see `Metrics`), learning_rate, images_per_second
    and seconds. Once exhausted, `model` holds the weights to keep (`params.keep`), in eval mode.

    With `world` workers each step averages the gradients of `world` equal slices of one global
    batch of `params.batch_size`; each worker's BatchNorm normalises its own slice, and worker
    0's running statistics are validated and kept, unless `params.sync_batch_norm` makes them those of
    the whole batch. Dropout and the like draw from torch's generator, seeded by (seed, epoch, worker)
    for the epoch and left as it was.

    Args:
        source: the training images: augmented, shuffled by (seed, epoch); only whole batches are used,
            or all images as one batch if they are fewer.
        validation: measured after every epoch, exactly, over all workers.
        state: of an earlier `Epoch`: training resumes behind it, as if it had never stopped.
        params: a batch size or a learning rate that is None is `training_defaults.resolved`.
        schedule: of the learning rate; None: `learning_rate_factor`.

    Raises:
        TrainingError: the loss is no longer finite, or above DIVERGED; the device lacks the precision,
            CUDA graphs or a common BatchNorm; several workers can't share the images, the batch or the
            parameters.
    """
    device = torch.device(device)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if len(source) < world:
        raise TrainingError(f"got {len(source)} training images for {world} workers: use fewer workers")
    params = resolved(params, len(source), workers=(world,))
    batch_size, peak = params.batch_size, params.learning_rate
    assert batch_size is not None and peak is not None
    if batch_size % world:
        raise TrainingError(f"batch_size ({batch_size}) must be divisible by the {world} workers")
    source, validation = source.to(device), validation.to(device)
    channels_last = settle(model.to(device), source.image_shape, channels_last=params.channels_last)
    optimization = _Optimization(model, objective, params, device, world)
    steps = max(len(source) // batch_size, 1)
    schedule = schedule or learning_rate_factor
    done, best = 0, -math.inf
    kept: dict[str, Tensor] = {}
    if state is not None:
        done, best, kept = state["epoch"], state["best"], state["kept"]
        optimization.load_state_dict(state["optimization"])

    for epoch in range(done, params.epochs):
        start = time.perf_counter()
        sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, correct, images
        batches = source.epoch(
            batch_size=batch_size, augment=params.augment, seed=seed, epoch=epoch, rank=rank, world=world,
            channels_last=channels_last,
        )  # fmt: skip
        with _seeded((seed * 1_000_003 + epoch) * 1_000_003 + rank, device):
            for step, batch in enumerate(batches, epoch * steps + 1):
                rate = peak * schedule(step, steps, params)
                progress = (step - 1) / (steps * params.epochs)
                sums += optimization.step(batch, rate, progress)
        loss_sum, correct, seen = _all_reduced(sums)
        _require_sane("loss", loss_sum / seen, epoch, params, DIVERGED)
        trained = time.perf_counter() - start
        optimization.agree_on_buffers()
        judged = optimization.judged
        found = evaluate(judged, validation, rank=rank, world=world)
        _require_sane("val_loss", found.loss, epoch, params, math.inf)
        row = {
            "epoch": epoch + 1, "loss": loss_sum / seen, "train_top1": 100 * correct / seen,
            "val_loss": found.loss, "val_top1": found.top1, "val_balanced_top1": found.balanced_top1,
            "learning_rate": rate, "images_per_second": seen / trained,
        }  # fmt: skip
        figure = row[JUDGED_BY[params.keep]]
        if params.keep == "last" or figure > best:
            best, kept = figure, _copy(judged)
        row["seconds"] = time.perf_counter() - start
        going_on = {"epoch": epoch + 1, "best": best, "kept": kept, "optimization": optimization.state_dict()}
        yield Epoch(row, going_on)
    model.load_state_dict(kept)
    model.eval()


class _Optimization:
    """A network and its objective under optimization: all that a step changes, and one step.

    `learner` is the objective where it has parameters of its own, otherwise an empty module. It is
    outside of DistributedDataParallel: workers begin with worker 0's and average its gradients here.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, params: Training, device: torch.device, world: int
    ) -> None:
        self.model, self.objective, self.world = model, objective, world
        self.learner = objective if isinstance(objective, nn.Module) else nn.Module()
        self.learner.to(device)
        if self.parallel and params.sync_batch_norm:
            if device.type != "cuda":
                raise TrainingError(f"sync_batch_norm needs a GPU a worker, the device is {device.type}")
            for module in (model, self.learner):
                nn.SyncBatchNorm.convert_sync_batchnorm(module)
        if self.parallel:
            for tensor in self.learner.state_dict().values():
                dist.broadcast(tensor, 0)
        self.learner.to(memory_format=format_of(model))
        forward: Callable[[Tensor], Tensor] = DistributedDataParallel(model) if self.parallel else model
        self.forward = torch.compile(forward) if params.compile else forward
        if params.cuda_graphs and (self.parallel or device.type != "cuda"):
            raise TrainingError(f"cuda_graphs needs one worker on a GPU, got {world} on {device.type}")
        self.to_capture = params.cuda_graphs
        self.device, self.dtype = device, autocast_dtype(params.precision, device)
        self.optimizer = torch.optim.SGD(
            _parameter_groups((model, self.learner), params.weight_decay), lr=0.0, momentum=params.momentum,
            nesterov=params.momentum > 0,
        )  # fmt: skip
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.decay, self.steps = params.ema, 0
        self.average = copy.deepcopy(model) if params.ema else None

    @property
    def parallel(self) -> bool:
        return self.world > 1

    @property
    def judged(self) -> nn.Module:
        """The network whose weights are validated and kept."""
        return self.model if self.average is None else self.average

    def step(self, batch: Batch, rate: float, progress: float) -> Tensor:
        """Learn from one batch; returns loss times images, correct answers and images, float64 [3]."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.to_capture:
            self.forward, self.to_capture = _captured(self.model, batch.inputs, self.dtype), False
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            logits = self.forward(batch.inputs).float()
        loss = self.objective(batch, logits, progress)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.parallel:
            if self.steps == 0:
                _require_gradients(self.model)
                _require_gradients(self.learner)
            _average_gradients(self.learner, self.world)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1
        if self.average is not None and self.decay is not None:
            _move(self.average, self.model, self.steps, self.decay)
        images = len(batch.labels)
        correct = (logits.detach().argmax(1) == batch.labels).sum()
        return torch.stack([loss.detach().double() * images, correct, torch.full_like(correct, images)])

    def agree_on_buffers(self) -> None:
        """Give every worker the running statistics of worker 0, which are those of its slices."""
        if self.parallel:
            for model in (self.model, self.average):
                for buffer in model.buffers() if model is not None else ():
                    dist.broadcast(buffer, 0)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "objective": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.learner.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.steps = state["steps"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def _captured(model: nn.Module, inputs: Tensor, dtype: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    """`model` in training mode as CUDA graphs of its forward and backward pass, for inputs like these.

    Their capture runs the network; its buffers are left as they were.
    """
    before = _copy(model)
    whole = nn.Sequential(model).train()  # capturing replaces its forward, and leaves the network's
    with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None, cache_enabled=False):
        torch.cuda.make_graphed_callables(whole, (inputs.clone(),))
    model.load_state_dict(before)
    return whole


def learning_rate_factor(step: int, steps: int, params: Training) -> float:
    """Share of the peak learning rate in `step` (from 1), of `steps` an epoch: in (0, 1].

    Rises linearly over `params.warmup_epochs`, then falls to zero by a half cosine
    (Loshchilov & Hutter 2017, eq. 5 without restarts) or linearly.
    """
    warmup, total = params.warmup_epochs * steps, params.epochs * steps
    if step <= warmup:
        return step / warmup
    progress = max(step - warmup - 1, 0) / (total - warmup)
    return (1 + math.cos(math.pi * progress)) / 2 if params.schedule == "cosine" else 1 - progress


class Metrics(NamedTuple):
    """What a network is worth on a split."""

    loss: float
    """Mean cross-entropy, nats."""
    top1: float
    """Share of the images that are classified as labelled, %."""
    balanced_top1: float
    """The same of each class that occurs, and the mean over these, %: rare classes count alike."""


@torch.no_grad()
def evaluate(model: nn.Module, source: BatchSource, *, rank: int = 0, world: int = 1) -> Metrics:
    """Judge a network in eval mode, every image counted once over all workers."""
    model.eval()
    classes = int(source.labels.max()) + 1
    loss = torch.zeros(1, dtype=torch.float64, device=source.labels.device)
    correct = torch.zeros(classes, dtype=torch.float64, device=source.labels.device)
    channels_last = format_of(model) is torch.channels_last
    for batch in source.ordered(
        batch_size=EVALUATION_BATCH, rank=rank, world=world, channels_last=channels_last
    ):
        logits = model(batch.inputs).float()
        loss += F.cross_entropy(logits, batch.labels, reduction="sum")
        correct += batch.labels[logits.argmax(1) == batch.labels].bincount(minlength=classes)
    loss_sum, *right = _all_reduced(torch.cat([loss, correct]))
    there = source.labels.bincount().tolist()
    shares = [one / count for one, count in zip(right, there, strict=True) if count]
    return Metrics(loss_sum / len(source), 100 * sum(right) / len(source), 100 * sum(shares) / len(shares))


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


def _parameter_groups(modules: Sequence[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    norms = {
        id(parameter)
        for root in modules
        for module in root.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}  # whether they decay
    for parameter in itertools.chain.from_iterable(root.parameters() for root in modules):
        if parameter.requires_grad:
            groups[parameter.ndim >= 2 and id(parameter) not in norms].append(parameter)
    return [{"params": groups[decays], "weight_decay": weight_decay * decays} for decays in (True, False)]


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's generators for `device` seeded inside the block, and as they were after it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield


@torch.no_grad()
def _move(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move `average` towards `model` after `step` (from 1): average ← d · average + (1 − d) · model.

    d = min(decay, step / (step + 9)), as in TensorFlow's ExponentialMovingAverage: the averaged
    weights are at most a tenth of the training old in the mean, so that a short one forgets its
    beginning too. BatchNorm's running statistics are averaged alike, as the model's own do not fit
    averaged weights; integers are copied.
    """
    decay = min(decay, step / (step + 9))
    for attribute in ("parameters", "buffers"):
        for old, new in zip(getattr(average, attribute)(), getattr(model, attribute)(), strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - decay)
            else:
                old.copy_(new)


def _require_gradients(model: nn.Module) -> None:
    """Workers average gradients as they appear, so that one which never does would hold all of them up."""
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        raise TrainingError(
            f"the loss does not depend on {', '.join(unused)}: with several workers every parameter must "
            "take part; remove or freeze (requires_grad_(False)) the others, or train with one worker"
        )


def _average_gradients(module: nn.Module, world: int) -> None:
    """Replace the gradients of `module` by their mean over the workers; all of them have one."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if gradients:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        means = (flat / world).split([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


def _require_sane(name: str, value: float, epoch: int, params: Training, below: float) -> None:
    if not value < below:
        raise TrainingError(
            f"{name} is {value:.3g} in epoch {epoch + 1}: lower learning_rate ({params.learning_rate}) "
            f"or raise warmup_epochs ({params.warmup_epochs})"
        )


def _all_reduced(sums: Tensor) -> list[float]:
    if dist.is_initialized():
        dist.all_reduce(sums)
    return sums.tolist()


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
