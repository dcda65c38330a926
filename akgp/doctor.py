"""What `akgp doctor` looks at: Python, packages, device, disk and workspace. It changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from akgp import params

GIB = 2**30
FREE_DISK, SHARED_MEMORY = 2 * GIB, GIB
INSTALL = "pip install -c constraints.txt -e '.[pipeline]'"


@dataclass(frozen=True)
class Check:
    """One thing looked at; `remedy` says what to do, and is empty if all is well."""

    name: str
    found: str
    remedy: str = ""

    def line(self) -> str:
        verdict = "TO DO" if self.remedy else "ok"
        return f"{verdict:<6}{self.name:<11}{self.found}" + (f": {self.remedy}" if self.remedy else "")


def examine(root: Path) -> list[Check]:
    """Every check of this machine and of the workspace `root`, the cheap ones first."""
    return [
        Check("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        *packages(requires("akgp") or []),
        commands(),
        workspace(root),
        space("disk", root.resolve(), FREE_DISK, "free some, or set ray.storage to a larger disk"),
        *(
            [space("shm", Path("/dev/shm"), SHARED_MEMORY, "Ray is slow without; in Docker: --shm-size=2g")]
            if Path("/dev/shm").is_dir()
            else []
        ),
        device(),
    ]


def packages(requirements: list[str]) -> Iterator[Check]:
    """One line if all is installed as required; else a line for each package that is not.

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


def workspace(root: Path) -> Check:
    """Whether `dvc repro` could start here."""
    if not (root / "dvc.yaml").exists() or not (root / ".dvc").is_dir():
        return Check(
            "workspace", "no dvc.yaml and .dvc here", "run akgp in the project's folder, a git clone"
        )
    try:
        checked = params.load(root / "params.yaml")
    except params.ParamsError as error:
        lines = str(error).splitlines()
        return Check(
            "workspace",
            lines[0] + (f" (and {len(lines) - 1} more)" if lines[1:] else ""),
            "see akgp params check",
        )
    return Check("workspace", f"params.yaml is valid; data {checked.data.source}")


def space(name: str, folder: Path, needed: int, remedy: str) -> Check:
    """Free bytes of the disk that `folder` is on."""
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free in {folder}"
    return Check(name, found, remedy if free < needed else "")


def device() -> Check:
    """What would compute: GPUs, or the processor and whether it multiplies in bf16."""
    try:
        import torch
    except ImportError as error:
        return Check("device", f"torch cannot be imported ({error})", INSTALL)
    cores = (
        f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} CPU cores"
    )
    bf16 = "bf16" if torch.cpu.get_capabilities().get("avx512_bf16") else "no bf16"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("device", f"{cores} ({bf16}), " + (f"GPUs: {', '.join(gpus)}" if gpus else "no GPU"))


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or any(
        requirement.marker.evaluate({"extra": extra}) for extra in ("", "pipeline")
    )
