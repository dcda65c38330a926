"""Stages on clusters of several nodes: code and inputs on every node, nodes lost while a stage computes."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from akgp import params, sweep
from akgp.orchestration import cluster
from akgp.orchestration.failures import ComputationError, WorkerLost, raise_cause
from akgp.orchestration.run import run_stage
from akgp.orchestration.session import ENVIRONMENT
from akgp.workspace import StageError, Task
from tests.support.clusters import ray_cluster
from tests.support.servers import wait_for
from tests.sweep.test_sweep_runs import untrained_workspace

ROOT = Path(__file__).parents[2]
AKGP = str(Path(sys.executable).with_name("akgp"))
RAY = str(Path(sys.executable).with_name("ray"))
MEASURED = {"seconds", "images_per_second"}


def write_params(root: Path, ray: dict[str, Any], epochs: int = 3, **others: Any) -> params.Params:
    """A pipeline that takes seconds, as the params.yaml of `root`."""
    training = {
        "epochs": epochs, "batch_size": 60, "learning_rate": 0.1,
        "augment": {"crop_padding": 1, "flip": False},
    }  # fmt: skip
    tree = {
        "data": {"color": "gray", "splits": {"test": 0.25}},
        "networks": {"small": {"architecture": "my_nets:small"}},
        "teachers": ["small"],
        "student": "small",
        "teacher": training,
        "distill": {"training": training},
        "ray": {"cpus_per_worker": 1} | ray,
    } | others
    (root / "my_nets.py").write_text(
        "from akgp.models import cifar_resnet\n\n"
        "def small(num_classes, in_channels):\n"
        "    return cifar_resnet(8, widths=(8, 8, 16), num_classes=num_classes, in_channels=in_channels)\n"
    )
    validated = params.validate(tree)
    (root / "params.yaml").write_text(params.dump(validated))
    return validated


def history(root: Path) -> list[dict[str, float]]:
    rows = json.loads((root / "models" / "dense" / "small" / "history.json").read_text())
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]


def start(root: Path, *command: str) -> subprocess.Popen[bytes]:
    """`akgp` with these words, `stage teacher` by default."""
    with (root / "stderr").open("wb") as errors:
        return subprocess.Popen(
            [AKGP, *(command or ("stage", "teacher"))], cwd=root, stdout=subprocess.DEVNULL, stderr=errors
        )


def said(root: Path) -> str:
    """What the stage said, without the states of its bar."""
    lines = (root / "stderr").read_text().replace("\r", "\n").splitlines()
    return "\n".join(line for line in lines if not line.startswith("teacher@small  "))


# What travels


def test_inputs_and_code_travel_and_nothing_else(tmp_path: Path) -> None:
    root, url = tmp_path / "here", "memory://akgp/job/inputs"
    for name in ("data/prepared/train.parquet", "models/dense/small/model.json", "nets/mine.py", "big.bin",
                 "data/raw/notes.py", ".venv/lib/a.py", "env/pyvenv.cfg", "env/lib/b.py"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    task = Task("distill", write_params(root, {}), root)
    cluster.upload_inputs(root, [root / "data" / "prepared", root / "models" / "dense" / "small"], url)
    with cluster.download_inputs(task, url) as there:
        assert there == replace(task, root=there.root)
        files = sorted(path for path in there.root.rglob("*") if path.is_file())
        assert [str(file.relative_to(there.root)) for file in files] == [
            "data/prepared/train.parquet", "models/dense/small/model.json", "my_nets.py", "nets/mine.py",
        ]  # fmt: skip
        assert (there.root / "nets" / "mine.py").read_text() == "nets/mine.py"
    assert not there.root.exists()


def test_inputs_outside_of_the_workspace_cannot_travel(tmp_path: Path) -> None:
    (tmp_path / "teacher.pt").touch()
    with pytest.raises(StageError, match=r"teacher\.pt lies outside the workspace .*move it into"):
        cluster.upload_inputs(tmp_path / "root", [tmp_path / "teacher.pt"], (tmp_path / "store").as_uri())


def test_a_store_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    task = Task("distill", write_params(tmp_path, {}), tmp_path)
    with (
        pytest.raises(StageError, match=rf"file://.*/none cannot be read on {socket.gethostname()} \("),
        cluster.download_inputs(task, (tmp_path / "none").as_uri()),
    ):
        pass


def test_the_runtime_environment_is_akgp_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    with cluster.runtime_env(ENVIRONMENT) as environment:
        assert environment["env_vars"] == ENVIRONMENT
        code = Path(environment["working_dir"])
        assert [path.name for path in code.iterdir()] == ["akgp"]
        assert (code / "akgp" / "orchestration" / "worker.py").exists()
        assert sum(path.stat().st_size for path in code.rglob("*")) < 4 << 20
    assert set(environment) == {"env_vars", "working_dir"} and not code.exists()


# Parameters, and what counts as a loss


@pytest.mark.parametrize(
    ("ray", "message"),
    [
        ({"min_workers": 1}, "ray: min_workers is for a cluster: it must be null if address is"),
        (
            {"address": "auto", "workers": 2, "min_workers": 3},
            "ray: min_workers (3) must be at most workers (2)",
        ),
        (
            {"address": "auto", "workers": 8, "min_workers": 6},
            "teacher.batch_size: 60 must be divisible by ray.workers (7)",
        ),
    ],
)
def test_elasticity_is_checked_beforehand(ray: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(params.ParamsError) as raised:
        write_params(tmp_path, ray)
    assert message in str(raised.value)


def health_check_failed() -> Exception:
    """Of a worker that has died, as Ray Train tells it."""
    from ray.exceptions import ActorDiedError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    return WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())


DEAD = "the worker's process is gone"
GLOO = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer")


@pytest.mark.parametrize(
    ("failures", "expected", "message"),
    [
        ([DEAD], WorkerLost, "^teacher: a worker died .*; `dvc repro` resumes"),
        ([GLOO, DEAD], WorkerLost, "a worker died"),
        ([GLOO], WorkerLost, "a worker died"),  # seen before the peer's death
        ([RuntimeError("a fault"), GLOO], ComputationError, "^teacher: RuntimeError: a fault$"),
        ([RuntimeError("a fault"), DEAD], ComputationError, "^teacher: RuntimeError: a fault$"),
        ([GLOO, ValueError("a user's mistake")], ValueError, "^a user's mistake$"),
        ([SystemExit(3)], ComputationError, "^teacher: SystemExit: 3$"),
    ],
)
def test_only_a_loss_is_tried_again(failures: list[Any], expected: type[Exception], message: str) -> None:
    """Of what the computation raised Ray Train hands over the error itself."""
    told = [health_check_failed() if each is DEAD else each for each in failures]
    with pytest.raises(expected, match=message) as raised:
        raise_cause("teacher", ZeroDivisionError(), told)
    assert raised.type is expected


# Several nodes on this machine


class Nodes:
    """A cluster whose head computes nothing, with nodes of one processor each."""

    def __init__(self, running: Any) -> None:
        self.running = running
        self.nodes: list[Any] = []

    def grow(self, count: int) -> None:
        while len(self.nodes) < count:
            self.nodes.append(self.running.add_node(num_cpus=1))

    def kill_one_that_computes(self, title: str) -> None:
        """By force, with all its processes; one of them has this title."""
        import psutil

        for node in self.nodes:
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            computing = raylet.children(recursive=True)
            if any(title in " ".join(process.cmdline()) for process in computing):
                for process in (raylet, *computing):  # workers would compute on until they miss it
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                self.running.remove_node(node, allow_graceful=False)
                self.nodes.remove(node)
                return
        raise AssertionError(f"no node has a {title}")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_cluster(head_cpus=0) as running:
        yield Nodes(running)


def kill_a_node_after_a_checkpoint(
    nodes: Nodes,
    root: Path,
    process: subprocess.Popen[bytes],
    run: str = "runs/teacher-small-*",
    title: str = "RayTrainWorker",
) -> None:
    def checkpoint() -> bool:
        assert process.poll() is None, said(root)
        return bool(list(root.glob(f"{run}/checkpoint_*/state.pt")))

    wait_for(checkpoint, 300, lambda: said(root))
    nodes.kill_one_that_computes(title)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("cpus", "concurrent", "workers", "message"),
    [
        (
            2,
            1,
            1,
            "with 2 CPU(s) and 0 GPU(s) each, are asked for, but the cluster has room for 0 worker(s)",
        ),
        (1, 4, 1, "has room for 3 worker(s), each in one node: lower it to 3, or add nodes"),
        (1, 2, 2, "has room for 3 worker(s), each in one node: lower it to 1, or add nodes"),
    ],
)
def test_a_cluster_smaller_than_the_sweep_is_refused(
    cpus: int, concurrent: int, workers: int, message: str, nodes: Nodes, tmp_path: Path
) -> None:
    """Also one whose processors would do in sum, but each node is too small for a worker: it would hang."""
    nodes.grow(3)
    untrained_workspace(
        tmp_path,
        ray={"address": nodes.running.address, "cpus_per_worker": cpus, "workers": workers},
        sweep={"trials": 4, "concurrent": concurrent, "space": {"distill.w0": {"min": 0.2, "max": 0.9}}},
    )
    with pytest.raises(StageError) as refused:
        sweep.run(tmp_path)
    said = str(refused.value)
    assert said.startswith(f"sweep.concurrent: {concurrent} trial(s) at a time, of {workers} worker")
    assert message in said and len(said.splitlines()) == 1
    assert not (tmp_path / "sweeps" / "trials.parquet").exists()
    if cpus == 2:
        asked = r"ray\.cpus_per_worker: 1 worker\(s\) with 2 CPU\(s\) and 0 GPU\(s\) each are asked for"
        with pytest.raises(StageError, match=f"^{asked}, but the cluster has room for 0 .*: lower it to 1"):
            run_stage("teacher", root=tmp_path)


@pytest.mark.ray
def test_a_lost_node_does_not_end_the_run_nor_change_its_result(nodes: Nodes, tmp_path: Path) -> None:
    """Two workers, a spare node; both trainings take the same code and inputs by the cluster."""
    nodes.grow(3)
    roots = {name: tmp_path / name for name in ("undisturbed", "killed")}
    for root in roots.values():
        root.mkdir()
        write_params(root, {"address": nodes.running.address, "workers": 2}, epochs=10)
        run_stage("data", root=root)
    assert start(roots["undisturbed"]).wait(300) == 0, said(roots["undisturbed"])
    process = start(roots["killed"])
    kill_a_node_after_a_checkpoint(nodes, roots["killed"], process)
    assert process.wait(300) == 0, said(roots["killed"])
    assert "a worker died" in said(roots["killed"])
    assert history(roots["killed"]) == history(roots["undisturbed"])


@pytest.mark.ray
def test_three_workers_become_two(nodes: Nodes, tmp_path: Path) -> None:
    nodes.grow(3)
    ray = {"address": nodes.running.address, "workers": 3, "min_workers": 2}
    write_params(tmp_path, ray, epochs=10)
    run_stage("data", root=tmp_path)
    process = start(tmp_path)
    kill_a_node_after_a_checkpoint(nodes, tmp_path, process)
    assert process.wait(300) == 0, said(tmp_path)
    assert "a worker died" in said(tmp_path)
    rows = history(tmp_path)
    assert [row["epoch"] for row in rows] == list(range(1, 11))
    assert max(row["val_top1"] for row in rows) > 90


@pytest.mark.ray
def test_a_lost_node_does_not_end_a_trial(nodes: Nodes, tmp_path: Path) -> None:
    nodes.grow(3)
    searched = {
        "trials": 3,
        "concurrent": 2,
        "grace_epochs": 40,
        "space": {"prune.ratio": {"choices": [0.3, 0.4, 0.5]}},
    }
    write_params(tmp_path, {"address": nodes.running.address}, epochs=40, sweep=searched)
    for stage in ("data", "teacher"):
        run_stage(stage, root=tmp_path)
    process = start(tmp_path, "sweep", "run")
    kill_a_node_after_a_checkpoint(nodes, tmp_path, process, "sweeps/*/*", "ImplicitFunc")
    assert process.wait(300) == 0, said(tmp_path)
    assert list(tmp_path.glob("sweeps/*/*/error.txt"))  # of the lost one
    assert [(trial.status, trial.epochs) for trial in sweep.best(root=tmp_path)] == 3 * [("finished", 40)]


@contextlib.contextmanager
def elsewhere(address: str, hidden: Path) -> Iterator[None]:
    """A node of two processors on which `hidden` is an empty folder: another machine's disk."""
    mount = f"mount -t tmpfs none {hidden} && exec {RAY} start --address={address} --num-cpus=2 --block"
    with subprocess.Popen(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", mount],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def processors(address: str) -> float:
    """Of the whole cluster."""
    code = f"import ray; ray.init('{address}'); print(ray.cluster_resources().get('CPU', 0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return float(done.stdout or 0)


@pytest.mark.ray
@pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(["unshare", "--mount", "--map-root-user", "true"], capture_output=True).returncode != 0,
    reason="needs mount namespaces",
)
def test_a_node_that_does_not_see_the_workspace(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused with a storage on the driver's disk, and all it needs travels through one on S3."""
    for key, value in s3.environment.items():
        monkeypatch.setenv(key, value)
    with ray_cluster(head_cpus=0) as head, elsewhere(head.address, tmp_path):
        write_params(tmp_path, {"address": head.address})
        run_stage("data", root=tmp_path)
        wait_for(lambda: processors(head.address) == 2, 120, lambda: "the node did not come")
        assert start(tmp_path).wait(300) == 1
        assert f"does not see {tmp_path} of {socket.gethostname()}: put the" in said(tmp_path)
        assert not (tmp_path / "models").exists()
        assert not list(tmp_path.glob(".akgp-*"))
        storage = f"s3://{s3.bucket}/travelling"
        write_params(tmp_path, {"address": head.address, "storage": storage, "workers": 2})
        assert start(tmp_path).wait(300) == 0, said(tmp_path)
        (line,) = filter(str.strip, said(tmp_path).splitlines())
        assert line.startswith("akgp: networks.small: pruning will remove"), "no more than its notice"
    assert len(history(tmp_path)) == 3
    record = json.loads((tmp_path / "models" / "dense" / "small" / "sources.json").read_text())
    assert list(record) == ["my_nets.py"]


# What infra/ holds


def infra(name: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all((ROOT / "infra" / name).read_text()))


def pin(package: str) -> str:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    (version,) = (line.partition("==")[2] for line in pins if line.startswith(f"{package}=="))
    return version


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_the_kuberay_files_fit_the_pins_and_each_other(name: str) -> None:
    first, *others = infra(f"kuberay/{name}")
    assert first["apiVersion"] == "ray.io/v1"
    cluster = first["spec"].get("rayClusterSpec", first["spec"])
    assert cluster["rayVersion"] == pin("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert workers["minReplicas"] == workers["replicas"] <= workers["maxReplicas"]
    claims = {claim["metadata"]["name"] for claim in [*others, *infra("kuberay/raycluster.yaml")[1:]]}
    for group in (head, workers):
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"].endswith("akgp:latest")
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert volumes["workspace"]["persistentVolumeClaim"]["claimName"] in claims


def test_the_ray_up_file_fits_rays_schema() -> None:
    import ray
    from jsonschema import validate

    (found,) = infra("ray-up.yaml")
    validate(found, json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text()))
    starts = found["head_start_ray_commands"] + found["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)


def test_compose_publishes_on_the_loopback_and_holds_no_secret() -> None:
    (found,) = infra("compose.yaml")
    services = found["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    assert f":{pin('prefect')}-" in services["prefect"]["image"]
    asked = dict(
        line.split("=", 1)
        for line in (ROOT / "infra" / "compose.env.example").read_text().splitlines()
        if not line.startswith("#")
    )
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "infra" / "compose.yaml").read_text()))
    assert set(asked) == used and set(asked.values()) == {""}
