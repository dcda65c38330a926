"""OpenVINO on the CPU: an IR (model.xml and model.bin beside it) or an ONNX graph."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from akgp.io.errors import message_or_type
from akgp.runtimes.protocol import GraphError, loading


class OpenVino:
    """The runtime OpenVINO; see the protocol `Runtime`."""

    name = "openvino"
    suffixes = (".xml", ".onnx")
    module = "openvino"
    extra = "openvino"
    computes_in_caller = False

    @property
    def version(self) -> str:
        return version("openvino")

    def load(self, path: Path, threads: int) -> OpenVinoNetwork:
        return OpenVinoNetwork(path, threads)


class OpenVinoNetwork:
    """One input [N, channels, H, W]; the first output is [N, classes].

    It is compiled for each N that it is given: with N left open OpenVINO can take four times as long.
    """

    largest_batch = None

    def __init__(self, path: Path, threads: int) -> None:
        self._failed = f"{path}: openvino cannot run it"
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Its default is bfloat16 where the processor has it: float networks would be none.
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,  # the caller decides on which core it runs
        }
        self._compiled: dict[int, Any] = {}
        with loading(path, OpenVino()):
            import openvino

            self._core = openvino.Core()
            self._network = self._core.read_model(str(path))
            given = list(self._network.inputs[0].partial_shape)
            self._outputs = len(self._network.outputs)
            self.image_shape = tuple(dim.get_length() for dim in given[1:])
            self._for_batch(1)

    def _for_batch(self, size: int) -> Any:
        if size not in self._compiled:
            self._network.reshape([size, *self.image_shape])
            compiled = self._core.compile_model(self._network, "CPU", self._settings)
            self._compiled[size] = compiled.create_infer_request()
        return self._compiled[size]

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.outputs(inputs)[0]

    def outputs(self, inputs: NDArray[np.float32]) -> list[NDArray[Any]]:
        if inputs.shape[1:] != self.image_shape:  # openvino would run all the same
            raise GraphError(
                f"{self._failed}: takes images {list(self.image_shape)}, got {list(inputs.shape[1:])}"
            )
        try:
            request = self._for_batch(len(inputs))
            # Tensor by tensor: dicts of arrays take its Python 0.07 ms, half of what a small network takes.
            request.get_input_tensor(0).data[:] = inputs
            request.infer(share_outputs=True)
            return [request.get_output_tensor(index).data.copy() for index in range(self._outputs)]
        except Exception as error:
            raise GraphError(f"{self._failed}: {message_or_type(error)}") from error

    def close(self) -> None:
        del self._compiled
