"""Operations that move channels: which goes where; a channel shuffle, which is three of them, as one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from akgp.quantization.qdq import attributes, reference, selected_channels, sizes_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MOVES = frozenset({"Gather", "Pad", "Slice", "Split"})
CHAINS = (["Reshape", "Transpose", "Reshape"], ["Transpose", "GatherND", "Transpose"])
"""A channel shuffle, and `x[:, [2, 0, 1]]` as it is exported."""
LENGTH = 3
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Held:
    """A tensor that is not written: channel c is channel index[c] of another, or fill[c] where that is -1.

    total: channels of the tensor `name`.
    """

    name: str
    index: Index
    total: int
    fill: NDArray[np.float32]

    @classmethod
    def of(cls, name: str, total: int) -> Held:
        """A tensor itself."""
        return cls(name, np.arange(total), total, np.zeros(total, np.float32))

    @property
    def used(self) -> Index:
        """The channels of the other tensor that it has, each once, in their order."""
        return np.unique(self.index[self.index >= 0])

    @property
    def is_same(self) -> bool:
        return np.array_equal(self.index, np.arange(self.total))


def gather_shuffled_channels(model: ModelProto) -> None:
    """Replace, in place, three operations that select or reorder channels by one Gather of them.

    By a reshape, a transpose and a reshape ShuffleNet (Zhang et al. 2018) mixes its groups. Values are moved
    once, and every format has a form for it.
    """
    from onnx import helper, numpy_helper

    body = model.graph
    sizes = sizes_of(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in body.initializer}
    uses = Counter(name for node in body.node for name in node.input)
    uses.update(each.name for each in body.output)
    nodes: list[NodeProto] = []
    for node in body.node:
        nodes.append(node)
        last = nodes[-LENGTH:]
        if not _is_chain(last, uses):
            continue
        index = _index(last, sizes.get(last[0].input[0], []), constants)
        if index is not None:
            name = f"{node.output[0]}_channels"
            body.initializer.append(numpy_helper.from_array(index, name))
            inputs = [last[0].input[0], name]
            nodes[-LENGTH:] = [helper.make_node("Gather", inputs, node.output, node.name, axis=1)]
    body.ClearField("node")
    body.node.extend(nodes)


def _is_chain(nodes: list[NodeProto], uses: Counter[str]) -> bool:
    """Whether they are one of CHAINS, and each alone takes what the one before it gives."""
    kinds = [node.op_type for node in nodes]
    return kinds in CHAINS and all(
        node.input[0] == before.output[0] and uses[before.output[0]] == 1 for before, node in pairwise(nodes)
    )


def _index(nodes: list[NodeProto], size: list[int], constants: dict[str, NDArray[Any]]) -> Index | None:
    """The channel that each channel of their result is; None if they do anything else."""
    if len(size) < 2 or not all(size[1:]):
        return None
    if not all(name in constants for node in nodes for name in node.input[1:]):
        return None
    shapes = [constants[node.input[1]] for node in nodes if node.op_type == "Reshape"]
    if any(np.prod(shape[1:]) != np.prod(size[1:]) for shape in shapes):
        return None  # it takes images apart, or several together

    def move(values: NDArray[np.int64]) -> NDArray[np.int64]:
        for node in nodes:
            (values,) = reference(node, (values, *(constants[name] for name in node.input[1:])))
        return values

    return selected_channels(tuple(size[1:]), move)


def channel_indices(
    node: NodeProto, shape: tuple[int, ...], others: list[NDArray[Any] | None]
) -> list[Index] | None:
    """Which channels each result of a node of MOVES has, as `selected_channels`; None if it has others.

    Args:
        shape: of its first input, (C, ...).
        others: its other inputs.
    """
    if not _is_along_channels(node, others, 1 + len(shape)):
        return None
    if node.op_type == "Pad":
        mode = attributes(node).get("mode", b"constant")
        if mode != b"constant" or any(each is not None and each.any() for each in others[1:2]):
            return None
        zero = np.zeros((), np.int64)  # of the positions' type
        others = [others[0], *(None if each is None else zero for each in others[1:2]), *others[2:]]
    indices = []
    for place in range(len(node.output)):
        index = selected_channels(shape, partial(_result, node, others, place))
        if index is None:
            return None
        indices.append(index)
    return indices


def _is_along_channels(node: NodeProto, others: list[NDArray[Any] | None], rank: int) -> bool:
    """Whether it moves along the second axis; a Pad may do so along others too."""
    if node.op_type == "Pad":
        return True
    if node.op_type == "Slice":
        axes = others[2] if len(others) > 2 else None
        return axes is not None and bool((axes % rank == 1).all())
    return bool(attributes(node).get("axis", 0) % rank == 1)


def _result(
    node: NodeProto, others: list[NDArray[Any] | None], place: int, values: NDArray[np.int64]
) -> NDArray[np.int64]:
    return reference(node, (values, *others))[place]
