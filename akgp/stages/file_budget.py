"""Pruning until the int8 file is below a number of bytes, and no smaller than that asks for.

The library counts the values of a network; what else a file holds, names and operations, is measured: the
dense network is quantized with noise, and the budget for the values is what its file leaves for them.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from akgp.deployment.measurement import timing_twin
from akgp.deployment.package import align
from akgp.io.search import doing, ended
from akgp.models import ChannelMap
from akgp.models.attention import is_narrowable
from akgp.models.layout import has_layout
from akgp.pruning import NothingRemoved, Pruned, PruningError, Reached, int8_bytes
from akgp.pruning.coupling.random_weights import randomise
from akgp.runtimes import RUNTIMES

AIM, LEAST = 0.99, 0.98
"""Shares of the budget: what is aimed at, and the smallest file that meets it."""
TRIES = 4


def file_bytes(model: nn.Module, example: Tensor) -> int:
    """The bytes of the ONNX file of `model`, on the CPU, by the defaults of `quantize`, for onnxruntime.

    With random values: of biases that are all zero, as before a training, a file holds none.
    """
    doing("writing an int8 file")
    filled = copy.deepcopy(model).cpu()
    randomise(filled)
    with tempfile.TemporaryDirectory() as folder:
        file = timing_twin(filled, example.shape[1:], Path(folder)).path
        align(file, RUNTIMES["onnxruntime"])
        return file.stat().st_size


def file_sizes(dense: nn.Module, example: Tensor) -> Callable[[nn.Module], int]:
    """`file_bytes` of networks that are pruned from `dense`, of which one export serves for most.

    A narrower network has the same operations, and as many bytes less as its values have. Measured is one
    with other operations: a layout that is kept, narrower attention, convolutions in place of shortcuts; and
    one with depthwise convolutions, some of which are filled up with zeros.
    """
    measured, values = file_bytes(dense, example), int8_bytes(dense)

    def size(network: nn.Module) -> int:
        if network is not dense and any(map(_changes_operations, network.modules())):
            return file_bytes(network, example)
        return measured + int8_bytes(network) - values

    return size


def _changes_operations(module: nn.Module) -> bool:
    """Whether a network with this module may not have the dense one's operations and zeros."""
    depthwise = isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels
    return depthwise or has_layout(module) or is_narrowable(module) or isinstance(module, ChannelMap)


def below(
    cut: Callable[[int], Pruned], size: Callable[[nn.Module], int], model: nn.Module, asked: int
) -> Pruned:
    """The network whose file is the largest below `asked` bytes that TRIES cuts come to.

    Args:
        cut: prunes to so many bytes of values (`prune(bytes=…)`).
        size: of a network's file, in bytes.

    Raises:
        PruningError: the file of `model` is that small already, or no network's is.
    """
    dense = size(model)
    if dense <= asked:
        raise PruningError(f"prune.bytes: {asked:,} asked, but the dense network's int8 file has {dense:,}")
    values = int(AIM * asked) - (dense - int8_bytes(model))
    tried: dict[int, Pruned] = {}
    while values > 0 and len(tried) < TRIES and not (tried and ended()):
        try:
            pruned = cut(values)
        except NothingRemoved:
            break  # the next wider network is the dense one
        real = size(pruned.model)
        if real in tried:
            break
        tried[real] = pruned
        if LEAST * asked <= real <= asked:
            break
        values += int(AIM * asked) - real  # a value more is a byte more
    fitting = [real for real in tried if real <= asked]
    if not fitting:
        least = f", the smallest that was made has {min(tried):,}" if tried else ""
        raise PruningError(
            f"prune.bytes: {asked:,} asked, but no int8 file is that small: the dense network's has "
            f"{dense:,}, {dense - int8_bytes(model):,} of them names and operations{least}"
        )
    real = max(fitting)
    pruned, why = tried[real], None
    if real < LEAST * asked:
        why = (pruned.budget.why if pruned.budget else None) or ended() or "no cut came nearer from below"
    return replace(pruned, budget=Reached("bytes", asked, real, why))
