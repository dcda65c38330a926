"""What lies on the S3 server, downloaded; and where a secret stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def holding(secret: str, *folders: Path) -> list[str]:
    """The files below `folders` in which `secret` stands."""
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return [str(file) for file in files if secret.encode() in file.read_bytes()]


def download(s3: Any, prefix: str, folder: Path) -> Path:
    from infra.s3 import client

    folder.mkdir()
    with client(s3.environment) as store:
        for number, entry in enumerate(
            store.list_objects_v2(Bucket=s3.bucket, Prefix=prefix).get("Contents", [])
        ):
            body = store.get_object(Bucket=s3.bucket, Key=entry["Key"])["Body"].read()
            (folder / str(number)).write_bytes(entry["Key"].encode() + b"\n" + body)
    return folder
