"""Checks of the services that settings name: a Ray cluster, S3 stores, DVC remotes and a Prefect server.

Only configured services are contacted, each for SECONDS at most. Credentials are not printed: an address is
shown as scheme, host and path, a refusal by its kind only.
"""

from __future__ import annotations

import base64
import configparser
import http.client
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from akgp import params
from akgp.doctor.check import INSTALL, Check

SECONDS = 2.0


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
    """A line for each remote in DVC's folder `.dvc`; only s3:// addresses and directories are checked."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        # In DVC's order: config.local, which git ignores, has the last word.
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
    """Whether the server at PREFECT_API_URL answers and accepts the credentials; no check if none is set."""
    url = environment.get("PREFECT_API_URL", "")
    if not url:
        return
    if "://" not in url:
        yield Check("prefect", f"PREFECT_API_URL: {_shown(url)}", "must be like http://127.0.0.1:4200/api")
        return
    secret = environment.get("PREFECT_API_AUTH_STRING", "")
    headers = {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"} if secret else {}
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/admin/version", headers=headers)
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            yield Check("prefect", f"{_shown(url)} answers, version {json.load(answer)}")
    except urllib.error.HTTPError as error:
        refused = error.code in (401, 403)
        remedy = "set PREFECT_API_AUTH_STRING" if refused else "PREFECT_API_URL must end in /api"
        yield Check("prefect", f"{_shown(url)} refuses with status {error.code}", remedy)
    except (OSError, ValueError, http.client.HTTPException) as error:
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
    """An address without user, password and query, whether or not it is one."""
    scheme, separator, rest = address.rpartition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return scheme + separator + host.rpartition("@")[2] + slash + path
