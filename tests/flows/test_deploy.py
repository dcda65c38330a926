"""The deployments of prefect.yaml on a real Prefect server with its worker, over shell stages."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from flows import server
from tests.support.servers import Deployed, serving, wait_for

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with serving(tmp_path_factory.mktemp("deployed")) as found:
        yield found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_only_on_the_loopback_and_only_once(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.server"], cwd=deployed.folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (
        1,
        "akgp: a server runs in this workspace already; end it first\n",
    )
    with deployed.client() as client:
        assert client.read_work_pool("akgp").concurrency_limit == 1
    port = int(deployed.environment["PREFECT_API_URL"].split(":")[2].split("/")[0])
    with pytest.raises(server.ServerError, match=rf"port {port}: Address already in use; make server PORT="):
        monkeypatch.chdir(tmp_path)
        server.serve(port)
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {each.split(":")[0] for each in listening if int(each.split(":")[1], 16) == port}
    assert addresses == {"0100007F"}  # 127.0.0.1
    assert (deployed.folder / ".akgp" / "prefect" / "prefect.db").exists()


def test_runs_never_overlap_and_use_the_parameters(deployed: Deployed) -> None:
    asked = ("deployment", "run", "compress/compress", "-p", "recipe=digits", "-p", "force=true")
    first = UUID(deployed.prefect(*asked).partition("UUID: ")[2].split()[0])
    second = deployed.start("compress/compress", retries=0)
    runs = [deployed.ended(first), deployed.ended(second)]
    assert [run.state.name for run in runs if run.state] == ["Completed", "Completed"], deployed.log()
    earlier, later = sorted(runs, key=lambda run: str(run.start_time))
    assert earlier.end_time is not None and later.start_time is not None
    assert earlier.end_time <= later.start_time
    assert "seed: 7 " in (deployed.folder / "params.yaml").read_text()
    assert (deployed.folder / "ran").read_text().split() == ["data", "last"]


def test_parameters_are_checked_when_a_run_is_asked_for(deployed: Deployed) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    with deployed.client() as client:
        found = client.read_deployment_by_name("compress/compress")
        assert {"akgp", "pipeline"} <= set(found.tags)
        with pytest.raises(PrefectHTTPStatusError, match="retries"):
            client.create_flow_run_from_deployment(found.id, parameters={"retries": "many"})


def test_nightly_is_scheduled_and_fires(deployed: Deployed) -> None:
    from prefect.client.schemas.filters import DeploymentFilter
    from prefect.client.schemas.schedules import IntervalSchedule

    with deployed.client() as client:
        nightly = client.read_deployment_by_name("nightly/nightly")
        which = DeploymentFilter.model_validate({"id": {"any_": [nightly.id]}})

        def runs() -> list[FlowRun]:
            return client.read_flow_runs(deployment_filter=which)

        wait_for(lambda: len(runs()) >= 3, 120, deployed.log)
        planned = sorted(run.expected_start_time for run in runs())
        assert all((each.hour, each.minute) == (3, 0) for each in planned)
        assert planned[1] - planned[0] == timedelta(days=1)

        before = (deployed.folder / "ran").read_text().split().count("data")
        soon = datetime.now(UTC) + timedelta(seconds=12)  # the scheduler looks every 5 s
        hourly = IntervalSchedule(interval=timedelta(hours=1), anchor_date=soon)
        client.create_deployment_schedules(nightly.id, [(hourly, True)])
        wait_for(lambda: any(run.start_time for run in runs()), 180, deployed.log)
        (fired,) = (run for run in runs() if run.start_time)
        assert fired.auto_scheduled and abs(fired.expected_start_time - soon) < timedelta(seconds=1)
        deployed.ended(fired.id)  # badly: these stages make no int8 network that could be released
        assert (deployed.folder / "ran").read_text().split().count("data") == before + 1


def test_cancelling_ends_dvc_and_its_stage(deployed: Deployed) -> None:
    deployed.damage()
    (deployed.folder / "hang").touch()
    identity = deployed.start("compress/compress")
    wait_for((deployed.folder / "pids").exists, 180, deployed.log)
    time.sleep(0.2)
    shell, child = (int(pid) for pid in (deployed.folder / "pids").read_text().split())
    dvc = int(Path(f"/proc/{shell}/stat").read_text().rpartition(")")[2].split()[1])
    assert "dvc" in Path(f"/proc/{dvc}/cmdline").read_text()
    deployed.prefect("flow-run", "cancel", str(identity))
    wait_for(lambda: not any(map(alive, (dvc, shell, child))), 60, deployed.log)
    assert deployed.ended(identity).state.is_cancelled()
    (deployed.folder / "hang").unlink()
    (deployed.folder / "pids").unlink()
    after = deployed.start("compress/compress")  # the slot and DVC's locks are free again
    assert deployed.ended(after).state.is_completed(), deployed.log()


def test_the_end_leaves_no_process(deployed: Deployed) -> None:
    deployed.damage()
    (deployed.folder / "hang").touch()
    deployed.start("compress/compress")
    wait_for((deployed.folder / "pids").exists, 180, deployed.log)
    deployed.process.send_signal(signal.SIGTERM)
    assert deployed.process.wait(120) == 130, deployed.log()
    left = [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and alive(int(entry.name)) and _works_in(entry, deployed.folder)
    ]
    assert left == [], deployed.log()
    assert "is cancelled" in deployed.log()


def _works_in(process: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return (process / "cwd").resolve().is_relative_to(folder)
    return False
