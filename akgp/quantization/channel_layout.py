"""Takes moves of channels out of a float graph: layers read their inputs where they lie.

A channel shuffle, a split, the zeros that pruning leaves in the place of removed channels
(`akgp.models.layout`) only say which channel is where. Followed through the graph, they end as the order of a
layer's weights, and what was zero as a part of its bias: nothing is moved, nor computed for what is the same
everywhere. Only what reads some of a tensor's channels gathers these.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from akgp.quantization.channel_moves import MOVES, Held, Index, channel_indices
from akgp.quantization.qdq import attributes, bias_name, has_rows, reference, sizes_of, write_initializer

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

POOLS = ("AveragePool", "GlobalAveragePool", "MaxPool")
FLATTENING = ("Flatten", "Reshape", "Squeeze")
PASSING = frozenset(
    {"Abs", "AveragePool", "Elu", "Erf", "Gelu", "GlobalAveragePool", "HardSwish", "LeakyRelu", "MaxPool"}
    | {"Clip", "HardSigmoid", "Mish", "Neg", "Relu", "Sigmoid", "Softsign", "Tanh"}
)
"""Operations on each channel for itself, which leave one of a single value so."""


def read_channels_in_place(model: ModelProto) -> None:
    """Rewrite a float graph, in place, so that moves of channels are in the weights of layers."""
    layout = _Layout(model)
    for node in model.graph.node:
        layout.visit(node)
    for each in model.graph.output:
        layout.write_output(each.name)
    model.graph.ClearField("value_info")  # weights have other sizes now
    model.graph.ClearField("node")
    model.graph.node.extend(layout.nodes)


class _Layout:
    """The nodes so far, and which tensors are held by others."""

    def __init__(self, model: ModelProto) -> None:
        from onnx import numpy_helper

        self.initializers = model.graph.initializer
        self.constants = {each.name: numpy_helper.to_array(each) for each in self.initializers}
        self.sizes = sizes_of(model)
        self.nodes: list[NodeProto] = []
        self.held: dict[str, Held] = {}
        self.uses = Counter(name for node in model.graph.node for name in node.input)
        self.gathered: dict[tuple[str, bytes], str] = {}

    def visit(self, node: NodeProto) -> None:
        """Take a node over, or what it does into `held`."""
        if node.op_type in MOVES and self._moved(node):
            return
        if not any(name in self.held for name in node.input):
            self.nodes.append(node)
        elif self._passes(node):
            self._pass(node)
        elif node.op_type == "BatchNormalization" and self._is_whole(node.input[0]):
            self._normalize(node)
        elif self._is_flattening(node):
            self._flatten(node)
        elif self._is_layer(node):
            self._read(node)
        elif node.op_type == "Concat" and attributes(node)["axis"] == 1:
            self._concatenate(node)
        else:
            node.input[:] = [self.write(name) for name in node.input]
            self.nodes.append(node)

    def _holding(self, name: str) -> Held | None:
        """How a tensor is held, if need be by itself; None if its channels are not known."""
        size = self.sizes.get(name, [])
        if name in self.held or len(size) < 2 or not size[1]:
            return self.held.get(name)
        return Held.of(name, size[1])

    def _is_whole(self, name: str) -> bool:
        """Whether a tensor has each channel of the one that holds it once."""
        held = self.held.get(name)
        return held is not None and len(held.used) == held.total == (held.index >= 0).sum()

    def _moved(self, node: NodeProto) -> bool:
        """Whether a node only moves whole channels; its results are held then."""
        size, before = self.sizes.get(node.input[0], []), self._holding(node.input[0])
        others = [self.constants.get(name) if name else None for name in node.input[1:]]
        known = all(each is not None for name, each in zip(node.input[1:], others, strict=True) if name)
        # The second axis of three is tokens, mostly.
        if before is None or not known or len(size) == 3 or not all(size[1:]):
            return False
        indices = channel_indices(node, tuple(size[1:]), others)
        if indices is None:
            return False
        for name, index in zip(node.output, indices, strict=True):
            moved, fill = np.append(before.index, -1)[index], np.append(before.fill, 0)[index]
            self.held[name] = replace(before, index=moved, fill=fill.astype(np.float32))  # -1 stays -1
        return True

    def _passes(self, node: NodeProto) -> bool:
        """Whether it can be computed on the tensor that holds its input."""
        held = self.held.get(node.input[0])
        if held is None or node.op_type not in PASSING or len(held.used) < held.total or len(node.output) > 1:
            return False
        known = all(name in self.constants for name in node.input[1:] if name)
        return known and not (node.op_type == "AveragePool" and _meets_zeros(node, held))

    def _pass(self, node: NodeProto) -> None:
        """Compute an operation on the tensor that holds its input; its result is held alike."""
        before = self.held[node.input[0]]
        others = (self.constants[name] if name else None for name in node.input[1:])
        fill = before.fill
        if node.op_type not in POOLS:
            fill = np.where(before.index < 0, reference(node, (fill, *others))[0], 0)
        self._hold(node, before, fill)

    def _hold(self, node: NodeProto, before: Held, fill: NDArray[Any]) -> None:
        """Write a node, which gives each channel of the tensor that holds its input."""
        node.input[0] = before.name
        if not before.is_same:
            stored = f"{node.output[0]}_stored"
            self.held[node.output[0]] = replace(before, name=stored, fill=fill.astype(np.float32))
            node.output[0] = stored
        self.nodes.append(node)

    def _normalize(self, node: NodeProto) -> None:
        before = self.held[node.input[0]]
        scale, shift, mean, variance = (self.constants[name] for name in node.input[1:])
        factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
        fill = np.where(before.index < 0, factor * (before.fill - mean) + shift, 0)
        channels = np.argsort(before.index)[-before.total :]  # by the place where each is stored
        names = [f"{node.output[0]}_{part}" for part in ("scale", "shift", "mean", "variance")]
        for name, values in zip(names, (scale, shift, mean, variance), strict=True):
            self._write_constant(name, values[channels])
        node.input[1:] = names
        self._hold(node, before, fill)

    def _is_flattening(self, node: NodeProto) -> bool:
        """Whether it makes features [N, C] of a held map of one pixel."""
        before, after = (self.sizes.get(name, []) for name in (node.input[0], node.output[0]))
        single = len(before) > 2 and set(before[2:]) == {1} and after[1:] == before[1:2]
        return node.input[0] in self.held and node.op_type in FLATTENING and single

    def _flatten(self, node: NodeProto) -> None:
        from onnx import helper

        before = self.held[node.input[0]]
        flat = helper.make_node("Flatten", node.input[:1], node.output, node.name, axis=1)
        self._hold(flat, before, before.fill)

    def _is_layer(self, node: NodeProto) -> bool:
        """Whether its weights can say which channels of a held tensor it reads."""
        given = attributes(node)
        kind = node.op_type == "Conv" and given.get("group", 1) == 1
        kind |= node.op_type == "Gemm" and not given.get("transA")
        held = self.held.get(node.input[0])
        own = all(name in self.constants and self.uses[name] == 1 for name in node.input[1:] if name)
        if not kind or not own or held is None or not len(held.used):
            return False
        return not _meets_zeros(node, held)

    def _read(self, node: NodeProto) -> None:
        """Let a layer read the tensor that holds its input, or those channels of it that it uses."""
        before = self._compact(self.held[node.input[0]])
        axis = 1 if has_rows(node) else 0
        weight = np.moveaxis(self.constants[node.input[1]], axis, 0)  # [I, O, ...]
        columns = np.zeros((before.total, *weight.shape[1:]), weight.dtype)
        kept = before.index >= 0
        np.add.at(columns, before.index[kept], weight[kept])
        self._write_constant(node.input[1], np.moveaxis(columns, 0, axis))
        if before.fill.any():
            taps = weight.astype(np.float64).sum(tuple(range(2, weight.ndim)))  # [I, O]
            self._add_to_bias(node, before.fill.astype(np.float64) @ taps)
        node.input[0] = before.name
        self.nodes.append(node)

    def _add_to_bias(self, node: NodeProto, values: NDArray[np.float64]) -> None:
        name = bias_name(node)
        self._write_constant(name, (self.constants.get(name, 0) + values).astype(np.float32))

    def _concatenate(self, node: NodeProto) -> None:
        """Concatenate what holds the parts."""
        parts = [self._holding(name) for name in node.input]
        if any(part is None for part in parts):
            node.input[:] = [self.write(name) for name in node.input]
            self.nodes.append(node)
            return
        compact = [self._compact(part) for part in parts if part is not None]
        starts = np.cumsum([0, *(part.total for part in compact)])
        pairs = zip(compact, starts[:-1], strict=True)
        moved = [np.where(part.index < 0, -1, part.index + start) for part, start in pairs]
        fill = np.concatenate([part.fill for part in compact])
        joined = Held(node.output[0], np.concatenate(moved), int(starts[-1]), fill)
        node.input[:] = [part.name for part in compact]
        if not joined.is_same:
            node.output[0] = f"{joined.name}_stored"
            self.held[joined.name] = replace(joined, name=node.output[0])
        self.nodes.append(node)

    def _compact(self, held: Held) -> Held:
        """The same channels of a tensor of which all are used: those that are, gathered, if need be."""
        used = held.used
        if len(used) == held.total or not len(used):
            return held
        name = self._gathered(held.name, used, f"{held.name}_gathered_{len(self.gathered)}")
        index = np.where(held.index < 0, -1, np.searchsorted(used, held.index))
        return Held(name, index, len(used), held.fill)

    def _gathered(self, name: str, index: Index, result: str) -> str:
        """The tensor of these channels; made once."""
        from onnx import helper

        key = (name, index.tobytes())
        if key not in self.gathered:
            inputs = [name, self._write_constant(f"{result}_channels", index)]
            self.nodes.append(helper.make_node("Gather", inputs, [result], result, axis=1))
            self.gathered[key] = result
        return self.gathered[key]

    def write(self, name: str) -> str:
        """Make a held tensor; the name of one that is the same."""
        from onnx import helper

        held = self.held.get(name)
        if held is None:
            return name
        if held.is_same:
            return held.name
        if (held.index >= 0).all():
            return self._gathered(held.name, held.index, name)
        del self.held[name]
        sides = len(self.sizes[name]) - 2
        if not held.fill.any():
            self._write_with_zeros(held, name, sides)
            return name
        self._write_with_zeros(held, f"{name}_zeros", sides)
        fill = self._write_constant(f"{name}_fill", held.fill.reshape(-1, *[1] * sides))
        self.nodes.append(helper.make_node("Add", [f"{name}_zeros", fill], [name], name))
        return name

    def _write_with_zeros(self, held: Held, name: str, sides: int) -> None:
        """Zeros in front and behind; or one in front, from which all that are needed are taken."""
        from onnx import helper

        places = np.flatnonzero(held.index >= 0)
        inner = held.index[places[0] : places[-1] + 1] if len(places) else places
        whole = np.array_equal(inner, np.arange(held.total))
        begin, end = (places[0], len(held.index) - 1 - places[-1]) if whole else (1, 0)
        amounts = np.array([0, begin, *[0] * sides, 0, end, *[0] * sides])
        padded = name if whole else f"{name}_padded"
        pads = self._write_constant(f"{name}_pads", amounts)
        self.nodes.append(helper.make_node("Pad", [held.name, pads], [padded], padded))
        if not whole:
            self._gathered(padded, held.index + 1, name)

    def write_output(self, name: str) -> None:
        """Make a result of the graph under its own name."""
        from onnx import helper

        if name in self.held and (made := self.write(name)) != name:
            self.nodes.append(helper.make_node("Identity", [made], [name], name))

    def _write_constant(self, name: str, values: NDArray[Any]) -> str:
        self.constants[name] = write_initializer(self.initializers, name, values)
        return name


def _meets_zeros(node: NodeProto, held: Held) -> bool:
    """Whether beyond the border are zeros, where a channel of one value has another."""
    return bool(held.fill.any() and any(attributes(node).get("pads", ())))
