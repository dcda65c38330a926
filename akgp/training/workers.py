"""Communication of data-parallel workers besides DistributedDataParallel: sums and means.

Where torch.distributed is not initialised there is one worker.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from akgp.training.errors import TrainingError


def place() -> tuple[int, int]:
    """This worker's rank, and how many workers there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def all_reduced(sums: Tensor) -> list[float]:
    """Each of the numbers [M] summed over all workers."""
    if dist.is_initialized():
        dist.all_reduce(sums)
    return sums.tolist()


def require_gradients(model: nn.Module) -> None:
    """Check that every trained parameter has a gradient after a backward pass.

    Workers average gradients as they appear: all would wait for one that never does.

    Raises:
        TrainingError: a parameter has no gradient.
    """
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        raise TrainingError(
            f"the loss does not depend on {', '.join(unused)}: with several workers every parameter must "
            "take part; remove or freeze (requires_grad_(False)) the others, or train with one worker"
        )


def average_gradients(module: nn.Module, world: int) -> None:
    """Replace the gradients of `module` by their mean over the workers; all of them have one."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if gradients:
        # As one tensor: a message costs its latency, whatever the size.
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        means = (flat / world).split([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
