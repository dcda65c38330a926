"""The protocol of a runtime: it loads a network's file and runs it.

All that measures or uses a deployed network (logits, latency, the release gate, `akgp predict`) does so
through this protocol alone. Writing files for a runtime, such as int8 graphs, is done elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from akgp.io.errors import message_or_type


class GraphError(ValueError):
    """A runtime cannot load or run a file, or a quantizer cannot read it: one line that names the file."""


class LoadedNetwork(Protocol):
    """A network that is ready to run.

    Attributes:
        largest_batch: images that one run takes at most; None: any number.
        image_shape: of the first input, without the batch's size: (channels, H, W). What an ONNX file leaves
            open is a name or None.
    """

    @property
    def largest_batch(self) -> int | None: ...

    @property
    def image_shape(self) -> tuple[Any, ...]: ...

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits [N, classes] of normalised images [N, channels, H, W], N at least 1.

        This call is what is timed: it must do no more than deployed code does for every inference.

        Raises:
            GraphError: the runtime cannot run it, for example because the images are of another size.
        """

    def outputs(self, inputs: NDArray[np.float32]) -> list[NDArray[Any]]:
        """All outputs of the file, the logits first; others are written to compare layers."""

    def close(self) -> None:
        """Free its resources; it is not run again."""


class Runtime(Protocol):
    """A program that runs networks on the CPU.

    Attributes:
        name: the name in RUNTIMES and in reports.
        version: of the installed package.
        module: the Python module of its package.
        extra: of akgp's optional dependencies (pyproject.toml), which install it; None: it is always there.
        suffixes: endings of the files that it loads.
        computes_in_caller: whether with one thread it computes in the thread that calls `run`, whose CPU time
            is then its own; else it is the whole process's.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def module(self) -> str: ...

    @property
    def extra(self) -> str | None: ...

    @property
    def suffixes(self) -> tuple[str, ...]: ...

    @property
    def computes_in_caller(self) -> bool: ...

    def load(self, path: Path, threads: int) -> LoadedNetwork:
        """Read a file, and compile or optimise it if the runtime does so: the cost that is paid once.

        Args:
            threads: workers, which sleep while they wait; 0: one a core.

        Raises:
            GraphError: it is not a file that this runtime can run.
        """


def installed(runtime: Runtime) -> bool:
    """Whether its package is there; nothing is imported."""
    return importlib.util.find_spec(runtime.module) is not None


def require_installed(runtime: Runtime) -> None:
    """Raise GraphError, which says how to install it, unless the runtime's package is there."""
    if not installed(runtime):
        raise GraphError(
            f"{runtime.name} is not installed: pip install -c constraints.txt -e '.[{runtime.extra}]'"
        )


@contextlib.contextmanager
def loading(path: Path, runtime: Runtime) -> Iterator[None]:
    """Raise any error in this block as a GraphError that names file and runtime, or the missing package."""
    require_installed(runtime)
    try:
        yield
    except Exception as error:  # runtimes raise errors of many types
        raise GraphError(f"{path}: {runtime.name} cannot load it: {message_or_type(error)}") from error
