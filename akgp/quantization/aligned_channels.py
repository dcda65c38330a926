"""Channels of zeros, for onnxruntime's integer kernels: the same logits sooner.

On x86 its fast kernels take 4 input channels and 16 filters or depthwise channels at a time (onnxruntime
1.32, `MlasConvSymPackWSize`). A depthwise convolution of 72 or 88 channels takes more than twice as long as
one of 80 or 96, one of windows with 8 filters longer than one with 16, and the first one of an RGB image
longer than one of four channels. So such layers are filled up to a multiple of 16, the image to four: filters
of zeros, which all that read them weight by zeros. Integers of the other channels stay as they were, bit for
bit. What has been added is noted in the file, and taken out again for other runtimes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from akgp.quantization.channels import Channels, Terms, channels, is_depthwise, layer_of, weight_shape
from akgp.quantization.checking import QuantizationError
from akgp.quantization.operation_readers import ELEMENTWISE
from akgp.quantization.qdq import Qdq, attributes
from akgp.quantization.resizing import constants_of, resized

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

NOTED = "channels_without_zeros"
"""In the metadata of a file: the channels that its layers, and the image, have without those of zeros."""
ENTERING, FILTERS = 4, 16
"""Multiples that the kernels take: channels of an image, and filters."""
FEWEST = 8
"""Filters of a layer that is filled up: no layer becomes more than twice as large."""
PADDED = "image_and_zeros"
BY_CHANNEL = ELEMENTWISE | {
    "AveragePool", "DequantizeLinear", "GlobalAveragePool", "Identity", "MaxPool", "QuantizeLinear",
}  # fmt: skip
"""Operations that leave every channel to itself."""


def aligned(model: ModelProto) -> ModelProto:
    """An int8 graph with channels of zeros where kernels are faster with them; without any, a copy.

    Channels that are concatenated, flattened, moved or told apart by constants are left alone, and all of a
    network with operations that are not followed, such as channel shuffles, or a layer that is used twice.
    """
    model = unaligned(model)
    graph, (image, count), output = Qdq(model), _image(model), model.graph.output[0].name
    try:
        known = channels(model, {image: count})
    except QuantizationError:
        return model
    if _share_constants(graph):
        return model
    slow = set(_read_slowly(graph, known, image))
    wider = {
        layer: _multiple(known.dense[layer], ENTERING if image in group else FILTERS)
        for group in _groups(graph, known)
        if not slow.isdisjoint(group) and _can_grow(group, graph, known, output)
        for layer in group
    }
    if not wider:
        return model
    made = resized(model, known, wider)
    if image in wider:
        _fill_up_image(made, wider[image] - count)
    _note(made, {name: known.dense[name] for name in wider})
    return made


def unaligned(model: ModelProto) -> ModelProto:
    """The graph without the channels that `aligned` has added."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    noted = next((each for each in made.metadata_props if each.key == NOTED), None)
    if noted is None:
        return made
    made.metadata_props.remove(noted)
    image, count = _image(made)
    before = json.loads(noted.value)
    if image in before:
        (padding,) = (node for node in made.graph.node if list(node.output) == [PADDED])
        (zeros,) = (each for each in made.graph.initializer if each.name == padding.input[1])
        made.graph.node.remove(padding)
        made.graph.initializer.remove(zeros)
        _rename_input(made, PADDED, image)
        count = _multiple(count, ENTERING)
    return resized(made, channels(made, {image: count}), before)


def is_aligned(model: ModelProto) -> bool:
    """Whether `aligned` has added channels to it."""
    return any(each.key == NOTED for each in model.metadata_props)


def _image(model: ModelProto) -> tuple[str, int]:
    """The name of the graph's input, and its channels."""
    (given,) = model.graph.input
    return given.name, given.type.tensor_type.shape.dim[1].dim_value


