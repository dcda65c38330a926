"""One step of a training: the forward pass, the loss, the gradients over all workers, the update.

Precision, CUDA graphs, compilation, DistributedDataParallel and averages are here and nowhere else.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from akgp.data.batches import Batch
from akgp.models.copying import deep_copy
from akgp.models.memory_format import format_of
from akgp.models.top1 import is_right
from akgp.params import Training
from akgp.training.averages import move_average
from akgp.training.errors import TrainingError
from akgp.training.objective import Objective
from akgp.training.workers import average_gradients, require_gradients

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class Optimization:
    """A network and its objective under optimization: all that a step changes, and one step.

    `learner` is the objective where it has parameters of its own, otherwise an empty module. It is
    outside of DistributedDataParallel, which averages the gradients of what its own forward calls: the
    loss comes after that. So workers start with worker 0's parameters of it and average its gradients here.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        params: Training,
        device: torch.device,
        world: int,
    ) -> None:
        self.model, self.objective, self.world = model, objective, world
        self.learner = objective if isinstance(objective, nn.Module) else nn.Module()
        self.learner.to(device)
        if self.parallel:
            self._begin_alike(params, device)
        # Looked up here: a common BatchNorm is another module than the one that it replaces.
        self.frozen = [model.get_submodule(name) for name in params.freeze]
        self.learner.to(memory_format=format_of(model))
        forward: Callable[[Tensor], Tensor] = DistributedDataParallel(model) if self.parallel else model
        # Compiled last: torch cuts the graph where DistributedDataParallel sends its buckets of gradients, so
        # that these still travel while the rest of the backward pass computes.
        self.forward = torch.compile(forward) if params.compile else forward
        if params.cuda_graphs and (self.parallel or device.type != "cuda"):
            raise TrainingError(f"cuda_graphs needs one worker on a GPU, got {world} on {device.type}")
        self.to_capture = params.cuda_graphs
        self.device, self.dtype = device, autocast_dtype(params.precision, device)
        self.optimizer = _optimizer(_parameter_groups((model, self.learner), params.weight_decay), params)
        # fp16 rounds small gradients to 0: the loss is scaled up, the gradients down again before the update.
        # bf16 has the exponents of fp32 and needs none; a scaler that is not enabled passes all through.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.decay, self.steps = params.ema, 0
        self.average = deep_copy(model) if params.ema else None

    def _begin_alike(self, params: Training, device: torch.device) -> None:
        """Give all workers a common BatchNorm, if set, and worker 0's objective parameters."""
        if params.sync_batch_norm:
            if device.type != "cuda":
                raise TrainingError(f"sync_batch_norm needs a GPU a worker, the device is {device.type}")
            for module in (self.model, self.learner):
                nn.SyncBatchNorm.convert_sync_batchnorm(module)
        for tensor in self.learner.state_dict().values():
            dist.broadcast(tensor, 0)

    @property
    def parallel(self) -> bool:
        return self.world > 1

    @property
    def judged(self) -> nn.Module:
        """The network whose weights are validated and kept."""
        return self.model if self.average is None else self.average

    def step(self, batch: Batch, rate: float, progress: float) -> Tensor:
        """Learn from one batch; returns loss times images, correct answers and images, float64 [3].

        On the device: reading them at every step would make a GPU wait for the processor.
        """
        self.model.train()
        for module in self.frozen:
            module.eval()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.to_capture:
            self.forward, self.to_capture = _captured(self.model, batch.inputs, self.dtype), False
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            logits = self.forward(batch.inputs)
        if not isinstance(logits, Tensor):
            raise TrainingError(
                f"the network must give logits [B, C] in training too, got {type(logits).__name__}: leave "
                "out its auxiliary outputs"
            )
        # The loss in fp32: a softmax over differences of half precision loses the small probabilities.
        logits = logits.float()
        loss = self.objective(batch, logits, progress)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.parallel:
            if self.steps == 0:  # later steps have the same graph
                require_gradients(self.model)
                require_gradients(self.learner)
            average_gradients(self.learner, self.world)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1
        if self.average is not None and self.decay is not None:
            move_average(self.average, self.model, self.steps, self.decay)
        images = len(batch.labels)
        correct = is_right(logits.detach(), batch.labels).sum()
        return torch.stack([loss.detach().double() * images, correct, torch.full_like(correct, images)])

    def agree_on_buffers(self) -> None:
        """Give every worker the running statistics of worker 0, which are those of its slices.

        Weights are equal already, by equal gradients; BatchNorm's statistics differ, as each worker has seen
        other images. All validate, and one writes: it must be the same network.
        """
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


def _optimizer(groups: list[dict[str, Any]], params: Training) -> torch.optim.Optimizer:
    """The optimizer of `params`; every step sets its learning rate."""
    if params.optimizer == "adamw":  # Loshchilov & Hutter 2019
        return torch.optim.AdamW(groups, lr=0.0, betas=(params.momentum, 0.999))
    return torch.optim.SGD(groups, lr=0.0, momentum=params.momentum, nesterov=params.momentum > 0)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type in which `device` computes forward passes; None: fp32 throughout.

    `auto` is bf16 where the device is faster in it than in fp32.

    Raises:
        TrainingError: fp16 on a processor.
    """
    if precision == "fp16":
        if device.type != "cuda":
            raise TrainingError(f"precision fp16 needs a GPU, the device is {device.type}")
        return torch.float16
    if precision == "auto":
        native = (
            torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else fast_bf16()
        )
        return torch.bfloat16 if native else None
    return torch.bfloat16 if precision == "bf16" else None


def fast_bf16() -> bool:
    """Whether this processor computes faster in bf16 than in fp32.

    AMX does, and AMD's AVX-512-BF16. Intel's AVX-512-BF16 alone multiplies no faster than its fp32 units, so
    that converting only costs (results/speed); emulated it is slower by far.
    """
    has = torch.cpu.get_capabilities()
    of_intel = "intel" in str(has.get("cpu_name", "")).lower()
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and not of_intel))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state of `model`, which further training does not change."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _captured(model: nn.Module, inputs: Tensor, dtype: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    """`model` in training mode as CUDA graphs of its forward and backward pass, for inputs like these.

    A graph launches all kernels of a pass at once; a small network otherwise waits for each launch. All
    batches have the one shape that it is for. Capture runs the network, which moves BatchNorm's running
    statistics: its buffers are left as they were.
    """
    before = weights_of(model)
    # Capture replaces the forward of what it gets: the network keeps its own, for validation and saving.
    whole = nn.Sequential(model)
    whole.training = True  # alone: inside of the network frozen modules are in eval mode
    # Without autocast's cache, as torch demands: a cast that came from there would not be in the graph, whose
    # replays would use the weights of the capture.
    with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None, cache_enabled=False):
        torch.cuda.make_graphed_callables(whole, (inputs.clone(),))
    model.load_state_dict(before)
    return whole


def _parameter_groups(modules: Sequence[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """The parameters that are trained, with weight decay and without: norms and vectors have none.

    Goyal et al. 2017 (Accurate, Large Minibatch SGD, section 5.1) leave out BatchNorm's scales and offsets;
    LayerNorm's may have more than one dimension, so that norms are known by their module.
    """
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
