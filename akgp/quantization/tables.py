"""Makes functions of one int8 tensor, such as a sigmoid, round alike on every processor.

Runtimes approximate them in float32, each in its own way, before they are rounded to the steps of the output.
If one of the 256 possible values lies next to the middle between two steps, one processor rounds it up and
another down. So the output's scale is enlarged, by less than 2 %, until none of them does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from akgp.quantization.qdq import Qdq, attributes, reference

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

FUNCTIONS = frozenset({
    "Celu", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish",
    "Mish", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh",
})  # fmt: skip
USUAL: Mapping[str, dict[str, Any]] = {
    "Elu": {"alpha": 1.0},
    "Gelu": {"approximate": b"none"},
    "HardSigmoid": {"alpha": float(np.float32(1 / 6)), "beta": 0.5},
}
"""Parameters of functions that runtimes know by name."""
IMPLIED: Mapping[str, dict[str, Any]] = {"HardSigmoid": {"alpha": 0.2}}
"""ONNX's parameters that are left out, where they are others."""
APPROXIMATION = 2.0**-20
"""Largest error of a float32 approximation, as a share of its `magnitudes`; tests require half of it."""
DIVISION = 2.0**-14
"""Largest error of a float32 division by the scale, in steps, for results of up to 256 steps."""
CANDIDATES, FINENESS = 4000, 2.0**-18
"""Number of scales that are tried, and the spacing between them as a share of the original scale."""

Values = NDArray[np.float64]


def function_name(node: NodeProto) -> str:
    """The operation's type; with its parameters where they are not the usual ones."""
    usual = USUAL.get(node.op_type, {})
    own = IMPLIED.get(node.op_type, {}) | attributes(node)
    changed = [f"{key} {value}" for key, value in own.items() if value != usual.get(key)]
    return " ".join([node.op_type, *changed])


def round_alike(model: ModelProto) -> None:
    """Enlarge, in place, the output scales of a QDQ graph's FUNCTIONS until every processor rounds alike.

    A scale stays as it is if no candidate is clear; `is_clear` is False for it.
    """
    graph = Qdq(model)
    for node in graph.nodes:
        inputs = graph.dequantized(node.input[0]) if node.op_type in FUNCTIONS else None
        quantizers = [each for each in graph.nodes if node.output[0] in each.input]
        if inputs is None or [each.op_type for each in quantizers] != ["QuantizeLinear"]:
            continue  # the function or its result stays in floating point
        zero_in = graph.constant(inputs.zero_point) if inputs.zero_point else np.zeros((), np.uint8)
        values = table(node, graph.constant(inputs.scale), zero_in)
        sizes = magnitudes(node, graph.constant(inputs.scale), zero_in)
        (quantizer,) = quantizers
        scale, zero = graph.constant(quantizer.input[1]), graph.constant(quantizer.input[2])
        larger = scale.astype(np.float64) * (1 + FINENESS * np.arange(CANDIDATES))
        clear = (
            each.astype(scale.dtype)
            for each in larger
            if is_clear(values, sizes, each.astype(scale.dtype), zero)
        )
        graph.write(quantizer.input[1], next(clear, scale))


def table(node: NodeProto, scale: NDArray[np.float32], zero: NDArray[Any]) -> Values:
    """The function's value at each of the 256 integers, float64."""
    (values,) = reference(node, (_every(scale, zero),))
    return values


def magnitudes(node: NodeProto, scale: NDArray[np.float32], zero: NDArray[Any]) -> Values:
    """What errors of its float32 approximation are a share of, at each of the 256 integers.

    The value itself, or 1 if it is less; of HardSwish, which is x times a number in [0, 1], |x|.
    """
    if node.op_type == "HardSwish":
        return np.abs(_every(scale, zero))
    return np.maximum(1, np.abs(table(node, scale, zero)))


def _every(scale: NDArray[np.float32], zero: NDArray[Any]) -> Values:
    """What the 256 integers stand for."""
    return ((np.arange(256) - int(zero)).astype(np.float32) * scale).astype(np.float64)


def is_clear(
    values: Values, sizes: Values, scale: NDArray[np.float32] | np.float32, zero: NDArray[Any]
) -> bool:
    """Whether no value lies, within the errors of float32, in the middle between two of the 256 steps.

    Args:
        values, sizes: as `table` and `magnitudes` give them.
    """
    exact = values / float(scale)
    errors = APPROXIMATION * sizes / float(scale) + DIVISION
    inside = (exact + int(zero) > -1) & (exact + int(zero) < 256)  # beyond, all are clipped alike
    distance = np.abs(exact - np.floor(exact) - 0.5)
    return bool((distance > errors)[inside].all())
