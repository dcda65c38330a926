"""What a network needs on a microcontroller, and each layer of it: constants in flash, places in the arena.

No value of a weight matters for the bytes: only widths, shapes and what is needed at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from akgp.microcontroller.arena import Arena, arena
from akgp.microcontroller.calls import Emitted
from akgp.microcontroller.constants import Constants
from akgp.microcontroller.emission import emitted
from akgp.microcontroller.layers import Layer, layers
from akgp.quantization import operations as ops
from akgp.quantization.description import Description


@dataclass(frozen=True)
class LayerCost:
    """What is known of a layer without running it.

    Attributes:
        name: of the network's module; of an operation without weights the node's, after that module.
        flash: bytes of its constants.
        ram: bytes of the arena that are in use while it runs.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    macs: int
    flash: int
    ram: int


@dataclass(frozen=True)
class Plan:
    """Layers, their kernels' calls, and where their activations lie.

    Attributes:
        sizes: bytes of each activation, by name.
        logits: name of the activation that holds them.
    """

    layers: list[Layer]
    calls: list[Emitted]
    costs: tuple[LayerCost, ...]
    arena: Arena
    sizes: dict[str, int]
    logits: str


def plan(network: Description, constants: Constants) -> Plan:
    """Add the declarations of all layers to `constants`, and lay out the arena.

    Raises:
        QuantizationError: names an operation that C cannot be written for.
    """
    made, logits = layers(network)
    sizes = {network.input.name: int(np.prod(network.input.shape))}
    sizes |= {layer.output.name: int(np.prod(layer.output.shape)) for layer in made}
    calls, flash = [], []
    for index, layer in enumerate(made):
        before = constants.flash
        calls.append(emitted(layer, f"layer_{index}", constants))
        flash.append(constants.flash - before)
    scratch = {index: each.scratch for index, each in enumerate(calls) if each.scratch}
    placed = arena(made, sizes, scratch, logits)
    costs = map(_cost, _names(made), made, calls, flash, placed.live)
    return Plan(made, calls, tuple(costs), placed, sizes, logits)


def _names(made: list[Layer]) -> Iterator[str]:
    """What each layer is called: by the network's modules, where the file names its weights after them."""
    before = ""
    for layer in made:
        operation = layer.operation
        if isinstance(operation, ops.Convolution | ops.Gemm):
            before = operation.label
            yield before
        else:
            yield f"{operation.label} after {before}" if before else operation.label


def _cost(name: str, layer: Layer, each: Emitted, flash: int, ram: int) -> LayerCost:
    kind = type(layer.operation).__name__ + (" + Add" if layer.add else "")
    return LayerCost(name, kind, layer.output.shape, each.macs, flash, ram)
