"""A Ray of our own, for one stage: what serves a cluster that others share is not started.

Beside a stage that computes for seconds, such processes are most of what it costs: each is a Python of
1 to 3 seconds of processor time, and some are waited for one after the other. This leans on inner names
of Ray, which another version may call differently; tests/stages/test_stages.py says what is started and
what not.
"""

from __future__ import annotations

import _thread
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import ray
from ray._private.node import Node

from akgp.io.processes import adopt_orphans
from akgp.workspace import StageError

HEAD = ("gcs_server", "raylet")
# The dashboard, logs to the driver, the autoscaler.
SERVICES = ("start_api_server", "start_log_monitor", "start_monitor")


@contextlib.contextmanager
def without_services() -> Iterator[None]:
    """A Ray that is started in this block starts what computes, and none of SERVICES."""
    with changed(Node, dict.fromkeys(SERVICES, lambda *arguments, **options: None)):
        yield


@contextlib.contextmanager
def reap_children() -> Iterator[None]:
    """Ray's processes that were started in this block end with it, also those whose parent has been killed.

    On Linux the system hands them to this process then.
    """
    adopt_orphans(True)
    earlier = set(psutil.Process().children(recursive=True))
    try:
        yield
    finally:
        left = [each for each in set(psutil.Process().children(recursive=True)) - earlier if _is_rays(each)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        adopt_orphans(False)


def _is_rays(process: psutil.Process) -> bool:
    try:
        return process.name().startswith(("ray::", *HEAD)) or "/ray/" in " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return False


@contextlib.contextmanager
def watch_ray() -> Iterator[None]:
    """In this block, the death of a process of the Ray that was started here is an error at once.

    Ray itself waits for a minute, then it may end this process without a word. In another thread than the
    main one, which alone can be interrupted, it is left to that.

    Raises:
        StageError: one has died; the others are ended, too.
    """
    node = ray._private.worker._global_node
    processes = [info.process for kind in HEAD for info in node.all_processes.get(kind, [])]
    ended, died = threading.Event(), threading.Event()

    def attend() -> None:
        while not ended.wait(0.5):
            if any(process.poll() is not None for process in processes):
                died.set()
                node.kill_all_processes(check_alive=False, allow_graceful=False)
                _thread.interrupt_main()
                return

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    attendant = threading.Thread(target=attend, daemon=True)
    attendant.start()
    try:
        try:
            yield
        finally:
            ended.set()
            attendant.join()
    except BaseException as error:
        if died.is_set():
            said = "Ray's own processes died; the same command resumes from its last epoch"
            raise StageError(said) from error
        raise


@contextlib.contextmanager
def changed(owner: type, attributes: dict[str, Any]) -> Iterator[None]:
    """In this block the class has these attributes, where it has one of that name at all."""
    before = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    for name in before:
        setattr(owner, name, attributes[name])
    try:
        yield
    finally:
        for name, attribute in before.items():
            setattr(owner, name, attribute)
