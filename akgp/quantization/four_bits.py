"""Which layers have weights of 4 bits, for the download: those that lose least for the bytes that they save.

Their integers take 16 values, by k-means (`weight_sharing`); in memory they stay int8, so that every runtime
computes them as before. Only their entropy falls, and with it what `akgp pack` writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from akgp.params import Download
from akgp.params.device import bytes_of
from akgp.quantization.checking import QuantizationError
from akgp.quantization.trials import Table, Trials
from akgp.quantization.weight_sharing import FOUR_BITS, int8_weights, share_layers, shared

if TYPE_CHECKING:
    from onnx import ModelProto


def with_four_bits(trials: Trials, table: Table, params: Download) -> tuple[Table, dict[str, float]]:
    """The table with int4 layers, and what each layer alone loses by it: rise of KL(float ‖ int8), nats.

    In the order of loss for each byte saved one layer after another takes 16 values: until the download has
    so few bytes; or each if as many images as asked for are still classified as float does.

    Raises:
        QuantizationError: no layers are left, and the download is still larger.
    """
    graph = trials.quantize(table)
    before = trials.divergence(graph)
    weights = {name: each for name, each in int8_weights(graph).items() if name not in trials.named}
    saved = {name: _entropy(each) - _entropy(shared(each, FOUR_BITS)) for name, each in weights.items()}
    losses = {name: trials.divergence(_sharing(graph, name)) - before for name in weights if saved[name] > 0}
    asked = None if params.bytes is None else bytes_of(params.bytes)
    chosen = dict(table)
    for name in sorted(losses, key=lambda name: losses[name] / saved[name]):
        if asked is not None and trials.packed(graph) <= asked:
            break
        tried = _sharing(graph, name)
        if params.agreement is None or trials.agreement(tried) >= params.agreement:
            graph, chosen[name] = tried, "int4"
    if asked is not None and (least := trials.packed(graph)) > asked:
        raise QuantizationError(
            f"quantize.download.bytes: {asked:,} asked, but with all weights in 4 bits the download has "
            f"{least:,}: ask for more, or prune more"
        )
    return chosen, losses


def _sharing(graph: ModelProto, name: str) -> ModelProto:
    """A copy of the graph with 16 values in one more layer; its scales stay, by which 1e-6 is wrong."""
    made = type(graph)()
    made.CopyFrom(graph)
    share_layers(made, [name], FOUR_BITS)
    return made


def _entropy(weights: NDArray[np.int8]) -> float:
    """Bytes of a layer's weights, each coded by its frequency alone."""
    _, counts = np.unique(weights, return_counts=True)
    share = counts / counts.sum()
    return float(-(counts * np.log2(share)).sum() / 8)
