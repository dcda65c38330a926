"""Lays out activations in one block of memory: those that are never needed at the same time share bytes.

A layer writes over one of its inputs where it reads each element before it writes the one in its place, if
nothing needs the input later. Blocks are placed largest first, each at the lowest offset that is free as long
as it lives.
"""

from __future__ import annotations

from dataclasses import dataclass

from akgp.microcontroller.layers import Layer
from akgp.quantization import operations as ops

ALIGNMENT = 4  # bytes


@dataclass(frozen=True)
class Block:
    """Bytes that live from layer `first` to layer `last`, both included. The image is before layer 0: −1."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """Offsets in bytes.

    Attributes:
        size: of the whole.
        activations: by name.
        scratch: by the index of the layer, of those that need some.
        live: bytes in use while each layer runs.
    """

    size: int
    activations: dict[str, int]
    scratch: dict[int, int]
    live: list[int]


def arena(layers: list[Layer], sizes: dict[str, int], scratch: dict[int, int], logits: str) -> Arena:
    """Place activations and scratch memory.

    Args:
        sizes: elements of each activation, by name; the image's is the first.
        scratch: bytes that a layer needs for itself, by its index.
    """
    last = {name: index for index, layer in enumerate(layers) for name in layer.inputs}
    last[logits] = len(layers)
    storage = {name: name for name in sizes}  # an activation → the one whose bytes it takes over
    image, *_ = sizes
    blocks = {image: Block(sizes[image], -1, last[image])}
    for index, layer in enumerate(layers):
        name = layer.output.name
        over = _overwritten(layer, index, last, sizes)
        storage[name] = storage[over] if over else name
        first = blocks[storage[name]].first if over else index
        blocks[storage[name]] = Block(sizes[name], first, last.get(name, index))
    private = {f"scratch {index}": Block(size, index, index) for index, size in scratch.items()}
    offsets = _placed(blocks | private)
    every = blocks | private
    return Arena(
        max(offsets[name] + block.size for name, block in every.items()),
        {name: offsets[storage[name]] for name in sizes},
        {index: offsets[f"scratch {index}"] for index in scratch},
        [
            sum(block.size for block in every.values() if block.first <= index <= block.last)
            for index in range(len(layers))
        ],
    )


def _overwritten(layer: Layer, index: int, last: dict[str, int], sizes: dict[str, int]) -> str | None:
    """The input whose place the output may take."""
    if layer.add:
        candidates = layer.inputs[1:] if layer.inputs[1] != layer.inputs[0] else ()
    elif isinstance(layer.operation, ops.Add | ops.Table):
        candidates = layer.inputs
    elif isinstance(layer.operation, ops.Mul):
        candidates = layer.inputs[:1]
    else:
        candidates = ()
    for name in candidates:
        if last[name] == index and sizes[name] == sizes[layer.output.name]:
            return name
    return None


def _placed(blocks: dict[str, Block]) -> dict[str, int]:
    offsets: dict[str, int] = {}
    for name in sorted(blocks, key=lambda each: (-blocks[each].size, blocks[each].first, each)):
        block, offset = blocks[name], 0
        beside = sorted(
            (offsets[other], blocks[other].size)
            for other in offsets
            if blocks[other].first <= block.last and block.first <= blocks[other].last
        )
        for start, size in beside:
            if offset + block.size <= start:
                break
            offset = max(offset, -(-(start + size) // ALIGNMENT) * ALIGNMENT)
        offsets[name] = offset
    return offsets
