"""OpenVINO's own format: model.xml, and the weights in model.bin beside it.

OpenVINO reads the ONNX file as well, and computes the same from it. Its own format starts faster, but is
larger than the ONNX file of a small network: it describes each operation in XML. It is written for one
image at a time, since a file that leaves the number open can take four times as long; `Model.reshape`
gives it another.
"""

from __future__ import annotations

from pathlib import Path

from akgp.deployment.targets.int8_file import Int8File, Kind
from akgp.deployment.targets.onnx_file import variant


def write(source: Int8File, destination: Path, kind: Kind) -> None:
    import io

    import openvino

    graph = openvino.Core().read_model(io.BytesIO(variant(source, kind).SerializeToString()))
    graph.reshape([1, *list(graph.inputs[0].partial_shape)[1:]])
    # Scales as float16 would round otherwise.
    openvino.save_model(graph, str(destination), compress_to_fp16=False)
