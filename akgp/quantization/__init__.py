"""int8: export to ONNX, static quantization, and a check of the kernels a runtime runs."""

from akgp.quantization.checking import QuantizationError, require_finite
from akgp.quantization.export import Kernels, convolution_kernels, export_onnx
from akgp.quantization.static import quantize

__all__ = ["Kernels", "QuantizationError", "convolution_kernels", "export_onnx", "quantize", "require_finite"]
