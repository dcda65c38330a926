"""Runs an exported network on emulated Cortex-M cores (QEMU): its logits, and instructions counted by layer.

Instructions are no cycles; for these there are only boards. Needs the programs of PROGRAMS, of the Debian
packages gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from akgp.microcontroller.constants import declared
from akgp.microcontroller.filling import filled

PROGRAMS = ("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
HERE = Path(__file__).with_name("emulated")
CALIBRATION = 2_000_000
"""Instructions of the loop that tells how many a tick of the board's SysTick is."""


@dataclass(frozen=True)
class Core:
    """A processor, and the emulated board that runs its code: one whose SysTick QEMU drives rightly."""

    machine: str
    flags: tuple[str, ...]
    flash: str = "4M"
    ram: str = "4M"


CORES: Mapping[str, Core] = {
    "M0": Core("microbit", ("-mcpu=cortex-m0",), "256K", "16K"),
    "M3": Core("mps2-an386", ("-mcpu=cortex-m3",)),
    "M4F": Core("mps2-an386", ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")),
    "M7": Core("mps2-an500", ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16")),
    "M33": Core("mps3-an547", ("-mcpu=cortex-m33", "-mfloat-abi=soft"), "512K", "512K"),
    "M55": Core("mps3-an547", ("-mcpu=cortex-m55", "-mfloat-abi=hard"), "512K", "512K"),
}
"""M3 and M33 run on a board with a larger core, which has all of their instructions."""


class EmulationError(ValueError):
    """A program is missing, or the emulated board did not finish."""


@dataclass(frozen=True)
class Emulation:
    """Of one core.

    Attributes:
        logits: uint8 [N, classes].
        instructions: of the last image, by layer, the input's quantization being part of the first.
        code: bytes of the kernels' instructions, weights and tables excluded.
    """

    logits: NDArray[np.uint8]
    instructions: list[int]
    code: int


def missing() -> list[str]:
    """The programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def require_emulator() -> None:
    """Raise EmulationError if one of its programs is not installed."""
    if missing():
        raise EmulationError(f"{', '.join(missing())}: not installed; see docs/how-to/microcontroller.md")


def emulate(
    source: Path,
    pixels_NHWC: NDArray[np.uint8],
    core: str,
    folder: Path,
    *,
    optimization: str = "-O2",
    timeout_s: float = 600,
) -> Emulation:
    """Compile and run.

    Args:
        source: NAME.c of an export.
        pixels_NHWC: the images.
        core: a key of CORES.
        folder: for the files that are made.

    Raises:
        EmulationError: names the program that is missing or failed.
    """
    require_emulator()
    board, name = CORES[core], source.stem
    places = {"NAME": name, "UPPER": name.upper(), "FLASH": board.flash, "RAM": board.ram}
    for file in ("main.c", "board.ld"):
        (folder / file).write_text(filled(HERE / file, places), encoding="utf-8")
    images = declared("images", pixels_NHWC.reshape(len(pixels_NHWC), -1), np.uint8)
    (folder / "images.h").write_text(f"#define COUNT {len(pixels_NHWC)}\n{images}\n", encoding="utf-8")
    compiler = [
        "arm-none-eabi-gcc",
        "-mthumb",
        *board.flags,
        "-std=c99",
        optimization,
        "-I",
        str(source.parent),
    ]
    linked = ["-nostartfiles", "--specs=nosys.specs", "-T", "board.ld", "main.c", "-o", "program.elf"]
    _run([*compiler, *linked], folder)
    _run([*compiler, "-ffunction-sections", "-fdata-sections", "-c", str(source), "-o", "network.o"], folder)
    machine = [
        "qemu-system-arm",
        "-machine",
        board.machine,
        "-nographic",
        "-monitor",
        "none",
        "-serial",
        "none",
    ]
    printing = ["-chardev", "stdio,id=out", "-semihosting-config", "enable=on,target=native,chardev=out"]
    output = _run([*machine, *printing, "-icount", "shift=0", "-kernel", "program.elf"], folder, timeout_s)
    printed = output.split("\n")
    if len(printed) != len(pixels_NHWC) + 3 or "fault" in output:  # the first and the last line, and an end
        raise EmulationError(f"{core}: did not finish: {output[-200:]!r}")
    ticks, *lines, layers = [[int(each) for each in line.split()] for line in printed[:-1]]
    unit = CALIBRATION / ticks[0]
    return Emulation(np.array(lines, np.uint8), [round(each * unit) for each in layers], _code(folder))


def _code(folder: Path) -> int:
    sections = _run(["arm-none-eabi-size", "-A", "network.o"], folder).split("\n")
    sizes = [line.split() for line in sections if line.startswith(".text")]
    return sum(int(size[1]) for size in sizes)


def _run(command: list[str], folder: Path, timeout_s: float = 600) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise EmulationError(f"{command[0]}: not finished after {timeout_s:g} s") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise EmulationError(f"{command[0]}: {said[-500:] or f'exit status {done.returncode}'}")
    return done.stdout
