"""What was measured on: the processor with the instruction set that torch uses, and versions."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def described() -> str:
    """One line, such as "AMD EPYC, 2 cores, AVX2, torch 2.14.1"."""
    capabilities = torch.cpu.get_capabilities()
    special = [name for name in ("avx512_vnni", "avx512_bf16", "amx_bf16") if capabilities.get(name)]
    instructions = " + ".join([torch.backends.cpu.get_cpu_capability(), *special])
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor()}, {os.cpu_count()} cores, {instructions}{device}, torch {torch.__version__}"


def kernels() -> str:
    """The integer instructions that decide how fast int8 is here, as the name of a folder."""
    has = torch.cpu.get_capabilities()
    known = {"amx_int8": "amx", "avx512_vnni": "avx512-vnni", "avx_vnni": "avx-vnni", "avx2": "avx2"}
    return next((name for key, name in known.items() if has.get(key)), platform.machine())


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
