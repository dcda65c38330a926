"""ExecuTorch's runtime on the CPU, with its XNNPACK backend."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from akgp.io.errors import message_or_type
from akgp.runtimes.protocol import GraphError, loading


class ExecuTorch:
    """The runtime ExecuTorch; see the protocol `Runtime`."""

    name = "executorch"
    suffixes = (".pte",)
    module = "executorch"
    extra = "executorch"
    computes_in_caller = False  # but in XNNPACK's pool of threads

    @property
    def version(self) -> str:
        return version("executorch")

    def load(self, path: Path, threads: int) -> ExecuTorchNetwork:
        return ExecuTorchNetwork(path, threads)


class ExecuTorchNetwork:
    """A program whose `forward` takes one image [1, channels, H, W]; its first output is [1, classes]."""

    largest_batch = 1  # of a program without dynamic shapes, which took at most 15 images

    def __init__(self, path: Path, threads: int) -> None:
        self._failed = f"{path}: executorch cannot run it"
        with loading(path, ExecuTorch()):
            import torch
            from executorch.extension.pybindings import portable_lib

            # One pool for the whole process: the last network that is loaded decides.
            portable_lib._unsafe_reset_threadpool(threads or os.cpu_count() or 1)
            # By its path: a program loaded from bytes reads them as long as it lives.
            self._tensor = torch.from_numpy
            self._program: Any = portable_lib._load_for_executorch(str(path))
            given = self._program.method_meta("forward").input_tensor_meta(0)
            self.image_shape = tuple(given.sizes()[1:])

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.outputs(inputs)[0]

    def outputs(self, inputs: NDArray[np.float32]) -> list[NDArray[Any]]:
        try:
            results = self._program.forward([self._tensor(inputs)])
        except Exception as error:
            raise GraphError(f"{self._failed}: {message_or_type(error)}") from error
        return [result.numpy().copy() for result in results]

    def close(self) -> None:
        del self._program
