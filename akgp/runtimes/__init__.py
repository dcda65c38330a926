"""The programs that run a deployed network, by name.

To add one, write a module here with a class of the protocol `Runtime`, and add it to RUNTIMES.
"""

from __future__ import annotations

from pathlib import Path

from akgp.runtimes.executorch import ExecuTorch
from akgp.runtimes.litert import LiteRt, TfliteMicro
from akgp.runtimes.onnxruntime import OnnxRuntime
from akgp.runtimes.openvino import OpenVino
from akgp.runtimes.protocol import GraphError, LoadedNetwork, Runtime, installed, require_installed

RUNTIMES: dict[str, Runtime] = {
    each.name: each for each in (OnnxRuntime(), OpenVino(), ExecuTorch(), LiteRt(), TfliteMicro())
}

__all__ = [
    "RUNTIMES",
    "GraphError",
    "LoadedNetwork",
    "Runtime",
    "installed",
    "measured_in",
    "require_installed",
    "runtime_for",
]


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
