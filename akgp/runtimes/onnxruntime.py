"""onnxruntime on the CPU, with the session options that are used everywhere in akgp.

Graphs are written, and their optimised form is inspected, by akgp.quantization.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from akgp.io.errors import message_or_type
from akgp.runtimes.protocol import GraphError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions


class OnnxRuntime:
    """The runtime onnxruntime; see the protocol `Runtime`."""

    name = module = "onnxruntime"
    extra = None
    suffixes = (".onnx",)
    computes_in_caller = True  # with one thread it starts no pool

    @property
    def version(self) -> str:
        return version("onnxruntime")

    def load(self, path: Path, threads: int) -> OnnxNetwork:
        return OnnxNetwork(path, threads)


class OnnxNetwork:
    """An ONNX graph with one input [N, channels, H, W], whose first output is [N, classes]."""

    def __init__(self, path: Path, threads: int) -> None:
        self._failed = f"{path}: onnxruntime cannot run it"
        self._session = session(path, threads=threads)
        given = self._session.get_inputs()[0]
        self._input, self.image_shape = given.name, tuple(given.shape[1:])
        self.largest_batch = given.shape[0] if isinstance(given.shape[0], int) else None

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.outputs(inputs)[0]

    def outputs(self, inputs: NDArray[np.float32]) -> list[NDArray[Any]]:
        try:
            every: list[NDArray[Any]] = self._session.run(None, {self._input: inputs})
        except Exception as error:  # see `guarded`, whose context would be timed with it
            raise GraphError(f"{self._failed}: {message_or_type(error)}") from error
        return every

    def close(self) -> None:
        del self._session


def session(path: str | Path | bytes, *, threads: int) -> InferenceSession:
    """An onnxruntime session on the CPU; `threads` workers that sleep while they wait, 0: one a core.

    Args:
        path: a file, or its content.

    Raises:
        GraphError: onnxruntime cannot load the file.
    """
    return session_with(path, session_options(threads))


def session_options(threads: int) -> SessionOptions:
    """The options of every session in akgp."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads take cores from each other's work, and from other processes that are timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    return options


def session_with(path: str | Path | bytes, options: SessionOptions) -> InferenceSession:
    """`session` with the caller's options."""
    import onnxruntime

    model = path if isinstance(path, bytes) else str(path)
    with guarded(f"{'the graph' if isinstance(path, bytes) else path}: onnxruntime cannot load it"):
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def guarded(what: str) -> Iterator[None]:
    """Raise errors of onnxruntime or its quantizer in this block as a GraphError: `what` and the reason.

    onnxruntime's errors have no common base class, and its quantizer raises Python's own.
    """
    try:
        yield
    except Exception as error:
        raise GraphError(f"{what}: {message_or_type(error)}") from error
