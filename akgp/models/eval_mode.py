"""Eval mode for the duration of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def eval_mode(model: nn.Module, *, fused_attention: bool = False) -> Iterator[None]:
    """Put `model` into eval mode for the block, and each module back into its mode afterwards.

    Attention's fused inference kernel is off meanwhile, unless `fused_attention`: counters and tracers do not
    see the operations in it.
    """
    # By module, as model.train(mode) would also change those that a user keeps in eval mode.
    training = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fused and fused_attention)
    model.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in training.items():
            module.training = mode
