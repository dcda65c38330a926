"""One int8 file, 100 images, one digest: on every processor, whatever its integer instructions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from akgp.quantization.qdq import Qdq, rows
from akgp.quantization.simulator import simulate
from akgp.runtimes.onnxruntime import session
from tests.portable.make import HERE, digest, inputs
from tests.support.saturation import saturating_channels

EXPECTED = (HERE / "digest.txt").read_text().strip()


@pytest.mark.parametrize("batch", [100, 1])
def test_onnxruntimes_logits_have_the_digest(batch: int) -> None:
    """In batches and one by one, for which there are other kernels."""
    running = session(HERE / "model.onnx", threads=1)
    images = inputs(running.get_modelmeta().custom_metadata_map)
    parts = [
        running.run(None, {"input": images[start : start + batch]})[0]
        for start in range(0, len(images), batch)
    ]
    assert len(images) == 100 and digest(np.concatenate(parts)) == EXPECTED


def test_the_simulators_logits_have_the_digest() -> None:
    model = onnx.load(HERE / "model.onnx")
    about = {each.key: each.value for each in model.metadata_props}
    simulated = simulate(model, inputs(about))
    assert not simulated.floating and digest(simulated.logits) == EXPECTED


def test_no_pair_of_its_weights_can_saturate() -> None:
    graph = Qdq(onnx.load(HERE / "model.onnx"))
    assert len(graph.weighted()) == 22
    for node in graph.weighted():
        weight = graph.dequantized(node.input[1])
        assert weight is not None
        assert not len(saturating_channels(rows(node, graph.constant(weight.integers)))), node.name
