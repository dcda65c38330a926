"""Checks of this machine: packages, programs, disks and devices."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from akgp.doctor.check import INSTALL, Check

GIB = 2**30

INTEGER = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512_bw": "AVX-512",
    "avx512_vnni": "AVX512-VNNI",
    "amx_int8": "AMX-INT8",
    "neon": "NEON",
    "dot": "NEON dot product",
    "i8mm": "NEON I8MM",
}
"""Instructions that int8 kernels are written in, by torch's names."""


def packages(requirements: list[str]) -> Iterator[Check]:
    """A line for each package that is not installed as required, and one that counts the others.

    Args:
        requirements: as in the package's metadata; those of the extra `dev` are left out.
    """
    wanted = [requirement for line in requirements if _applies(requirement := Requirement(line))]
    fine = 0
    for requirement in wanted:
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield Check("package", f"{requirement.name} is missing", INSTALL)
            continue
        # A pre-release, such as a nightly torch, counts by its version.
        if requirement.specifier.contains(installed, prereleases=True):
            fine += 1
        else:
            yield Check(
                "package",
                f"{requirement.name} {installed} does not work here",
                INSTALL + f" brings {requirement.specifier}",
            )
    yield Check("packages", f"{fine} of {len(wanted)} as required")


def commands() -> Check:
    """The programs that dvc.yaml and the flows start."""
    missing = [name for name in ("akgp", "dvc", "git") if shutil.which(name) is None]
    if missing:
        return Check("commands", f"not on the PATH: {', '.join(missing)}", "source .venv/bin/activate")
    return Check("commands", "akgp, dvc and git are on the PATH")


def space(name: str, folder: Path, needed: int, remedy: str) -> Check:
    """Free space on the disk of `folder`.

    Args:
        needed: bytes.
    """
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free in {folder}"
    return Check(name, found, remedy if free < needed else "")


def device() -> Check:
    """The devices: the processor, whether it is faster in bf16 than in fp32, and GPUs."""
    try:
        import torch

        from akgp.training import fast_bf16
    except ImportError as error:
        return Check("device", f"torch cannot be imported ({error})", INSTALL)
    cores = (
        f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} CPU cores"
    )
    bf16 = "bf16" if fast_bf16() else "fp32"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("device", f"{cores} ({bf16}), " + (f"GPUs: {', '.join(gpus)}" if gpus else "no GPU"))


def instructions() -> Check:
    """The processor's integer instructions, which decide how fast int8 is, not what it computes."""
    try:
        import torch
    except ImportError:
        return Check("int8", "unknown without torch", INSTALL)
    has = torch.cpu.get_capabilities()
    found = ", ".join(name for key, name in INTEGER.items() if has.get(key)) or "none known here"
    return Check("int8", f"integer instructions of {has.get('cpu_name') or platform.machine()}: {found}")


def cuda(wanted: int) -> Check:
    """The CUDA version of torch, and whether a driver answers; required only if workers use GPUs."""
    try:
        import torch
    except ImportError:
        return Check("cuda", "unknown without torch", INSTALL)
    built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}"
    if torch.version.cuda is None:
        built, remedy = f"torch {torch.__version__} is built without CUDA", "install a torch with CUDA"
    elif torch.cuda.is_available():
        return Check("cuda", f"{built}, and a driver answers")
    else:
        built, remedy = f"{built}; no driver answers", "install NVIDIA's driver"
    return Check("cuda", built, f"{remedy}, or set ray.gpus_per_worker: 0" if wanted else "")


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or any(
        requirement.marker.evaluate({"extra": extra}) for extra in ("", "pipeline")
    )
