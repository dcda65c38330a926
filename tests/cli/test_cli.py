from __future__ import annotations

import base64
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

from akgp import doctor, params, recipes
from akgp.doctor import machine, services
from tests.support.commands import run

if TYPE_CHECKING:
    from conftest import S3

ROOT = Path(__file__).parents[2]
PARTIAL = "# mine\nnetworks: {net: {architecture: cifar_resnet20}}\nteachers: [net]\nstudent: net\nseed: 7\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text(PARTIAL)
    (tmp_path / "recipes" / "wrong.yaml").write_text(PARTIAL.replace("seed: 7", "seed: -7"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_recipe_use_writes_a_whole_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "recipe", "use", "mine") == 0
    text = (folder / "params.yaml").read_text()
    assert params.load("params.yaml") == params.load("recipes/mine.yaml")
    assert "temperature: 2.0  " in text and "# softens the logits" in text
    assert sorted(file.name for file in folder.iterdir()) == [".akgp", "params.yaml", "recipes"]


def test_recipe_show_prints_what_use_writes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "recipe", "show", "mine") == 0
    shown = capsys.readouterr().out
    recipes.use("mine", folder / "params.yaml")
    assert (folder / "params.yaml").read_text() == shown


def test_recipe_list(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "recipe", "list") == 0
    assert capsys.readouterr().out == "mine   mine\nwrong  mine\n"


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("recipe", "use", "other"), ["akgp: recipe 'other': not found, must be one of mine, wrong"]),
        (
            ("recipe", "use", "wrong"),
            ["akgp: recipes/wrong.yaml: seed: got -7, must be greater than or equal to 0"],
        ),
        (
            ("params", "check", "--params", "recipes/wrong.yaml"),
            ["akgp: recipes/wrong.yaml: seed: got -7, must be greater than or equal to 0"],
        ),
        (("report",), ["akgp: reports/metrics.json: no such file; `dvc repro` writes it"]),
        (("predict", "x.png"), ["akgp: models/int8/preprocessing.json: no such file; `dvc repro` writes it"]),
    ],
)
def test_error_is_one_line_and_changes_nothing(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    lines: list[str],
) -> None:
    (folder / "params.yaml").write_text("as it was")
    assert run(monkeypatch, *arguments) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.splitlines()) == ("", lines)
    assert (folder / "params.yaml").read_text() == "as it was"


def test_traceback_on_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKGP_TRACEBACK", "1")
    with pytest.raises(params.ParamsError):
        run(monkeypatch, "recipe", "use", "wrong")


def test_a_fault_of_ours_keeps_its_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = {"__name__": "elsewhere"}
    exec("def fault():\n    raise ValueError('internal')", elsewhere)
    ours = {"__name__": "akgp.somewhere"}
    exec("def fault():\n    raise ValueError('weight must be positive, got -1')", ours)
    monkeypatch.setattr(recipes, "use", lambda *_: elsewhere["fault"]())
    with pytest.raises(ValueError, match="internal"):
        run(monkeypatch, "recipe", "use", "mine")
    monkeypatch.setattr(recipes, "use", lambda *_: ours["fault"]())
    assert run(monkeypatch, "recipe", "use", "mine") == 1


def test_unknown_command_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "recipe", "cook") == 2


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted_without_traceback(tmp_path: Path, number: signal.Signals, status: int) -> None:
    started = tmp_path / "started"
    code = (
        "import sys, time, pathlib; from akgp import cli, recipes\n"
        f"def wait(*_): pathlib.Path({str(started)!r}).touch(); time.sleep(60)\n"
        "recipes.use = wait; sys.argv = ['akgp', 'recipe', 'use', 'x']; cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"},
        # A shell starts what is in the background with SIGINT ignored, nohup with SIGHUP: it is inherited.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert error == "akgp: interrupted\n"
    assert process.returncode == status


def test_doctor_names_what_is_missing_and_the_remedy() -> None:
    lines = [
        check.line()
        for check in machine.packages(
            [
                "pydantic>=2",
                "torch>=900",
                "no-such-package>=1 ; extra == 'pipeline'",
                "not-wanted ; extra == 'dev'",
            ]
        )
    ]
    assert lines[0].startswith("TO DO package    torch ") and ">=900" in lines[0]
    assert lines[1] == (
        "TO DO package    no-such-package is missing: pip install -c constraints.txt -e '.[pipeline]'"
    )
    assert lines[2:] == ["ok    packages   1 of 3 as required"]


