"""Runs a graph on images, batch by batch, for the values of any of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from akgp.runtimes.onnxruntime import session

if TYPE_CHECKING:
    from onnx import ModelProto

BATCH = 16  # images at a time, with the tensors that are asked for

Floats = NDArray[np.float32]


def observed(model: ModelProto, names: Sequence[str], images: Floats) -> Iterator[list[Floats]]:
    """For each batch of images the float tensors `names`; what only later operations need isn't computed."""
    from onnx import TensorProto, helper

    copy = type(model)()
    copy.CopyFrom(model)
    copy.graph.ClearField("output")
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    running = session(copy.SerializeToString(), threads=1)
    given = running.get_inputs()[0].name
    for batch in np.array_split(images, -(-len(images) // BATCH)):
        yield running.run(list(names), {given: batch})


def log_probabilities(model: ModelProto, images: Floats) -> NDArray[np.float64]:
    """log softmax of the logits, [N, classes]."""
    batches = observed(model, [model.graph.output[0].name], images)
    logits = np.concatenate([each for (each,) in batches]).astype(np.float64)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
