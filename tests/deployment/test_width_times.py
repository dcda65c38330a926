"""Times of networks by their widths, with a clock that counts: nothing depends on this machine's speed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from onnx import helper
from torch import nn

from akgp.deployment import shortest
from akgp.deployment.kernel_table import REFERENCE, ROUNDS, TOGETHER, KernelTable, TimeLimitError, between
from akgp.deployment.width_times import WidthTimes, thinned
from akgp.runtimes import RUNTIMES
from akgp.timed_search import search


class CountingTimer:
    """A graph takes a microsecond for each byte of it; the machine is `slow` times as slow for a while."""

    def __init__(self) -> None:
        self.slow, self.timed = 1.0, 0

    def __call__(self, graphs: Sequence[onnx.ModelProto]) -> list[list[float]]:
        self.timed += len(graphs)
        sizes = [graph.ByteSize() / 1000 for graph in graphs]
        return [[self.slow * (1 + number % 3 / 10) * size for size in sizes] for number in range(ROUNDS)]


def graph(size: int) -> onnx.ModelProto:
    made = helper.make_graph([], "g" * size, [], [])
    return helper.make_model(made)


def test_times_of_a_slow_hour_are_those_of_a_quick_one(tmp_path: Path) -> None:
    timer, file = CountingTimer(), tmp_path / "kernels" / "table.json"
    table = KernelTable(file, timer)
    wanted = {f"{size}": (lambda size=size: graph(size)) for size in (100, 200, 300)}  # type: ignore[misc]
    assert table.measure({"100": wanted["100"]}) == 1
    timer.slow = 1.7
    assert table.measure(wanted) == 2
    assert table.times["300"] - table.times["100"] == pytest.approx(0.2, rel=0.05)
    again = KernelTable(file, timer)
    before = timer.timed
    assert again.measure(wanted) == 0 and timer.timed == before
    assert again.times == table.times and set(json.loads(file.read_text())) == {REFERENCE, *wanted}


def test_two_processes_share_a_table_and_its_reference(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    one, other = KernelTable(file, CountingTimer()), KernelTable(file, CountingTimer())
    assert one.measure({"100": lambda: graph(100)}) == 1
    assert other.measure({"100": lambda: graph(100), "400": lambda: graph(400)}) == 1
    assert other.times["100"] == one.times["100"] and other.times["400"] > one.times["100"] + 0.2
    assert one.measure({"200": lambda: graph(200)}) == 1
    assert set(KernelTable(file, CountingTimer()).times) == {REFERENCE, "100", "200", "400"}


def test_a_limit_of_time_ends_the_timing_and_what_is_timed_is_kept(tmp_path: Path) -> None:
    wanted = {f"{size}": (lambda size=size: graph(size)) for size in range(TOGETHER + 2)}  # type: ignore[misc]
    table = tmp_path / "table.json"

    class EndingTimer(CountingTimer):
        def __call__(self, graphs: Sequence[onnx.ModelProto]) -> list[list[float]]:
            if len(graphs) > 1:
                current.end = 0
            return super().__call__(graphs)

    why = r"the search ended after 9 s \(time_limit\): 8 of 10 kernels were timed and are kept; allow more"
    with search(9) as current, pytest.raises(TimeLimitError, match=why):
        KernelTable(table, EndingTimer()).measure(wanted)
    assert KernelTable(table, CountingTimer()).measure(wanted) == 2


def test_a_table_without_its_reference_is_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    KernelTable(file, CountingTimer()).measure({"a": lambda: graph(10)})
    file.with_suffix(".onnx").unlink()
    assert KernelTable(file, CountingTimer()).measure({"a": lambda: graph(10)}) == 1


def test_between_knots_times_are_linear_and_beyond_them_those_at_the_ends() -> None:
    assert between([8, 16, 32], 20) == (16, 32, 0.25)
    assert between([8, 16, 32], 4) == (8, 8, 0.0) and between([8, 16, 32], 32) == (32, 32, 0.0)


def test_few_of_many_sizes_are_measured_the_ends_among_them() -> None:
    assert thinned([8, 16, 24], 6) == [8, 16, 24]
    chosen = thinned(range(8, 513, 8), 6)
    assert (chosen[0], chosen[-1], len(chosen)) == (8, 512, 6)


def test_a_network_is_predicted_by_its_parts_and_measured_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortest, "LOADS", 1)
    monkeypatch.setattr(shortest, "ROUNDS", 1)
    timer = CountingTimer()
    table = KernelTable(tmp_path / "table.json", timer)
    network = nn.Sequential(*(nn.Conv2d(each, 16, 3) for each in (3, 16, 16)), nn.Flatten(), nn.Linear(64, 4))
    times = WidthTimes(network, (3, 8, 8), RUNTIMES["onnxruntime"], 1, tmp_path, table)
    allowed = {"0": [8, 16], "2": [4, 8, 16]}
    times.prepare(allowed)
    dense, narrow = times.predicted({}), times.predicted({"0": 8, "2": 4})
    assert narrow < times.predicted({"0": 8, "2": 8}) < dense
    before = times.measured_parts
    times.prepare(allowed)
    assert times.measured_parts == before == timer.timed - 1 - -(-before // 8)  # less the reference's own
    # Only parts whose sizes change do so in the prediction.
    parts = times.by_part({"0": 8})
    assert {name for name, ms in parts.items() if ms != times.by_part({})[name]} == {"0", "1"}
    assert times.measured({"0": 8, "2": 4}) > 0
    # Layers that quantize will leave in float are timed as such.
    (tmp_path / "mixed").mkdir()
    mixed = WidthTimes(
        network, (3, 8, 8), RUNTIMES["onnxruntime"], 1, tmp_path / "mixed", table, precision={"1": "float"}
    )
    mixed.prepare(allowed)
    assert times.measured_parts == before and mixed.measured_parts > 0
    assert mixed.by_part({})["1"] > 2 * times.by_part({})["1"]  # the clock counts bytes
    assert mixed.by_part({})["2"] == times.by_part({})["2"]
    assert times.float_ms > 0
