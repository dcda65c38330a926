"""The programs that run a deployed network, by their names.

A further one is a module here with a class of the protocol `Runtime`, and its line in RUNTIMES.
"""

from __future__ import annotations

from pathlib import Path

from akgp.runtimes.onnxruntime import OnnxRuntime
from akgp.runtimes.protocol import GraphError, LoadedNetwork, Runtime

RUNTIMES: dict[str, Runtime] = {"onnxruntime": OnnxRuntime()}

__all__ = ["RUNTIMES", "GraphError", "LoadedNetwork", "Runtime", "measured_in", "runtime_for"]


def runtime_for(path: str | Path) -> Runtime:
    """The runtime that a file is run by where none is named: the first of RUNTIMES that loads its kind.

    Raises:
        GraphError: there is none.
    """
    for runtime in RUNTIMES.values():
        if Path(path).suffix in runtime.suffixes:
            return runtime
    known = ", ".join(suffix for runtime in RUNTIMES.values() for suffix in runtime.suffixes)
    raise GraphError(f"{path}: no runtime loads files of this kind, must be one of {known}")


def measured_in(runtime: Runtime, threads: int) -> str:
    """What a latency was measured in, as metrics.json says it."""
    return f"{runtime.name}, CPU, {threads} thread(s)"
