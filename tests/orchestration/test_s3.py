"""A real S3 server: what is read of it a second time, and what its outages do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from akgp.data import DataError
from akgp.data.cache import Files, user_cache
from akgp.deployment import release
from akgp.io import storage
from akgp.orchestration.checkpoints import require_writable
from akgp.workspace import StageError
from infra.s3 import client, server
from tests.support.images import encoded, image_folder, parquet, pixels_of, prepared, twenty

BUCKET, KEY, SECRET = "outages", "AKGPTESTACCESSKEY", "secret-of-the-server-that-fails"
IMAGES = {"splits": {"calibration": 0.2, "validation": 0.2, "test": 0.2}, "source": "image_folder"}


@pytest.fixture
def user(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with an empty cache and the credentials of `s3`; gives the cache of sources."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return user_cache() / "sources"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every request of s3fs, as 'GET name' of an object or 'GET ?' of a listing."""
    from aiobotocore.httpsession import AIOHTTPSession

    made: list[str] = []
    send = AIOHTTPSession.send

    async def recorded(self: AIOHTTPSession, request: Any) -> Any:
        path, _, query = request.url.partition("?")
        made.append(f"{request.method} {'?' if 'list-type' in query else path.rpartition('/')[2]}")
        return await send(self, request)

    monkeypatch.setattr(AIOHTTPSession, "send", recorded)
    return made


def put(s3: Any, key: str, content: bytes) -> None:
    with client(s3.environment) as store:
        store.put_object(Bucket=s3.bucket, Key=key, Body=content)


def remove(s3: Any, key: str) -> None:
    with client(s3.environment) as store:
        store.delete_object(Bucket=s3.bucket, Key=key)


# The cache


