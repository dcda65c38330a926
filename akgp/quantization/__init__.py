"""int8: export to ONNX, static quantization, and verification by a simulator of the integer arithmetic.

From a network to a float graph: `export`, `checking`; there `rewriting`, `channel_affine`, `channel_layout`
and `channel_moves` find operations that have integer kernels, and `equalization` balances channels.

To int8: `ptq` calls onnxruntime's quantizer; `remaining` rounds what it leaves, `weights` and `saturation`
choose scales that no processor saturates on, `exact_scales` and `tables` make rounding alike everywhere,
`aligned_channels` adds zeros for faster kernels, `weight_sharing` leaves few values. `qdq` and `channels`
read such graphs.

Is it better? `observing` runs graphs on images, `judging` decides; so `average_ranges`, `bias_correction` and
`equalization` are kept or not. `mixed` gives each layer its precision by `trials`: `float_layers`,
`four_bits`, `layers`. `fake_quantization` trains with int8's rounding.

What a file computes: `simulator` and `integer_kernels`, with which `verification` compares onnxruntime;
`description`, `operations` and `operation_readers`, from which exports are written; `requantization` and
`fixed_point`, the same without floating point.

How long it takes: `kernels`, `layer_times`, `kernel_graphs`, and `resizing` to other widths.
"""

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
