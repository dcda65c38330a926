"""The checks of `akgp doctor`: this machine, the workspace, and the services that its settings name.

They change nothing. Each is one line: what was observed, and the remedy if something is wrong.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import requires
from pathlib import Path

from akgp import params, recipes
from akgp.doctor import machine, services
from akgp.doctor.check import Check
from akgp.doctor.machine import GIB

FREE_DISK, SHARED_MEMORY = 2 * GIB, GIB


def examine(root: Path) -> list[Check]:
    """Every check of this machine and of the workspace `root`, the cheap ones first."""
    try:
        checked = params.load(root / "params.yaml")
    except params.ParamsError:  # reported by the check `workspace`
        checked = None  # the checks that need no parameters still run
    return [
        Check("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        *machine.packages(requires("akgp") or []),
        machine.commands(),
        workspace(root),
        machine.space("disk", root.resolve(), FREE_DISK, "free some, or set ray.storage to a larger disk"),
        *(
            [
                machine.space(
                    "shm", Path("/dev/shm"), SHARED_MEMORY, "Ray is slow without; in Docker: --shm-size=2g"
                )
            ]
            if Path("/dev/shm").is_dir()
            else []
        ),
        machine.device(),
        machine.instructions(),
        machine.cuda(checked.ray.gpus_per_worker if checked else 0),
        *([services.ray(checked.ray.address)] if checked else []),
        *(
            services.s3(name, address)
            for name, address in services.addresses(checked.model_dump() if checked else {})
        ),
        *services.dvc_remotes(root / ".dvc"),
        *services.prefect(os.environ),
    ]


def workspace(root: Path) -> Check:
    """Whether `dvc repro` could start here."""
    if not (root / "dvc.yaml").exists() or not (root / ".dvc").is_dir():
        return Check(
            "workspace", "no dvc.yaml and .dvc here", "run akgp in the project's folder, a git clone"
        )
    try:
        checked = params.load(root / "params.yaml")
        recipes.require_complete(root / "params.yaml")
    except params.ParamsError as error:
        lines = str(error).splitlines()
        return Check(
            "workspace",
            lines[0] + (f" (and {len(lines) - 1} more)" if lines[1:] else ""),
            "see akgp params check",
        )
    return Check("workspace", f"params.yaml is valid; data {checked.data.source}")
