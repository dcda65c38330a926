"""The test vector of an exported library, compiled for the machine that wrote it: its layout and its code."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from akgp.quantization import QuantizationError

COMPILERS = ("cc", "gcc", "clang")


def check_test_vector(folder: Path, name: str) -> None:
    """Compile the library and its host's example, and run that; nothing if there is no C compiler.

    Each rounding is proven beforehand, and not that layers read what others have written.

    Raises:
        QuantizationError: it cannot be compiled, or gives other logits.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        return
    source, example = folder / f"src/{name}.c", folder / "examples/host/main.c"
    with tempfile.TemporaryDirectory() as scratch:
        program = str(Path(scratch) / "check")
        compiled = [compiler, "-std=c99", "-I", str(source.parent), str(source), str(example), "-o", program]
        for command in (compiled, [program]):
            done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
            if done.returncode:
                said = _first_error(done.stderr or done.stdout)
                raise QuantizationError(f"{source}: its test vector does not pass on this machine ({said})")


def _first_error(output: str) -> str:
    """The line that says what is wrong: a compiler names the function first."""
    lines = output.strip().splitlines() or ["no output"]
    return next((line for line in lines if "error" in line), lines[0])
