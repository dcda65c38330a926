"""An S3 server (SeaweedFS) on the loopback, for trials and tests: `python -m infra.s3`."""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from akgp.io.ports import tcp_port
from flows.processes import end_as_by_ctrl_c

# The ports that `weed mini` listens on, each given explicitly; s3.port is the one that clients use.
PORTS = (
    "admin.port", "admin.port.grpc", "filer.port", "filer.port.grpc", "master.port", "master.port.grpc",
    "s3.port", "s3.port.grpc", "volume.port", "volume.port.grpc",
)  # fmt: skip
START_SECONDS, STOP_SECONDS = 60, 10


@contextlib.contextmanager
def server(
    folder: Path, bucket: str, key: str, secret: str, port: int | None = None
) -> Iterator[dict[str, str]]:
    """Run a server with `bucket`, stored in `folder`; yields the AWS_* variables for its clients.

    Args:
        key, secret: the only credentials it accepts.
        port: of the S3 API; None: a free one.

    Raises:
        RuntimeError: it didn't start; has its last lines.
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    identity = {
        "name": "akgp",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    (folder / "s3.json").touch(mode=0o600)
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    ports["s3.port"] = port or ports["s3.port"]
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    environment = {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    options = {
        "dir": folder / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3.config": folder / "s3.json",
        "bucket": bucket, "master.telemetry": "false", "webdav": "false", "admin.ui": "false",
        "filer.localSocket": folder / "filer.sock", "s3.localSocket": folder / "s3.sock",
        "s3.port.iceberg": 0, "s3.port.lance": 0, **ports,
    }  # fmt: skip
    command = [str(Path(sys.executable).with_name("weed")), "-logtostderr", "mini"]
    command += [f"-{name}={value}" for name, value in options.items()]
    with (folder / "log").open("w", encoding="utf-8") as log, subprocess.Popen(
        command, cwd=folder, stdout=log, stderr=log, env={"HOME": str(folder)}, start_new_session=True
    ) as process:  # fmt: skip
        try:
            _await(process, environment, bucket, folder / "log")
            yield environment
        finally:
            process.terminate()  # SIGKILL would leave its sockets in /tmp
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()


@contextlib.contextmanager
def client(environment: dict[str, str]) -> Iterator[Any]:
    """A botocore client of the server with this `environment`."""
    from botocore.config import Config
    from botocore.session import get_session

    made = get_session().create_client(
        "s3",
        region_name=environment["AWS_REGION"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(connect_timeout=2, retries={"max_attempts": 0}),
    )
    try:
        yield made
    finally:
        made.close()


def _free_ports(count: int) -> list[int]:
    # All sockets are open at a time, so that no port is given twice.
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _await(process: subprocess.Popen[bytes], environment: dict[str, str], bucket: str, log: Path) -> None:
    """Wait until the bucket exists; raise RuntimeError with the server's log if it doesn't."""
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + START_SECONDS
    with client(environment) as s3:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                s3.head_bucket(Bucket=bucket)
                return
            except (BotoCoreError, ClientError):
                time.sleep(0.1)
    raise RuntimeError(f"the S3 server didn't start:\n{log.read_text(encoding='utf-8')[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.s3", description=__doc__)
    parser.add_argument("--port", type=tcp_port, default=8333, help="on the loopback; default: 8333")
    parser.add_argument("--bucket", default="akgp", help="is created; default: akgp")
    chosen = parser.parse_args()
    folder = Path(".akgp").resolve() / "s3"
    end_as_by_ctrl_c()
    try:
        with server(folder, chosen.bucket, "akgp", secrets.token_hex(16), chosen.port) as environment:
            for name, value in environment.items():
                print(f"export {name}={value}")
            print(f"# s3://{chosen.bucket} is kept in {folder}; Ctrl-C ends the server", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        sys.exit(130)
    except (RuntimeError, OSError) as error:
        sys.exit(f"akgp: {error}")


if __name__ == "__main__":
    main()
