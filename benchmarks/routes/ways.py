"""The ways from a network in PyTorch to a file in a runtime: akgp's targets, and other quantizers.

onnxruntime's own static quantization, NNCF and torchao are run as their documentation shows, with their
default settings, on the same network and calibration images.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from akgp.deployment.targets import TARGETS
from akgp.quantization.export import for_runtimes, strip
from akgp.quantization.ptq import prepare
from akgp.runtimes import RUNTIMES, Runtime, require_installed
from benchmarks.routes.cases import Case

BATCH = 32


@dataclass(frozen=True)
class Way:
    """A way to a file.

    Attributes:
        runtime_name: in RUNTIMES; target: of `TARGETS` in the same runtime, for the dense network in float.
        write: makes the file in a folder; module: a Python package that it needs beside the runtime's.
        ours: whether the file states akgp's integers, so that the oracle says what is exact.
    """

    runtime_name: str
    target: str
    write: Callable[[Case, Path], Path]
    module: str | None = None
    ours: bool = False

    @property
    def runtime(self) -> Runtime:
        return RUNTIMES[self.runtime_name]

    def missing(self) -> str:
        """What is not installed; empty if all is."""
        with contextlib.suppress(ValueError):
            require_installed(self.runtime)
            if self.module is None or importlib.util.find_spec(self.module):
                return ""
        return self.module or self.runtime.module


def float_dense(case: Case, folder: Path) -> Path:
    return case.dense_file


def float_student(case: Case, folder: Path) -> Path:
    return case.float_file


def exported(target: str, case: Case, folder: Path) -> Path:
    return TARGETS[target].write(case.int8, folder)


class Reader:
    """Calibration images in batches, as onnxruntime's quantizer asks for them."""

    def __init__(self, images: Tensor) -> None:
        self.batches = iter(images.split(BATCH))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch.numpy()}


def onnxruntimes(settings: Mapping[str, Any], case: Case, folder: Path) -> Path:
    """Static quantization of onnxruntime after its preprocessing; its metadata stripped, as ours is."""
    import onnx
    from onnxruntime.quantization import quantize_static

    prepared, file = folder / "prepared.onnx", folder / "model.onnx"
    prepare(case.float_file, prepared)
    with redirect_stdout(io.StringIO()):
        quantize_static(str(prepared), str(file), Reader(case.calibration), **settings)
    return stripped(onnx.load(str(file)), file)


def stripped(model: Any, file: Path) -> Path:
    import onnx

    strip(model)
    onnx.save(model, str(file))
    return file


def nncfs(case: Case, folder: Path) -> Path:
    """NNCF's post-training quantization of the network in OpenVINO."""
    import nncf
    import openvino

    model = openvino.Core().read_model(case.float_file)
    data = nncf.Dataset([batch.numpy() for batch in case.calibration.split(1)])
    quantized = nncf.quantize(model, data, subset_size=len(case.calibration))
    openvino.save_model(quantized, folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


def pt2e(case: Case, quantizer: Any) -> torch.nn.Module:
    """PyTorch's export quantization, as torchao has it.

    Of the network as it is exported to ONNX: XNNPACK's quantizer also quantizes additions of integers, such
    as the indices of the CIFAR ResNets' shortcuts.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    example = case.calibration[:1]
    model = prepare_pt2e(
        torch.export.export(for_runtimes(case.student).eval(), (example,)).module(), quantizer
    )
    with torch.no_grad():
        for image in case.calibration.split(1):
            model(image)
    converted: torch.nn.Module = convert_pt2e(model)
    return converted


def torchao_x86(case: Case, folder: Path) -> Path:
    """torchao's quantizer for x86, exported to ONNX."""
    import onnx
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    file = folder / "model.onnx"
    with redirect_stdout(io.StringIO()):
        torch.onnx.export(
            pt2e(case, quantizer), (case.calibration[:1],), file, dynamo=True, external_data=False,
            input_names=["input"],
        )  # fmt: skip
    return stripped(onnx.load(str(file)), file)


def torchao_xnnpack(case: Case, folder: Path) -> Path:
    """ExecuTorch's quantizer for XNNPACK with torchao, lowered to XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    from executorch.exir import to_edge_transform_and_lower

    settings = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    model = pt2e(case, xnnpack.XNNPACKQuantizer().set_global(settings))
    program = torch.export.export(model, (case.calibration[:1],))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    (folder / "model.pte").write_bytes(lowered.buffer)
    return folder / "model.pte"


ONNX, OPENVINO, EXECUTORCH, LITERT = (
    partial(Way, runtime, target)
    for target, runtime in (
        ("onnx", "onnxruntime"), ("openvino", "openvino"), ("executorch", "executorch"), ("litert", "litert"),
    )
)  # fmt: skip
WAYS: Mapping[str, Way] = {
    "dense, float": ONNX(float_dense),
    "student, float": ONNX(float_student),
    "akgp, onnxruntime": ONNX(partial(exported, "onnx"), ours=True),
    "akgp, OpenVINO": OPENVINO(partial(exported, "openvino"), ours=True),
    "akgp, ExecuTorch": EXECUTORCH(partial(exported, "executorch"), ours=True),
    "akgp, LiteRT": LITERT(partial(exported, "litert"), ours=True),
    "onnxruntime's, its defaults": ONNX(partial(onnxruntimes, {})),
    "onnxruntime's, per channel": ONNX(partial(onnxruntimes, {"per_channel": True})),
    "NNCF, OpenVINO": OPENVINO(nncfs, module="nncf"),
    "torchao (X86), onnxruntime": ONNX(torchao_x86, module="torchao"),
    "torchao (XNNPACK), ExecuTorch": EXECUTORCH(torchao_xnnpack, module="torchao"),
}


def bytes_of(file: Path) -> int:
    """Size on disk, with the weights that OpenVINO keeps beside."""
    beside = file.with_suffix(".bin")
    return file.stat().st_size + (beside.stat().st_size if file.suffix == ".xml" else 0)