def test_only_what_is_new_is_downloaded(s3: Any, tmp_path: Path, user: Path, requests: list[str]) -> None:
    folder = image_folder(tmp_path / "images")
    url = s3.upload(folder, "night")

    def night() -> tuple[list[str], str]:
        """What is asked of the store when the images are prepared, and their digest."""
        requests.clear()
        summary = prepared(tmp_path / "prepared", **IMAGES, path=url)[0]
        return sorted(requests), summary.digest

    asked, first = night()
    assert asked == sorted(["GET ?", *[f"GET {number}.png" for number in range(10)] * 2])
    assert len(list(user.glob("*/*"))) == 20
    assert night() == (["GET ?"], first)

    put(s3, "night/ant/new.png", encoded(pixels_of(7)))
    put(s3, "night/bee/3.png", encoded(pixels_of(8)))
    asked, second = night()
    assert asked == ["GET 3.png", "GET ?", "GET new.png"]
    assert second != first

    remove(s3, "night/ant/new.png")
    put(s3, "night/bee/3.png", (folder / "bee" / "3.png").read_bytes())
    assert night() == (["GET 3.png", "GET ?"], first)
    assert len(list(user.glob("*/*"))) == 20  # no copy is left of what has changed or is gone

    damaged = sorted(user.glob("*/*"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    asked, again = night()
    assert (len(asked), again) == (2, first)
    assert night() == (["GET ?"], first)


def test_tables_are_kept_too(s3: Any, tmp_path: Path, user: Path, requests: list[str]) -> None:
    contents, labels = twenty()
    tables = parquet(tmp_path / "tables" / "a.parquet", contents, labels)
    (tables / "files").mkdir()
    (tables / "files" / "one.png").write_bytes(contents[0])
    parquet(tables / "b.parquet", ["files/one.png", "files/one.png"], ["ant", "bee"])
    url = s3.upload(tables, "tables-night")
    here = prepared(tmp_path / "here", **IMAGES | {"source": "parquet"}, path=str(tables))[0]
    for expected in (["GET ?", "GET a.parquet", "GET b.parquet", "GET one.png"], ["GET ?"]):
        requests.clear()
        there, _, origins = prepared(tmp_path / "there", **IMAGES | {"source": "parquet"}, path=url)
        assert sorted(requests) == expected
        assert there.digest == here.digest
        assert all(origin.startswith(url) for origin in origins["train"])
    put(s3, "tables-night/b.parquet", b"PAR1 damaged")
    with pytest.raises(DataError, match=rf"^{url}/b\.parquet: no Parquet file, or a damaged one"):
        prepared(tmp_path / "there", **IMAGES | {"source": "parquet"}, path=url)


def test_other_files_than_the_listed_are_read_but_not_kept(s3: Any, user: Path) -> None:
    put(s3, "listed/a.png", b"a")
    put(s3, "elsewhere/b.png", b"b")
    base = f"s3://{s3.bucket}"
    files = Files(f"{base}/listed")
    assert files.names == ["a.png"]
    found = files.read([f"{base}/elsewhere/b.png", f"{base}/listed/a.png", f"{base}/listed/none.png"])
    assert found[:2] == [b"b", b"a"]
    assert isinstance(found[2], DataError) and str(found[2]) == f"{base}/listed/none.png: no such file"
    assert len(list(user.glob("*/*"))) == 1


def test_interrupted_downloads_are_no_copies_and_go(s3: Any, user: Path) -> None:
    put(s3, "parts/a.png", b"a")
    url = f"s3://{s3.bucket}/parts"
    Files(url).read([f"{url}/a.png"])
    (copy,) = user.glob("*/*")
    new, old = copy.with_name(f"{copy.name}.1.part"), copy.with_name(f"{copy.name}.2.part")
    new.write_bytes(b"")
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    assert Files(url).read([f"{url}/a.png"]) == [b"a"]
    assert sorted(copy.parent.iterdir()) == [copy, new]


def test_a_disk_is_read_directly(user: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    assert Files(str(tmp_path)).read([f"{tmp_path}/a.png"]) == [b"a"]
    assert not user.exists()


def test_a_cache_that_cannot_be_written_is_named(s3: Any, user: Path) -> None:
    put(s3, "unkept/a.png", b"a")
    url = f"s3://{s3.bucket}/unkept"
    user.parent.parent.mkdir()
    user.parent.write_text("in the way")
    with pytest.raises(DataError, match=r"can't be written \(.+\): free some space, or let XDG_CACHE_HOME"):
        Files(url).read([f"{url}/a.png"])


# Settings


def test_checkpoints_need_a_bucket_that_is_there(user: Path, s3: Any) -> None:
    require_writable(f"s3://{s3.bucket}/a-new-folder")
    with client(s3.environment) as store:
        listed = store.list_objects_v2(Bucket=s3.bucket, Prefix="a-new-folder")["Contents"]
        assert [each["Key"] for each in listed] == ["a-new-folder/"], "Ray makes it too"
    with pytest.raises(StageError, match=r"^ray\.storage: s3://no-bucket/runs: cannot be written \(.*bucket"):
        require_writable("s3://no-bucket/runs")


@pytest.mark.parametrize("name", storage.ENDPOINTS)
def test_an_endpoint_without_scheme_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # that of S3 alone goes first
    monkeypatch.setenv(name, "localhost:8444")
    said = f"^{name}: got 'localhost:8444', must begin with http:// or https://$"
    for call in (lambda: release.releases("s3://bucket/releases"), lambda: Files("s3://bucket/images")):
        with pytest.raises(ValueError, match=said):
            call()


def test_a_wrong_endpoint_in_the_file_of_settings_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # they keep the address of an earlier test
    (tmp_path / "config").write_text("[default]\nendpoint_url = localhost:8444\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(
        DataError, match=r"^s3://bucket/x: can't be read \(Invalid endpoint: localhost:8444\)$"
    ):
        Files("s3://bucket/x")


# Outages


def test_waits_grow_and_end(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds

    def fails() -> None:
        raise ConnectionResetError("cut")

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with pytest.raises(ConnectionResetError):
        storage.retry_outage("s3://bucket/file", fails)
    assert waits[:6] == [1, 2, 4, 8, 15, 15]
    assert storage.OUTAGE_SECONDS - storage.LONGEST_WAIT < sum(waits) <= storage.OUTAGE_SECONDS
    assert caplog.messages[0] == "s3://bucket/file: cut; tried again in 1 s"

    waits.clear()
    with pytest.raises(ConnectionResetError):
        storage.retry_outage("a/file/here", fails)
    with pytest.raises(PermissionError):
        storage.retry_outage("s3://bucket/file", lambda: (_ for _ in ()).throw(PermissionError("refused")))
    assert waits == []


class Failing:
    """A server that can be stopped and started again, with the same data on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()
        self.environment: dict[str, str] = {}
        self.bucket = BUCKET
        self.start()

    def start(self) -> None:
        port = int(self.environment["AWS_ENDPOINT_URL"].rpartition(":")[2]) if self.environment else None
        self.environment = self._running.enter_context(server(self._folder, BUCKET, KEY, SECRET, port))

    def stop(self) -> None:
        self._running.close()

    def signal(self, number: int) -> None:
        alive = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
        (process,) = (each for each in alive if f"-dir={self._folder / 'data'}" in each.cmdline())
        process.send_signal(number)

    def fail(self, seconds: float, how: str) -> threading.Thread:
        """Fail now, and be back after `seconds`; the thread ends then."""
        self.stop() if how == "stopped" else self.signal(signal.SIGSTOP)

        def back() -> None:
            time.sleep(seconds)
            self.start() if how == "stopped" else self.signal(signal.SIGCONT)

        thread = threading.Thread(target=back)
        thread.start()
        return thread


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Failing]:
    found = Failing(tmp_path_factory.mktemp("fragile"))
    yield found
    found.stop()


@pytest.fixture
def failing(fragile: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    """`fragile` as the store of a user with an empty cache."""
    import s3fs

    for name, value in fragile.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    s3fs.S3FileSystem.clear_instance_cache()  # they keep the address that the variables named before
    yield fragile
    s3fs.S3FileSystem.clear_instance_cache()


OUTAGE_SECONDS = float(os.environ.get("AKGP_TEST_OUTAGE", "5"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_images_are_read_through_an_outage(failing: Failing, tmp_path: Path, how: str) -> None:
    folder = image_folder(tmp_path / "images", images=100)  # read in several blocks
    with client(failing.environment) as store:
        for file in folder.rglob("*.png"):
            store.put_object(
                Bucket=BUCKET, Key=f"{how}/{file.parent.name}/{file.name}", Body=file.read_bytes()
            )
    url = f"s3://{BUCKET}/{how}"
    files = Files(url)
    addresses = [f"{url}/{name}" for name in files.names]
    before = files.read(addresses[:64])
    thread = failing.fail(OUTAGE_SECONDS, how)
    after = files.read(addresses[64:])
    thread.join()
    assert before + after == [(folder / name).read_bytes() for name in files.names]
    thread = failing.fail(OUTAGE_SECONDS, how)
    assert Files(url).read(addresses) == before + after  # listed in an outage, and read from the cache
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_a_promotion_outlasts_an_outage(failing: Failing, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store fails before the first of a release's files, and again before the pointer."""
    from tests.support.releases import network, promote

    where = f"s3://{BUCKET}/releases-{how}"
    first = promote(where, network(1))
    store = sys.modules["akgp.deployment.release.store"]
    last: list[threading.Thread] = []

    def in_outage(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: str, *contents: bytes | None) -> Any:
            if path.endswith(("model.onnx", "current.json")):
                last.append(failing.fail(OUTAGE_SECONDS, how))
            done = change(path, *contents)
            if last:
                last.pop().join()
            return done

        return call

    with monkeypatch.context() as patched:
        for name in ("write", "replace"):
            patched.setattr(store, name, in_outage(getattr(store, name)))
        second = promote(where, network(2))
    assert release.releases(where) == [first, second]
    assert release.load(where, second) and release.load(where, first)


@pytest.mark.slow
def test_a_promotion_that_outlasts_patience_keeps_the_old_release(
    failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.releases import network, promote

    where = f"s3://{BUCKET}/releases"
    first = promote(where, network(1))
    monkeypatch.setattr(storage, "OUTAGE_SECONDS", 3.0)
    failing.stop()
    with pytest.raises(release.ReleaseError, match=rf"^{where}/current\.json: ") as error:
        promote(where, network(2))
    assert "\n" not in str(error.value) and SECRET not in str(error.value)
    failing.start()
    assert release.current(where) == first
    second = promote(where, network(2))
    assert release.releases(where) == [first, second]


@pytest.mark.ray
def test_a_training_ends_well_after_outages(failing: Failing, tmp_path: Path) -> None:
    """Its checkpoints lie on a store that fails twice: it waits, or fails and is resumed by the next run."""
    import s3fs

    from akgp import artifacts
    from akgp.orchestration.run import run_stage
    from tests.stages.test_stages import errors, history, start, write_params

    training = {"epochs": 60, "batch_size": 64, "learning_rate": 0.1}
    storage = f"s3://{BUCKET}/runs"
    write_params(tmp_path, teacher=training, ray={"cpus_per_worker": 1, "storage": storage})
    run_stage("data", root=tmp_path)
    store = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)

    def checkpoints() -> set[str]:
        return set(store.glob(f"{storage}/teacher-small-*/checkpoint_*/state.pt"))

    def resumed(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """The process, or another one if an outage has ended it."""
        if process.poll() is None:
            return process
        assert process.returncode != 0, "it ended before the store failed"
        assert f"in bucket '{BUCKET}'" in errors(tmp_path)[-1]
        assert SECRET not in (tmp_path / "stderr").read_text()
        return start(tmp_path)

    process = start(tmp_path)
    for how in ("stopped", "hung"):
        before, deadline = checkpoints(), time.monotonic() + 300
        while not checkpoints() - before:
            process = resumed(process)
            assert time.monotonic() < deadline, errors(tmp_path)
            time.sleep(0.2)
        failing.fail(OUTAGE_SECONDS, how).join()
    for _ in range(2):
        if process.wait(300) != 0:
            process = resumed(process)
    assert process.wait(300) == 0, errors(tmp_path)
    rows = history(tmp_path, "dense/small")
    assert [row["epoch"] for row in rows] == [*range(1, 61)]
    assert artifacts.load(tmp_path / "models" / "dense" / "small")
    assert not checkpoints(), "they are removed when the stage has ended"
    assert not (tmp_path / "runs").exists()
