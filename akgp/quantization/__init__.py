"""int8: export to ONNX, static quantization, and verification by a simulator of the integer arithmetic."""

from akgp.quantization.bias_correction import Correction, correct_biases
from akgp.quantization.checking import QuantizationError, require_finite
from akgp.quantization.export import export_onnx
from akgp.quantization.kernels import Kernels, convolution_kernels
from akgp.quantization.ptq import quantize
from akgp.quantization.verification import Verification, verify

__all__ = [
    "Correction",
    "Kernels",
    "QuantizationError",
    "Verification",
    "convolution_kernels",
    "correct_biases",
    "export_onnx",
    "quantize",
    "require_finite",
    "verify",
]
