"""Exported C on emulated Cortex-M cores; skipped without the tools, unless AKGP_REQUIRE_EMULATOR is set."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from akgp.microcontroller import emulator
from akgp.microcontroller.emulator import CORES, EmulationError, emulate, missing
from akgp.microcontroller.export import export
from tests.portable.make import HERE
from tests.support.c_programs import Exported, digits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing()) and not os.environ.get("AKGP_REQUIRE_EMULATOR"),
        reason=f"{', '.join(missing())}: not installed",
    ),
]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def scans() -> np.ndarray:
    """Test images: uint8 [20, 8, 8, 1]."""
    pixels: np.ndarray = np.load(HERE / "images.npz")["pixels"][:20]
    return pixels.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("core", CORES)
def test_every_image_has_the_simulators_logits(
    core: str, student: Exported, scans: np.ndarray, tmp_path: Path
) -> None:
    """Plain C on M0 and M3, SMLAD on M4F, M7 and M33, MVE on M55."""
    emulated = emulate(student.source, scans, core, tmp_path)
    assert (emulated.logits == student.expected(scans)).all()
    assert len(emulated.instructions) == 23 and 1000 < emulated.code < 4000


def test_the_constants_take_the_bytes_that_are_said(student: Exported, tmp_path: Path) -> None:
    flags = [*CORES["M4F"].flags, "-mthumb", "-std=c99", "-O0", "-fdata-sections"]  # nothing becomes code
    command = ["arm-none-eabi-gcc", *flags, "-c", str(student.source), "-o", "network.o"]
    subprocess.run(command, check=True, cwd=tmp_path)
    listed = subprocess.run(
        ["arm-none-eabi-size", "-A", "network.o"], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    sections = [line.split() for line in listed.stdout.splitlines() if line.startswith(".rodata.")]
    others = ("classes", "test_pixels", "test_logits", "str1")  # no part of what a program must hold
    constants = sum(int(size) for name, size, _ in sections if not any(other in name for other in others))
    assert f"CONSTANT_BYTES {constants}\n" in (student.folder / "src/network.h").read_text()


def test_wider_instructions_save_some(student: Exported, scans: np.ndarray, tmp_path: Path) -> None:
    """Counted, so the same on every machine."""
    counts = {}
    for core in ("M3", "M4F", "M55"):
        counts[core] = sum(emulate(student.source, scans[:1], core, tmp_path).instructions)
    assert counts["M55"] < 0.7 * counts["M4F"] and counts["M4F"] < 0.8 * counts["M3"]


def test_the_clock_may_wrap_within_a_layer(
    student: Exported, scans: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does in large ones: with a short period every layer's count is as with the longest."""
    expected = emulate(student.source, scans[:1], "M4F", tmp_path).instructions
    core = emulator.CORES["M4F"]
    monkeypatch.setitem(emulator.CORES, "M4F", replace(core, flags=(*core.flags, "-DRELOAD=0xffu")))
    counted = emulate(student.source, scans[:1], "M4F", tmp_path).instructions
    assert counted == pytest.approx(expected, rel=0.01, abs=200)


def test_counted_instructions_stand_in_the_report(student: Exported, tmp_path: Path) -> None:
    export(student.file, tmp_path, "digits", ["M4F"])
    lines = (tmp_path / "REPORT.md").read_text().splitlines()
    assert any(line.endswith("| RAM | M4F |") for line in lines) and "They are no cycles" in lines[4]


def test_what_does_not_fit_a_core_says_so(student: Exported, tmp_path: Path) -> None:
    many = np.zeros((4000, 8, 8, 1), np.uint8)  # 256,000 bytes of images, more than M0's board has
    with pytest.raises(EmulationError, match=r"arm-none-eabi-gcc: .*flash"):
        emulate(student.source, many, "M0", tmp_path)
