"""Make a virtual environment that holds a wheel of akgp and its base requirements, nothing else.

The requirements are not downloaded (torch alone is gigabytes): they are linked from the environment
that runs this script. So ray, dvc and prefect, or a package that pyproject.toml forgot, are missing
there as they are after a plain `pip install akgp`.

usage: python scripts/library_venv.py WHEEL DIRECTORY
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from email.parser import HeaderParser
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement


def main(wheel: Path, directory: Path) -> None:
    venv.create(directory, with_pip=True, clear=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(directory)}))
    for package in closure(base_requirements(wheel)).values():
        link(package, site)
    subprocess.run(
        [directory / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel],
        check=True,
    )


def base_requirements(wheel: Path) -> list[Requirement]:
    """What the wheel needs without any extra."""
    with ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    return [requirement for line in lines if needed(requirement := Requirement(line), "")]


def closure(requirements: list[Requirement]) -> dict[str, Distribution]:
    """The distributions that satisfy `requirements` and what these need in turn, by name."""
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    queue = list(requirements)
    while queue:
        requirement = queue.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:
            sys.exit(f"{requirement}: not installed here")
        found[requirement.name] = package
        extras = requirement.extras or {""}
        queue += [
            each
            for line in package.requires or ()
            for extra in extras
            if needed(each := Requirement(line), extra)
        ]
    return found


def needed(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def link(package: Distribution, site: Path) -> None:
    """Link the package's top-level files and folders into `site`."""
    source = Path(str(package.locate_file("")))
    for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
        if not (site / top).exists():
            (site / top).symlink_to(source / top)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
