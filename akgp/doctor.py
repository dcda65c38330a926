"""What `akgp doctor` looks at: this machine, the workspace, and the services that its settings name.

It changes nothing, asks only services that are configured, each for SECONDS at most, and prints no
credentials: of an address nothing but scheme, host and path, of a refusal nothing but its kind.
"""

from __future__ import annotations

import base64
import configparser
import json
import os
import platform
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from akgp import params, recipes

GIB = 2**30
FREE_DISK, SHARED_MEMORY = 2 * GIB, GIB
SECONDS = 2.0
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
    try:
        checked = params.load(root / "params.yaml")
    except params.ParamsError:  # `workspace` says so
        checked = None
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
        instructions(),
        cuda(checked.ray.gpus_per_worker if checked else 0),
        *([ray(checked.ray.address)] if checked else []),
        *(s3(name, address) for name, address in addresses(checked.model_dump() if checked else {})),
        *dvc_remotes(root / ".dvc"),
        *prefect(os.environ),
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
        recipes.require_complete(root / "params.yaml")
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


def instructions() -> Check:
    """Which integer instructions this processor has: they decide how fast int8 is, not what it computes."""
    try:
        import torch
    except ImportError:
        return Check("int8", "unknown without torch", INSTALL)
    has = torch.cpu.get_capabilities()
    found = ", ".join(name for key, name in INTEGER.items() if has.get(key)) or "none known here"
    return Check("int8", f"integer instructions of {has.get('cpu_name') or platform.machine()}: {found}")


def cuda(wanted: int) -> Check:
    """Which CUDA torch was built for, and whether a driver answers; needed only if workers want GPUs."""
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


def ray(address: str | None) -> Check:
    """Whether the cluster of `ray.address` can be reached."""
    if address is None:
        return Check("ray", "ray.address is null: a local Ray, started and stopped")
    if address == "auto":
        return Check("ray", "ray.address is auto: the Ray that runs on this machine when a stage starts")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS):
            return Check("ray", f"ray.address: {address} answers")
    except ValueError:
        return Check("ray", f"ray.address: {address!r}", "must be null, auto or host:port")
    except OSError as error:
        found = f"ray.address: nobody answers at {address} ({error.strerror or error})"
        return Check("ray", found, "start the cluster, or set null for a local Ray")


def s3(name: str, address: str, options: Mapping[str, str] | None = None) -> Check:
    """Whether the credentials of the environment may list what is below an s3:// address.

    Args:
        name: where the address comes from, such as data.path.
        options: of a DVC remote: endpointurl, profile, region, access_key_id, secret_access_key.
    """
    options = options or {}
    found = f"{name}: {_shown(address)}"
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import Session
    except ImportError:
        return Check("s3", f"{found}: no client", INSTALL)
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    try:
        client = Session(profile=options.get("profile")).create_client(
            "s3",
            region_name=options.get("region"),
            endpoint_url=options.get("endpointurl"),
            aws_access_key_id=options.get("access_key_id"),
            aws_secret_access_key=options.get("secret_access_key"),
            config=Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 1}),
        )
        listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        missing = code in ("NoSuchBucket", "404")
        remedy = "create the bucket, or correct the address" if missing else "check AWS_ACCESS_KEY_ID and co."
        return Check("s3", f"{found} is refused ({code})", remedy)
    except (BotoCoreError, ValueError) as error:
        kind = type(error).__name__
        remedy = (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            if "Credential" in kind or "Profile" in kind
            else "check AWS_ENDPOINT_URL, and that the server runs"
        )
        return Check("s3", f"{found} cannot be listed ({kind})", remedy)
    return Check("s3", f"{found} can be listed" + ("" if listed.get("KeyCount") else ", and is empty"))


def dvc_remotes(folder: Path) -> Iterator[Check]:
    """A line for each remote in DVC's folder `.dvc`; only s3:// and directories are looked at."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read([folder / "config", folder / "config.local"])
    except configparser.Error as error:
        yield Check("dvc", f"{folder}: {type(error).__name__}", "correct .dvc/config")
        return
    remotes = {name.strip("'").split('"')[1]: name for name in config.sections() if 'remote "' in name}
    for remote, section in remotes.items():
        url = config[section].get("url", "")
        name = f"remote {remote}"
        if url.startswith("s3://"):
            yield s3(f"DVC's {name}", url, config[section])
        elif params.REMOTE.match(url):
            yield Check("dvc", f"{name}: {_shown(url)}, not asked here; dvc push says more")
        else:
            missing = not (folder / url).is_dir()
            yield Check("dvc", f"{name}: {url}", "no such directory: mount it" if missing else "")
    if remotes and config.get("core", "remote", fallback=None) not in remotes:
        yield Check("dvc", "no remote is the default", f"dvc remote default {next(iter(remotes))}")


def prefect(environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether the server at PREFECT_API_URL answers and lets us in; nothing if none is set."""
    url = environment.get("PREFECT_API_URL", "")
    if not url:
        return
    request = urllib.request.Request(f"{url.rstrip('/')}/admin/version") if "://" in url else None
    if request is None:
        yield Check("prefect", f"PREFECT_API_URL: {url!r}", "must be like http://127.0.0.1:4200/api")
        return
    if secret := environment.get("PREFECT_API_AUTH_STRING"):
        request.add_header("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            yield Check("prefect", f"{_shown(url)} answers, version {json.load(answer)}")
    except urllib.error.HTTPError as error:
        refused = error.code in (401, 403)
        remedy = "set PREFECT_API_AUTH_STRING" if refused else "PREFECT_API_URL must end in /api"
        yield Check("prefect", f"{_shown(url)} refuses with status {error.code}", remedy)
    except (OSError, ValueError) as error:
        found = f"nobody answers at {_shown(url)} ({type(error).__name__})"
        yield Check("prefect", found, "make server starts one; or unset PREFECT_API_URL")


def addresses(tree: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every s3:// address among the parameters, with its dotted name."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from addresses(value, f"{name}.{key}".lstrip("."))
    elif isinstance(tree, str) and tree.startswith("s3://"):
        yield name, tree


def _shown(address: str) -> str:
    """An address without user, password and query."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or any(
        requirement.marker.evaluate({"extra": extra}) for extra in ("", "pipeline")
    )
