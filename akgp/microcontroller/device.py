"""Whether a network fits a microcontroller: known before it is trained, since its widths alone decide."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from akgp.deployment.timing_twin import timing_twin
from akgp.microcontroller.constants import Constants
from akgp.microcontroller.plan import plan
from akgp.quantization.description import Description

PIXEL_VALUES = 256
CODE = 4096
"""Bytes of the kernels' machine code that are assumed; 2 to 3 kB were counted on the cores of `emulator`."""
STACK = 512
"""Bytes of stack that are assumed, beside the logits; 0.4 kB were measured."""
CLASS_NAME = 20
"""Bytes that are assumed of the name of a class and the pointer to it."""


@dataclass(frozen=True)
class Need:
    """Bytes that a network takes of a device; the program around it is not counted.

    Attributes:
        flash: weights, parameters, tables, kernels, names of classes and the test vector.
        ram: the arena and the stack, on which the logits lie.
        layer: the one that runs while most of the arena is in use.
    """

    flash: int
    ram: int
    layer: str

    def excess(self, flash: int | None, ram: int | None) -> str:
        """What does not fit into so many bytes, in words; empty if all does. None: any number."""
        parts = (("flash", self.flash, flash), ("RAM", self.ram, ram))
        return " and ".join(
            f"{needed:,} bytes of {name}, where {there:,} are there"
            for name, needed, there in parts
            if there is not None and needed > there
        )


def need(network: Description) -> Need:
    """What the C library of an int8 network takes.

    Raises:
        QuantizationError: names an operation that C cannot be written for.
    """
    constants = Constants()
    made = plan(network, constants)
    largest = max(made.costs, key=lambda cost: cost.ram)
    tables, classes = network.input.shape[0] * PIXEL_VALUES, network.output.shape[0]
    test_vector = int(np.prod(network.input.shape)) + classes
    flash = constants.flash + tables + CODE + CLASS_NAME * classes + test_vector
    return Need(flash, made.arena.size + STACK + classes, largest.name)


def need_of(model: nn.Module, example: Tensor) -> Need:
    """What a network would take, whatever its weights: it is quantized with noise.

    Raises:
        QuantizationError: it cannot be exported, or not written in C.
    """
    with tempfile.TemporaryDirectory() as folder:
        return need(timing_twin(model, example.shape[1:], Path(folder)).description)
