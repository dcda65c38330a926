"""onnxruntime on the CPU: its one way of being started here, and the graph it makes of a file.

Graphs are written by akgp.quantization; timing and accuracy are measured in akgp.evaluation.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnxruntime


class GraphError(ValueError):
    """onnxruntime cannot load, run or quantize a file."""


def session(path: str | Path | bytes, *, threads: int) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU; `threads` workers that sleep while they wait, 0: one a core.

    Args:
        path: a file, or its content.

    Raises:
        GraphError: onnxruntime cannot load the file.
    """
    return _session(path, _options(threads))


def optimized(path: str | Path) -> onnx.ModelProto:
    """The graph after onnxruntime's own optimisation on this processor, fusions included.

    Raises:
        GraphError: onnxruntime cannot load the file.
    """
    import onnx

    options = _options(threads=1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(file)
        _session(path, options)
        return onnx.load(str(file))


def _options(threads: int) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    return options


def _session(path: str | Path | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    import onnxruntime

    model = path if isinstance(path, bytes) else str(path)
    with guarded(f"{'the graph' if isinstance(path, bytes) else path}: onnxruntime cannot load it"):
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def guarded(what: str) -> Iterator[None]:
    """Whatever onnxruntime or its quantizer raise in this block as a GraphError: `what`, and why in one line.

    Its kinds of errors have no base of their own, and its quantizer raises Python's.
    """
    try:
        yield
    except Exception as error:
        raise GraphError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error
