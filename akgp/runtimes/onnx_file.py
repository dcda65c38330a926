"""Reads an ONNX file that a user named."""

from __future__ import annotations

from pathlib import Path

import onnx

from akgp.io.errors import message_or_type
from akgp.runtimes.protocol import GraphError


def read_onnx(file: Path) -> onnx.ModelProto:
    """The model in a file.

    Raises:
        GraphError: it is no ONNX file, or a damaged one; OSError: it cannot be read.
    """
    try:
        return onnx.load(str(file))
    except OSError:
        raise
    except Exception as error:  # protobuf's
        raise GraphError(f"{file}: cannot be read as ONNX: {message_or_type(error)}") from error


def one_input(file: Path) -> tuple[int, ...]:
    """The sizes of the only input of an ONNX file, without the batch's.

    Raises:
        GraphError: as `read_onnx`, or it has several inputs or one whose size is left open.
    """
    shapes = {
        given.name: tuple(dim.dim_value for dim in given.type.tensor_type.shape.dim[1:])
        for given in read_onnx(file).graph.input
    }
    if len(shapes) != 1 or not all(all(shape) and shape for shape in shapes.values()):
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise GraphError(
            f"{file}: must have one input of a fixed size beside the batch, got {listed or 'none'} (0: open)"
        )
    (shape,) = shapes.values()
    return shape
