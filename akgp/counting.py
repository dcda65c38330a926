"""How large a network is: its parameters and its multiply-accumulates (MACs).

Both are counted on the network as it runs: removed filters count nothing, masked ones in full.
Bytes on disk and latency are measured elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
COUNTED = {aten.convolution, aten._convolution, aten.mm, aten.addmm, aten.bmm, aten.baddbmm}


@dataclass(frozen=True)
class Counts:
    """Size of a network."""

    params: int
    """Parameters, each shared one once."""
    macs: int
    """Multiply-accumulates of convolutions and linear layers for one input of the batch."""


def count(model: nn.Module, example_input: Tensor) -> Counts:
    """Parameters and MACs of `model` in eval mode.

    MACs are those of convolutions and matrix products (linear layers, attention's projections),
    half of what torch's FLOP counter reports. Biases, norms, activations, pooling, sums and the
    fused kernel of attention itself count nothing, as is usual in the pruning literature.

    Args:
        example_input: [N, ...]; the MACs are divided by N.
    """
    parameter = next(model.parameters(), None)
    if parameter is not None:
        example_input = example_input.to(parameter.device)
    with evaluated(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example_input)
    flops = sum(n for operation, n in counter.get_flop_counts()["Global"].items() if operation in COUNTED)
    return Counts(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=flops // 2 // len(example_input),
    )


@contextlib.contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """`model` in eval mode inside the block, every module as it was after it.

    Attention's fused inference kernel, which no counter or tracer sees into, is off meanwhile.
    """
    training = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in training.items():
            module.training = mode
