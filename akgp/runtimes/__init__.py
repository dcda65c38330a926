"""The programs that run a deployed network, by name.

To add one, write a module here with a class of the protocol `Runtime`, and add it to RUNTIMES.
"""

from __future__ import annotations

from pathlib import Path

from akgp.runtimes.onnxruntime import OnnxRuntime
from akgp.runtimes.protocol import GraphError, LoadedNetwork, Runtime

RUNTIMES: dict[str, Runtime] = {"onnxruntime": OnnxRuntime()}

__all__ = ["RUNTIMES", "GraphError", "LoadedNetwork", "Runtime", "measured_in", "runtime_for"]


def runtime_for(path: str | Path) -> Runtime:
    """The default runtime of a file: the first of RUNTIMES that loads its kind.

    Raises:
        GraphError: no runtime loads it.
    """
    for runtime in RUNTIMES.values():
        if Path(path).suffix in runtime.suffixes:
            return runtime
    known = ", ".join(suffix for runtime in RUNTIMES.values() for suffix in runtime.suffixes)
    raise GraphError(f"{path}: no runtime loads files of this kind, must be one of {known}")


def measured_in(runtime: Runtime, threads: int) -> str:
    """The runtime of a latency, as metrics.json names it."""
    return f"{runtime.name}, CPU, {threads} thread(s)"
