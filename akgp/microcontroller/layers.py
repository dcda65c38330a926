"""Turns operations into layers: what one call of a C kernel computes.

Reshapes vanish: elements lie in memory as H, W, C, and a fully connected layer's weights are reordered to
that. An addition to a convolution's result, as in residual blocks, becomes part of the convolution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from akgp.quantization import QuantizationError
from akgp.quantization import operations as ops
from akgp.quantization.description import Description
from akgp.quantization.operations import Activation, Operation


@dataclass(frozen=True)
class Layer:
    """An operation on activations as they lie in memory.

    Attributes:
        inputs: their names; of a fused addition the residual is the last.
        output: the activation that is written.
        add: of a convolution or fully connected layer: the addition to its result.
        add_first: whether that result is its first summand.
    """

    operation: Operation
    inputs: tuple[str, ...]
    output: Activation
    add: ops.Add | None = None
    add_first: bool = True


def layers(network: Description) -> tuple[list[Layer], str]:
    """The layers in order, and the name of the activation that holds the logits.

    Raises:
        QuantizationError: names a reshape after which elements would have to be moved, or the logits are one.
    """
    source: dict[str, str] = {}  # a reshaped activation's name → that of the one in memory
    flattened: dict[str, Activation] = {}  # a vector's name → the feature map that it is
    made: list[Layer] = []
    for operation in network.operations:
        if isinstance(operation, ops.Reshape):
            _follow(operation, source, flattened)
            continue
        names = tuple(source.get(each.name, each.name) for each in _inputs(operation))
        for each in _inputs(operation):
            if each.name in flattened and isinstance(operation, ops.Table):  # of each value by itself
                flattened[operation.output.name] = flattened[each.name]
            elif each.name in flattened and not isinstance(operation, ops.Gemm):
                raise QuantizationError(
                    f"{operation.label}: C cannot be written for it, since its input is a flattened feature "
                    "map; only a fully connected layer can follow one"
                )
        if isinstance(operation, ops.Gemm) and operation.input.name in flattened:
            operation = _reordered(operation, flattened[operation.input.name])
        made.append(Layer(operation, names, operation.output))
    if network.output.name in flattened:
        raise QuantizationError(
            f"{network.output.name}: C cannot be written for logits that are a flattened feature map, here "
            f"of {flattened[network.output.name].pixels} pixels, whose channels lie side by side in memory"
        )
    return list(_fused(made)), source.get(network.output.name, network.output.name)


def _inputs(operation: Operation) -> tuple[Activation, ...]:
    return operation.inputs if hasattr(operation, "inputs") else (operation.input,)


def _follow(reshape: ops.Reshape, source: dict[str, str], flattened: dict[str, Activation]) -> None:
    given, made = reshape.input, reshape.output
    source[made.name] = source.get(given.name, given.name)
    given = flattened.get(given.name, given)
    if made.shape == given.shape or (given.pixels == made.pixels == 1 and given.shape[0] == made.shape[0]):
        return
    if len(made.shape) > 1:
        raise QuantizationError(
            f"{reshape.name}: C cannot be written for a reshape of {list(given.shape)} to {list(made.shape)}"
        )
    flattened[made.name] = given


def _reordered(gemm: ops.Gemm, given: Activation) -> ops.Gemm:
    """With the weights' columns in the order H, W, C."""
    weight_OCP = gemm.weight.reshape(len(gemm.weight), given.shape[0], given.pixels)
    return replace(gemm, weight=np.ascontiguousarray(weight_OCP.swapaxes(1, 2)).reshape(gemm.weight.shape))


def _fused(made: list[Layer]) -> Iterator[Layer]:
    """The layers with each addition in the last of its summands, if that is a convolution's for it alone."""
    users = Counter(name for layer in made for name in layer.inputs)
    position = {layer.output.name: index for index, layer in enumerate(made)}
    sums: dict[str, Layer] = {}  # the summand that takes an addition → the addition
    for layer in made:
        if isinstance(layer.operation, ops.Add) and len(set(layer.inputs)) == 2:
            last = max(layer.inputs, key=lambda name: position.get(name, -1))
            weighted = last in position and isinstance(
                made[position[last]].operation, ops.Convolution | ops.Gemm
            )
            if weighted and users[last] == 1:
                sums[last] = layer
    taken = {id(layer) for layer in sums.values()}
    for layer in made:
        added = sums.get(layer.output.name)
        if added is not None:
            assert isinstance(added.operation, ops.Add)
            (other,) = set(added.inputs) - {layer.output.name}
            first = added.inputs[0] == layer.output.name
            yield Layer(layer.operation, (*layer.inputs, other), added.output, added.operation, first)
        elif id(layer) not in taken:
            yield layer
