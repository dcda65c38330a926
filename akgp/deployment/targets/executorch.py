"""Writes the operations of an int8 file as an ExecuTorch program (.pte) for its XNNPACK backend."""

from __future__ import annotations

from pathlib import Path

import torch

from akgp.deployment.targets.int8_file import Int8File, Kind
from akgp.deployment.targets.torch_program import TorchProgram
from akgp.quantization.description import Description


def executorch_content(network: Description, *, floating: bool = False, observed: bool = False) -> bytes:
    """The file; see `TorchProgram` for the arguments.

    Raises:
        QuantizationError: names an operation that cannot be written.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = TorchProgram(network, floating=floating, observed=observed).eval()
    example = torch.zeros(1, *network.input.shape)
    exported = torch.export.export(program, (example,))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    content: bytes = lowered.to_executorch().buffer
    return content


def write(source: Int8File, destination: Path, kind: Kind) -> None:
    content = executorch_content(source.description, floating=kind == "float", observed=kind == "observed")
    destination.write_bytes(content)
