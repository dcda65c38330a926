"""Builds a LiteRT file (a FlatBuffer): tensors with their quantization, and operators on them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSIONS = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "DEQUANTIZE": 2,
    "FULLY_CONNECTED": 4,
    "GATHER": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MUL": 2,
    "PAD": 2,
    "PADV2": 2,
    "TRANSPOSE": 2,
}
"""The first version of each operator that takes int8, where it is not the first of all."""


class TfliteGraph:
    """Tensors are known by their index. A tensor with data is a constant."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.buffers = [schema.BufferT()]  # by convention the first is empty: tensors without data name it
        self.codes: list[str] = []

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        kind: str,
        scale: NDArray[np.float32] | np.float32 | None = None,
        zero: int = 0,
        axis: int = 0,
    ) -> int:
        """A new tensor; kind: INT8, INT32 or FLOAT32; scale: one, or one an element of `axis`."""
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), 0
        tensor.type = getattr(self.schema.TensorType, kind)
        if scale is not None:
            scales = np.atleast_1d(scale)
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale = scales.tolist()
            tensor.quantization.zeroPoint = [zero] * len(scales)
            tensor.quantization.quantizedDimension = axis
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, name: str, data: NDArray[Any], **quantization: Any) -> int:
        """A tensor with these values, of their type."""
        index = self.tensor(name, data.shape, data.dtype.name.upper(), **quantization)
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self.graph.tensors[index].buffer = len(self.buffers)
        self.buffers.append(buffer)
        return index

    def shape(self, index: int) -> tuple[int, ...]:
        return tuple(self.graph.tensors[index].shape)

    def operator(
        self, kind: str, inputs: list[int], output: int, options: str | None = None, **values: Any
    ) -> int:
        """Add an operator; options: the schema's name of its options, whose fields are `values`."""
        if kind not in self.codes:
            self.codes.append(kind)
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self.codes.index(kind)
        operator.inputs, operator.outputs = inputs, [output]
        if options:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(self.schema, f"{options}T")()
            for key, value in values.items():
                setattr(operator.builtinOptions, key, value)
        self.graph.operators.append(operator)
        return output

    def content(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The file."""
        import flatbuffers

        self.graph.inputs, self.graph.outputs = inputs, outputs
        model = self.schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [self.graph], self.buffers
        model.operatorCodes = [self._code(kind) for kind in self.codes]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _code(self, kind: str) -> Any:
        code = self.schema.OperatorCodeT()
        code.builtinCode = getattr(self.schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)  # read by old runtimes
        code.version = VERSIONS.get(kind, 1)
        return code