@pytest.mark.parametrize(("needed", "status"), [("pydantic>=2", 0), ("pydantic>=900", 1)])
def test_doctor_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], needed: str, status: int
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda _: list(machine.packages([needed])))
    assert run(monkeypatch, "doctor", "--json") == status
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert checks and all(set(check) >= {"name", "found", "remedy", "ok"} for check in checks)
    assert all(check["ok"] == (not check["remedy"]) for check in checks)
    assert all(check["ok"] for check in checks) == (status == 0)


def test_doctor_looks_at_the_workspace(tmp_path: Path) -> None:
    assert doctor.workspace(tmp_path).remedy == "run akgp in the project's folder, a git clone"
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {data: {cmd: 'true'}}")
    (tmp_path / "params.yaml").write_text(PARTIAL + "x: 1\ny: 2\n")
    line = doctor.workspace(tmp_path).line()
    assert "params.yaml: x: unknown parameter; " in line
    assert line.endswith(" (and 1 more): see akgp params check")
    (tmp_path / "params.yaml").write_text(PARTIAL)
    assert not doctor.workspace(tmp_path).remedy


@pytest.mark.parametrize(
    ("has", "line"),
    [
        ({"avx2": True, "avx512_vnni": False, "cpu_name": "X"}, "integer instructions of X: AVX2"),
        (
            {"avx2": True, "avx512_bw": True, "avx512_vnni": True, "amx_int8": True, "cpu_name": "Y"},
            "integer instructions of Y: AVX2, AVX-512, AVX512-VNNI, AMX-INT8",
        ),
        ({"cpu_name": "Z"}, "integer instructions of Z: none known here"),
    ],
)
def test_doctor_names_the_integer_instructions(
    has: dict[str, Any], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert machine.instructions().line() == f"ok    int8       {line}"


def test_doctor_wants_free_space(tmp_path: Path) -> None:
    assert not machine.space("disk", tmp_path, 1, "free some").remedy
    assert machine.space("disk", tmp_path, 2**70, "free some").remedy == "free some"


def test_doctor_looks_at_the_pins_that_matter() -> None:
    """Prefect breaks with newer ones, and pip says nothing."""
    required = requires("akgp") or []
    for name, works, breaks in (("fastapi", "0.150.0", "0.151.0"), ("sqlalchemy", "2.0.58", "2.1.0")):
        requirement = next(r for r in map(Requirement, required) if r.name == name)
        assert works in requirement.specifier and breaks not in requirement.specifier
        assert machine._applies(requirement)


def test_doctor_says_what_cuda_there_is() -> None:
    import torch

    check = machine.cuda(0)
    assert check.found.startswith(f"torch {torch.__version__} is built ") and not check.remedy
    if not torch.cuda.is_available():
        assert machine.cuda(1).remedy.endswith("or set ray.gpus_per_worker: 0")


def test_doctor_asks_the_cluster(free_port: int) -> None:
    assert services.ray(None).remedy == ""
    assert services.ray("cluster").remedy == "must be null, auto or host:port"
    assert services.ray(f"127.0.0.1:{free_port}").line() == (
        f"TO DO ray        ray.address: nobody answers at 127.0.0.1:{free_port} (Connection refused): "
        "start the cluster, or set null for a local Ray"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not services.ray(f"ray://127.0.0.1:{server.getsockname()[1]}").remedy


def test_doctor_lists_s3(
    s3: S3, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    s3.upload(folder / "recipes", "doctor")
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    text = (
        PARTIAL.replace("resnet20}", f"resnet20, checkpoint: s3://{s3.bucket}/doctor/mine.yaml}}")
        + f"ray: {{storage: s3://{s3.bucket}/nothing-yet}}\n"
        + f"data: {{source: parquet, path: s3://{s3.bucket}/doctor}}\n"
    )
    (folder / "params.yaml").write_text(text)

    def lines() -> list[str]:
        run(monkeypatch, "doctor")
        output = capsys.readouterr()
        for secret in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
            assert os.environ.get(secret) is None or os.environ[secret] not in output.out + output.err
        whole = output.out.replace("\n" + 17 * " ", " ")  # lines are wrapped at 80 columns
        return sorted(line for line in whole.splitlines() if line[6:].startswith("s3 "))

    bucket = f"s3://{s3.bucket}"
    assert lines() == [
        f"ok    s3         data.path: {bucket}/doctor can be listed",
        f"ok    s3         networks.net.checkpoint: {bucket}/doctor/mine.yaml can be listed",
        f"ok    s3         ray.storage: {bucket}/nothing-yet can be listed, and is empty",
    ]
    (folder / "params.yaml").write_text(PARTIAL + "ray: {storage: s3://no-such-bucket/x}\n")
    assert lines() == [
        "TO DO s3         ray.storage: s3://no-such-bucket/x is refused (NoSuchBucket): "
        "create the bucket, or correct the address"
    ]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-of-no-use")
    assert lines()[0].endswith("is refused (SignatureDoesNotMatch): check AWS_ACCESS_KEY_ID and co.")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    assert lines()[0].endswith("(EndpointConnectionError): check AWS_ENDPOINT_URL, and that the server runs")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(folder))
    assert lines()[0].endswith(": set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")


def test_doctor_looks_at_the_dvc_remotes(s3: S3, tmp_path: Path) -> None:
    assert list(services.dvc_remotes(tmp_path)) == []
    (tmp_path / "disk").mkdir()
    (tmp_path / "config").write_text(
        "[core]\n    analytics = false\n"
        f"['remote \"store\"']\n    url = s3://{s3.bucket}/dvc\n    endpointurl = {s3.endpoint}\n"
        "['remote \"disk\"']\n    url = disk\n['remote \"gone\"']\n    url = gone\n"
        "['remote \"far\"']\n    url = ssh://me:my-password@host/dvc\n"
    )
    (tmp_path / "config.local").write_text(
        f"['remote \"store\"']\n    access_key_id = {s3.environment['AWS_ACCESS_KEY_ID']}\n"
        f"    secret_access_key = {s3.environment['AWS_SECRET_ACCESS_KEY']}\n"
    )
    assert [check.line() for check in services.dvc_remotes(tmp_path)] == [
        f"ok    s3         DVC's remote store: s3://{s3.bucket}/dvc can be listed, and is empty",
        "ok    dvc        remote disk: disk",
        "TO DO dvc        remote gone: gone: no such directory: mount it",
        "ok    dvc        remote far: ssh://host/dvc, not asked here; dvc push says more",
        "TO DO dvc        no remote is the default: dvc remote default store",
    ]


def test_doctor_asks_prefect(free_port: int) -> None:
    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == f"Basic {base64.b64encode(b'me:secret').decode()}"
            self.send_response(200 if allowed else 401)
            self.end_headers()
            self.wfile.write(b'"3.8.8"')

        def log_message(self, *_: object) -> None:
            pass

    assert list(services.prefect({})) == []
    closed = {"PREFECT_API_URL": f"http://me:secret@127.0.0.1:{free_port}/api"}
    (check,) = services.prefect(closed)
    assert check.line() == (
        f"TO DO prefect    nobody answers at http://127.0.0.1:{free_port}/api (URLError): "
        "make server starts one; or unset PREFECT_API_URL"
    )
    for wrong, found in (
        ("me:secret@127.0.0.1:4200/api", "PREFECT_API_URL: 127.0.0.1:4200/api"),
        ("http://me:secret@127.0.0.1:42oo/api", "nobody answers at http://127.0.0.1:42oo/api (InvalidURL)"),
        ("http://[::1/api", "nobody answers at http://[::1/api (ValueError)"),
    ):
        (check,) = services.prefect({"PREFECT_API_URL": wrong})
        assert check.line().startswith(f"TO DO prefect    {found}")
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        (check,) = services.prefect({"PREFECT_API_URL": url})
        assert check.line() == f"TO DO prefect    {url} refuses with status 401: set PREFECT_API_AUTH_STRING"
        (check,) = services.prefect({"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": "me:secret"})
        assert check.line() == f"ok    prefect    {url} answers, version 3.8.8"
        server.shutdown()


@pytest.fixture
def free_port() -> int:
    """A port of the loopback on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
