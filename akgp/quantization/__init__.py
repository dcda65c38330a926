"""int8: export to ONNX, static quantization, and verification by a simulator of the integer arithmetic."""

from akgp.quantization.aligned_channels import aligned, unaligned
from akgp.quantization.average_ranges import average_ranges
from akgp.quantization.bias_correction import correct_biases
from akgp.quantization.checking import QuantizationError, require_finite
from akgp.quantization.equalization import equalize
from akgp.quantization.export import export_onnx
from akgp.quantization.fake_quantization import fake_quantized
from akgp.quantization.judging import Judgement
from akgp.quantization.kernels import Kernels, convolution_kernels
from akgp.quantization.mixed import Plan, agreement, plan
from akgp.quantization.ptq import quantize
from akgp.quantization.trials import Measures
from akgp.quantization.verification import Verification, verify

__all__ = [
    "Judgement",
    "Kernels",
    "Measures",
    "Plan",
    "QuantizationError",
    "Verification",
    "agreement",
    "aligned",
    "average_ranges",
    "convolution_kernels",
    "correct_biases",
    "equalize",
    "export_onnx",
    "fake_quantized",
    "plan",
    "quantize",
    "require_finite",
    "unaligned",
    "verify",
]
