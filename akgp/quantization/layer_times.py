"""The time that each layer of a network takes in onnxruntime, by its profiler.

The profiler times the kernels of the optimized graph. Those without weights, such as additions and
rearrangements, count for the layer before them, into which onnxruntime fuses them where it can.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from akgp.quantization.layers import layer_of
from akgp.runtimes.onnxruntime import guarded, session_options, session_with

if TYPE_CHECKING:
    import onnx

IMAGE = "the image's quantization"
"""What comes before the first layer."""
RUNS = 50
WARM_UP = 5
KERNEL = "_kernel_time"
"""The profiler appends it to a node's name."""


def layer_times(path: Path, input_shape: Sequence[int], threads: int = 1) -> dict[str, float]:
    """Milliseconds of each layer for one input, in the order in which they run.

    The profiler itself takes time for each kernel, so that layers can be compared, but their sum exceeds the
    network's latency. Of each kernel it is the mean over the faster half of RUNS, since other processes only
    slow it down.

    Args:
        input_shape: of one inference, (1, channels, H, W).

    Returns:
        By the name of the layer's module, as its parameters are named, or else of the graph's node.

    Raises:
        GraphError: onnxruntime cannot load or run the file.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        session = session_with(path, options)
        given = {session.get_inputs()[0].name: np.zeros(tuple(input_shape), np.float32)}
        with guarded(f"{path}: onnxruntime cannot run it"):
            for _ in range(WARM_UP + RUNS):
                session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        layers = _layers(onnx.load(str(path)), onnx.load(options.optimized_model_filepath))
    kernels = defaultdict[str, list[float]](list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            kernels[event["name"].removesuffix(KERNEL)].append(event["dur"] / 1000)
    times: dict[str, float] = {}
    before = IMAGE
    for kernel, every in kernels.items():
        before = layers.get(kernel, before)
        faster = np.sort(every[WARM_UP:])[: max(1, RUNS // 2)]
        times[before] = times.get(before, 0.0) + float(faster.mean())
    return times


def _layers(graph: onnx.ModelProto, optimized: onnx.ModelProto) -> dict[str, str]:
    """The layer of each node of the optimized graph that has weights."""
    made_by = {name: node for node in graph.graph.node for name in node.output}
    found = {}
    for node in optimized.graph.node:
        name = layer_of(node)
        if not name and node.op_type == "Conv":
            # Weights that the optimizer laid out in another way have lost their names, but the node is called
            # after its output.
            name = _made(node.name.removesuffix("_nchwc"), made_by)
        if name:
            found[node.name] = name
    return found


def _made(tensor: str, made_by: Mapping[str, onnx.NodeProto]) -> str:
    """The layer that a tensor is the result of; the tensor's own name if there is none."""
    node = made_by.get(tensor)
    while node is not None:
        if name := layer_of(node):
            return name
        node = made_by.get(node.input[0]) if node.input else None
    return tensor
