"""The int8 ONNX file itself, or a twin of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx

from akgp.deployment.targets.int8_file import Int8File, Kind, float_graph, observed_graph


def variant(source: Int8File, kind: Kind) -> onnx.ModelProto:
    """The graph of this kind."""
    if kind == "float":
        return float_graph(source.model)
    return observed_graph(source.model, source.description) if kind == "observed" else source.model


def write(source: Int8File, destination: Path, kind: Kind) -> None:
    if kind == "int8":
        shutil.copyfile(source.path, destination)  # its metadata included
    else:
        onnx.save(variant(source, kind), str(destination))
