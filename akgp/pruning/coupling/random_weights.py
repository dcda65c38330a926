"""Random weights with which nothing is zero, one or equal by coincidence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

NORMS = (_BatchNorm,)


def randomise(model: nn.Module) -> None:
    """Give every parameter random values that keep the magnitude of activations, the same at every call.

    Weights are normal, scaled by their fan-in (He et al. 2015); γ and variances lie in [½, 1½). Other
    vectors and scalars, such as a layer scale that starts at zero, are increased by ½ to 1½.
    """
    # A generator apart from torch's global one, which a user's forward pass may draw from.
    generator = torch.Generator().manual_seed(0)

    def normal(tensor: Tensor, scale: float) -> None:
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))

    def uniform(tensor: Tensor, start: Tensor | float = 0.5) -> None:
        tensor.copy_(start + torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            for name, tensor in module.named_parameters(recurse=False):
                if not tensor.is_floating_point():
                    continue
                # A matrix or a kernel; [1, C, 1, 1] is a vector that broadcasts.
                if tensor.ndim > 1 and tensor.squeeze().ndim > 1:
                    normal(tensor, (2 / tensor[0].numel()) ** 0.5)
                elif isinstance(module, (_ConvNd, nn.Linear)) or (
                    isinstance(module, NORMS) and name == "bias"
                ):
                    normal(tensor, 0.1)
                else:
                    uniform(tensor, 0.5 if isinstance(module, NORMS) else tensor.cpu() + 0.5)
            if isinstance(module, NORMS) and module.running_mean is not None:
                assert module.running_var is not None
                normal(module.running_mean, 0.1)
                uniform(module.running_var)