def _multiple(count: int, step: int) -> int:
    return -(-count // step) * step


def _read_slowly(graph: Qdq, known: Channels, image: str) -> Iterator[str]:
    """The layers, or the image, with whose channels a convolution on integers is slower than with more."""
    for node in graph.weighted():
        source, count = known.terms[node.input[0]], known.count(node.input[0])
        filters, columns = weight_shape(node, graph)
        if is_depthwise(node, columns, count):
            yield from (layer for layer in source if layer != image and count % FILTERS)
        elif node.op_type == "Conv" and filters >= FEWEST and _copies_windows(node):
            if filters < FILTERS:
                yield from known.terms[node.output[0]]
            if source == Terms([image]) and count % ENTERING > 1:
                yield image


def _copies_windows(node: NodeProto) -> bool:
    """Whether its slow kernel first writes out each window's pixels."""
    return any(side > 1 for side in attributes(node).get("kernel_shape", ()))


def _share_constants(graph: Qdq) -> bool:
    """Whether two layers have a constant of several numbers in common, which would have to fit both."""
    layers = (node for node in graph.nodes if layer_of(node, graph))
    names = Counter(name for node in layers for name in constants_of(node, graph))
    return any(count > 1 and graph.constant(name).size > 1 for name, count in names.items())


def _groups(graph: Qdq, known: Channels) -> Iterator[set[str]]:
    """The layers whose filters meet in sums and products, which must have as many."""
    groups = {layer: {layer} for layer in known.dense}
    for node in graph.nodes:
        met = [layer for name in node.input for layer in known.terms.get(name, ())]
        if node.op_type in ELEMENTWISE and met:
            together = set[str]().union(*(groups[layer] for layer in met))
            groups |= dict.fromkeys(together, together)
    yield from {id(group): group for group in groups.values()}.values()


def _can_grow(group: Iterable[str], graph: Qdq, known: Channels, output: str) -> bool:
    """Whether zeros may follow the channels of these layers: all that has them keeps channels apart."""
    alone = [Terms([layer]) for layer in group]
    theirs = {name for name, terms in known.terms.items() if any(layer in terms for layer in group)}
    if output in theirs or any(known.terms[name] not in alone for name in theirs):
        return False
    if len({known.dense[layer] for layer in group}) > 1:  # one is spread over the other's channels
        return False
    at_work = (node for node in graph.nodes if not theirs.isdisjoint([*node.input, *node.output]))
    return all(_keeps_apart(node, graph, known) for node in at_work)


def _keeps_apart(node: NodeProto, graph: Qdq, known: Channels) -> bool:
    if node.op_type == "Conv" and layer_of(node, graph) is not None:
        filters, columns = weight_shape(node, graph)
        before = known.count(node.input[0])
        once = is_depthwise(node, columns, before) and filters == before
        return once or attributes(node).get("group", 1) == 1
    constants = (name for name in node.input if name not in known.terms and name)
    return node.op_type in BY_CHANNEL and all(_is_single(name, graph) for name in constants)


def _is_single(name: str, graph: Qdq) -> bool:
    """Whether a constant is one number, and not one for each channel."""
    behind = graph.dequantized(name)
    name = behind.integers if behind else name
    return name in graph.tensors and graph.constant(name).size == 1


def _fill_up_image(model: ModelProto, zeros: int) -> None:
    """Read the image with channels of zeros behind its own."""
    from onnx import helper, numpy_helper

    image, _ = _image(model)
    pads = np.array([0, 0, 0, 0, 0, zeros, 0, 0], np.int64)  # [N, C, H, W] before, then behind
    _rename_input(model, image, PADDED)
    model.graph.initializer.append(numpy_helper.from_array(pads, f"{PADDED}_widths"))
    model.graph.node.insert(0, helper.make_node("Pad", [image, f"{PADDED}_widths"], [PADDED]))


def _rename_input(model: ModelProto, before: str, after: str) -> None:
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == before:
                node.input[place] = after


def _note(model: ModelProto, before: Mapping[str, int]) -> None:
    noted = model.metadata_props.add()
    noted.key, noted.value = NOTED, json.dumps(before, sort_keys=True)
