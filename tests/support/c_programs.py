"""Exported C, compiled for this machine, and int8 files to export."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from akgp.data import Preprocessing
from akgp.deployment.package import write_metadata
from akgp.microcontroller.export import expected_logits, export, pixel_tables
from akgp.quantization.description import Description, describe
from akgp.quantization.exact_scales import move_activation_scales, move_weight_scales
from tests.portable.make import HERE

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wno-sign-conversion")
SANITIZED = ("-fsanitize=undefined", "-fno-sanitize-recover=all")
NAME = "network"
DRIVER = """
#include <stdio.h>
#include "network.h"
int main(void)
{
    static uint8_t pixels[NETWORK_HEIGHT * NETWORK_WIDTH * NETWORK_CHANNELS], logits[NETWORK_CLASSES];
    static uint8_t arena[NETWORK_ARENA_BYTES];
    while (fread(pixels, sizeof pixels, 1, stdin) == 1) {
        network_run(pixels, logits, arena);
        fwrite(logits, sizeof logits, 1, stdout);
    }
    return 0;
}
"""

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")


@dataclass(frozen=True)
class Exported:
    """An int8 file, what it computes, and the folder of its C."""

    file: Path
    network: Description
    tables: NDArray[np.uint8]
    folder: Path

    @property
    def source(self) -> Path:
        return self.folder / f"src/{NAME}.c"

    def expected(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The simulator's integers of the logits."""
        return expected_logits(onnx.load(str(self.file)), self.network, self.tables, pixels_NHWC)

    def computed(self, pixels_NHWC: NDArray[np.uint8], flags: Sequence[str]) -> NDArray[np.uint8]:
        """Those of the C, compiled with `flags`."""
        driver, program = self.folder / "driver.c", self.folder / "driver"
        driver.write_text(DRIVER)
        compiler = ["gcc", *STRICT, *flags, "-I", str(self.source.parent)]
        subprocess.run([*compiler, str(self.source), str(driver), "-o", str(program)], check=True)
        done = subprocess.run([program], input=pixels_NHWC.tobytes(), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return np.frombuffer(done.stdout, np.uint8).reshape(len(pixels_NHWC), -1)


def exported(file: Path, folder: Path) -> Exported:
    """Export an int8 file that has its preprocessing."""
    from akgp.deployment.package import read_preprocessing

    export(file, folder, NAME)
    network = describe(onnx.load(str(file)))
    return Exported(file, network, pixel_tables(network, read_preprocessing(file)), folder)


def digits(folder: Path) -> Exported:
    """The digits' student of tests/portable, with the scales that quantize gives today."""
    model = onnx.load(HERE / "model.onnx")
    move_activation_scales(model)
    move_weight_scales(model)
    onnx.save(model, folder / "model.onnx")
    return exported(folder / "model.onnx", folder)


def with_preprocessing(file: Path, channels: int, size: tuple[int, int], classes: int) -> Path:
    """The file, in place, as an image classifier."""
    names = tuple(f"class {index}" for index in range(classes))
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.25, 0.2, 0.3)[:channels]
    about = Preprocessing(classes=names, image_size=size, channels=channels, mean=mean, std=std)
    write_metadata(file, about, None)
    return file


def random_pixels(network: Description, count: int) -> NDArray[np.uint8]:
    channels, height, width = network.input.shape
    return np.random.default_rng(3).integers(0, 256, (count, height, width, channels), np.uint8)
