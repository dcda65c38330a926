"""AKGP: compress a trained image classifier by pruning, distillation and quantization.

The library is plain PyTorch; `akgp.stages`, `akgp.sweep` and the flows run it as a pipeline.
Nothing is imported here: name the module you need, such as `akgp.pruning`.
"""

__version__ = "0.1.0"
