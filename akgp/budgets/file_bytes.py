"""Pruning until the int8 file is below a number of bytes, and no smaller than that asks for.

The library counts the values of a network; what else a file holds, names, operations and the runtime's
channels of zeros, is measured: each network that is tried is quantized with noise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from akgp.deployment.package import align
from akgp.deployment.timing_twin import timing_twin
from akgp.models.copying import deep_copy
from akgp.pruning import NothingRemoved, Pruned, PruningError, Reached, int8_bytes
from akgp.pruning.coupling.random_weights import randomise
from akgp.runtimes import Runtime
from akgp.timed_search import doing, ended

AIM, LEAST = 0.99, 0.98
"""Shares of the budget: what is aimed at, and the smallest file that meets it."""
TRIES = 4


def file_bytes(model: nn.Module, example: Tensor, runtime: Runtime) -> int:
    """The bytes of the ONNX file of `model`, on the CPU, in int8 by the defaults of `quantize`.

    With random values: of biases that are all zero, as before a training, a file holds none.
    """
    doing("writing an int8 file")
    filled = deep_copy(model).cpu()
    randomise(filled)
    with tempfile.TemporaryDirectory() as folder:
        file = timing_twin(filled, example.shape[1:], Path(folder)).path
        align(file, runtime)
        return file.stat().st_size


def prune_to_file_bytes(
    cut: Callable[[int], Pruned],
    size: Callable[[nn.Module], int],
    model: nn.Module,
    asked: int,
    before: Pruned | None = None,
) -> Pruned:
    """The network whose file is the largest below `asked` bytes that TRIES cuts come to.

    Args:
        cut: prunes to so many bytes of values (`prune(bytes=…)`).
        size: of a network's file, in bytes.
        before: what `model` comes from: bypassed blocks, or earlier cuts.

    Raises:
        PruningError: the file of the dense network is that small already, or no network's is.
    """
    dense = size(model)
    if dense <= asked and before:
        why = None if dense >= LEAST * asked else "without the bypassed blocks it is smaller than that"
        return replace(before, budget=Reached("bytes", asked, dense, why))
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
