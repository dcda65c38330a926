"""LiteRT (TensorFlow Lite) on the CPU, and its interpreter for microcontrollers, on this machine."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from akgp.io.errors import message_or_type
from akgp.runtimes.protocol import GraphError, loading


class LiteRt:
    """The runtime LiteRT with its XNNPACK delegate; see the protocol `Runtime`."""

    name = "litert"
    suffixes = (".tflite",)
    module = "ai_edge_litert"
    extra = "litert"
    computes_in_caller = True  # with one thread

    @property
    def version(self) -> str:
        return version("ai-edge-litert")

    def load(self, path: Path, threads: int) -> LiteRtNetwork:
        return LiteRtNetwork(path, threads)


class LiteRtNetwork:
    """One input [1, channels, H, W]; the first output is [1, classes]."""

    largest_batch = 1

    def __init__(self, path: Path, threads: int) -> None:
        self._failed = f"{path}: litert cannot run it"
        with loading(path, LiteRt()):
            from ai_edge_litert.interpreter import Interpreter

            self._interpreter: Any = Interpreter(str(path), num_threads=threads or os.cpu_count() or 1)
            self._interpreter.allocate_tensors()
            given = self._interpreter.get_input_details()[0]
            self._input, self.image_shape = given["index"], tuple(map(int, given["shape"][1:]))
            self._outputs = [each["index"] for each in self._interpreter.get_output_details()]

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        self._invoke(inputs)
        logits: NDArray[np.float32] = self._interpreter.get_tensor(self._outputs[0])
        return logits

    def outputs(self, inputs: NDArray[np.float32]) -> list[NDArray[Any]]:
        self._invoke(inputs)
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def _invoke(self, inputs: NDArray[np.float32]) -> None:
        try:
            self._interpreter.set_tensor(self._input, inputs)
            self._interpreter.invoke()
        except Exception as error:
            raise GraphError(f"{self._failed}: {message_or_type(error)}") from error

    def close(self) -> None:
        del self._interpreter


class TfliteMicro:
    """TensorFlow Lite Micro's reference kernels: what a microcontroller computes; see `Runtime`."""

    name = "tflite-micro"
    suffixes = (".tflite",)
    module, extra = "tflite_micro", "litert"
    computes_in_caller = True

    @property
    def version(self) -> str:
        return version("tflite-micro")

    def load(self, path: Path, threads: int) -> TfliteMicroNetwork:
        return TfliteMicroNetwork(path)


class TfliteMicroNetwork:
    """One input [1, channels, H, W]; the first output is [1, classes]. It computes in one thread."""

    largest_batch = 1

    def __init__(self, path: Path) -> None:
        self._failed = f"{path}: tflite-micro cannot run it"
        with loading(path, TfliteMicro()):
            from ai_edge_litert import schema_py_generated as schema
            from tflite_micro import runtime

            content = path.read_bytes()
            self._outputs = schema.Model.GetRootAs(content).Subgraphs(0).OutputsLength()
            self._interpreter: Any = runtime.Interpreter.from_bytes(content)
            self.image_shape = tuple(map(int, self._interpreter.get_input_details(0)["shape"][1:]))

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        self._invoke(inputs)
        logits: NDArray[np.float32] = self._interpreter.get_output(0)
        return logits

    def outputs(self, inputs: NDArray[np.float32]) -> list[NDArray[Any]]:
        self._invoke(inputs)
        return [self._interpreter.get_output(index) for index in range(self._outputs)]

    def _invoke(self, inputs: NDArray[np.float32]) -> None:
        try:
            self._interpreter.set_input(inputs, 0)
            self._interpreter.invoke()
        except Exception as error:
            raise GraphError(f"{self._failed}: {message_or_type(error)}") from error

    def close(self) -> None:
        del self._interpreter
