"""A local Ray for one stage, without the services that only a shared cluster needs.

For a stage that computes for seconds these services cost more than the stage: each is a Python process of
1 to 3 s of processor time, and Ray waits for some of them in turn. This uses private names of Ray (2.60),
which may differ in other versions; tests/stages/test_stages.py checks which processes are started.
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
    """Start none of SERVICES with a Ray that is started in this block."""
    with patched(Node, dict.fromkeys(SERVICES, lambda *arguments, **options: None)):
        yield


@contextlib.contextmanager
def reap_children() -> Iterator[None]:
    """End Ray's processes that were started in this block with it, including orphans.

    On Linux the system makes orphans children of this process, by `adopt_orphans`.
    """
    adopt_orphans(True)
    # Children from before belong to the caller: a notebook, or a test with another Ray.
    earlier = set(psutil.Process().children(recursive=True))
    try:
        yield
    finally:
        survivors = [
            each for each in set(psutil.Process().children(recursive=True)) - earlier if _is_rays(each)
        ]
        for process in survivors:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(survivors, timeout=5)
        adopt_orphans(False)


def _is_rays(process: psutil.Process) -> bool:
    try:
        return process.name().startswith(("ray::", *HEAD)) or "/ray/" in " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return False


@contextlib.contextmanager
def watch_ray() -> Iterator[None]:
    """Raise an error as soon as gcs_server or the raylet of the Ray that was started here dies.

    Ray 2.60 itself waits for 30 to 63 s and then ends this process, perhaps without a message. Only the main
    thread can be interrupted; in another one the block is left to Ray's own waiting.

    Raises:
        StageError: one has died; the others are ended too.
    """
    node = ray._private.worker._global_node
    processes = [info.process for kind in HEAD for info in node.all_processes.get(kind, [])]
    ended, died = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            if any(process.poll() is not None for process in processes):
                died.set()
                # Without grace: the survivors wait for the dead one, and an agent could outlive them all.
                node.kill_all_processes(check_alive=False, allow_graceful=False)
                _thread.interrupt_main()
                return

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        try:
            yield
        finally:
            ended.set()
            watcher.join()
    except BaseException as error:
        # The interruption that `watch` caused, or whatever error Ray raised of the death before it.
        if died.is_set():
            message = "Ray's own processes died; the same command resumes from its last epoch"
            raise StageError(message) from error
        raise


@contextlib.contextmanager
def patched(owner: type, attributes: dict[str, Any]) -> Iterator[None]:
    """Replace attributes of a class in this block; names that this version of Ray lacks are ignored."""
    before = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    for name in before:
        setattr(owner, name, attributes[name])
    try:
        yield
    finally:
        for name, attribute in before.items():
            setattr(owner, name, attribute)
