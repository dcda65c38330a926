"""prune.latency_ms and prune.speedup: what is asked, aimed at, and said to have been reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from akgp import params
from akgp.budgets import latency, prune_by_params
from akgp.budgets.deployed import Deployed
from akgp.budgets.latency import cut_and_measure, prune_to_latency
from akgp.models import cifar_resnet
from akgp.params import Prune
from akgp.precheck import quick
from akgp.pruning import Pruned, PruningError, Reached
from akgp.pruning.latency import Latencies
from akgp.runtimes import openvino

FLOAT_MS = 2.0
TIMES: Latencies = None  # type: ignore[assignment]  # the cuts below measure nothing


def cuts(aims: list[float], least: float = 0.1) -> Callable[[float, Latencies], Pruned]:
    """Cuts whose widths promise what was aimed at."""

    def cut(aim: float, _: Latencies) -> Pruned:
        if aim < least:
            raise PruningError(f"{aim:.3g} ms are asked, but the fastest widths take more")
        aims.append(aim)
        return Pruned(
            nn.Identity(), [], Reached("latency_ms", aim, min(aim, 1.0), None, min(aim, 1.0) * 1.01)
        )

    return cut


def test_it_aims_again_where_the_network_s_own_file_is_slower_than_promised() -> None:
    aims: list[float] = []
    pruned = cut_and_measure(cuts(aims), TIMES, lambda _: 1.25 * aims[-1], Prune(speedup=4), FLOAT_MS)
    assert aims == pytest.approx([0.5, 0.4])
    budget = pruned.budget
    assert budget is not None and (budget.key, budget.asked, budget.why) == ("speedup", 4, None)
    assert budget.reached == pytest.approx(4) and budget.predicted == pytest.approx(FLOAT_MS / (0.4 * 1.01))
    assert str(budget) == "prune.speedup: 4 asked, 4.95 predicted, 4 reached"


def test_the_nearest_stands_where_no_widths_are_so_fast() -> None:
    aims: list[float] = []
    pruned = cut_and_measure(cuts(aims, least=0.45), TIMES, lambda _: 0.6, Prune(latency_ms=0.5), FLOAT_MS)
    assert aims == [0.5] and pruned.budget is not None
    assert pruned.budget.why == "its own file took 0.6 ms where its widths promised 0.5"
    with pytest.raises(PruningError, match="the fastest widths take more"):
        cut_and_measure(cuts([]), TIMES, lambda _: 0.6, Prune(latency_ms=0.05), FLOAT_MS)


def test_a_network_that_is_fast_enough_is_cut_once() -> None:
    aims: list[float] = []
    cut_and_measure(cuts(aims), TIMES, lambda _: 1.0, Prune(latency_ms=5), FLOAT_MS)
    assert aims == [5]


def test_a_speedup_is_over_the_whole_network_whose_blocks_are_bypassed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed: list[nn.Module] = []

    class Times:
        float_ms = 1.0

        def __init__(self, model: nn.Module, *_: object, **__: object) -> None:
            timed.append(model)

        def float_ms_of(self, model: nn.Module) -> float:
            timed.append(model)
            return 2.0

        def of(self, model: nn.Module) -> float:
            return 0.5

    monkeypatch.setattr(latency, "WidthTimes", Times)
    whole, rest, aims = nn.Identity(), nn.Identity(), list[float]()
    asked, images = Prune(speedup=4), torch.zeros(1, 3, 8, 8)
    pruned = prune_to_latency(cuts(aims), rest, images, asked, Deployed("onnxruntime"), whole)
    assert aims == [0.5] and pruned.budget and pruned.budget.reached == 4
    assert [each is rest for each in timed] == [True, False]
    prune_to_latency(cuts(aims), whole, images, asked, Deployed("onnxruntime"), whole)
    assert aims[1] == 0.25 and len(timed) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"speedup": 1}, "prune.speedup: got 1, must be greater than 1"),
        ({"latency_ms": 0}, "prune.latency_ms: got 0, must be greater than 0"),
        ({"latency_ms": 1, "macs": 0.5}, "exactly one of ratio, macs, params, bytes, latency_ms"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(given: dict[str, float], message: str) -> None:
    tree = params.load().model_dump(mode="json") | {"prune": given}
    with pytest.raises(params.ParamsError, match=message):
        params.validate(tree)


def test_a_runtime_that_is_not_installed_is_named_before_anything_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino.OpenVino, "module", "no_such_module")
    asked = params.validate(
        params.load().model_dump(mode="json") | {"prune": {"speedup": 2}, "deploy": {"runtime": "openvino"}}
    )
    (line,) = quick(asked, Path.cwd())
    assert line.startswith("deploy.runtime: openvino is not installed: pip install")
    with pytest.raises(PruningError, match=r"^prune\.speedup: openvino is not installed"):
        prune_by_params(asked.prune, nn.Identity(), torch.zeros(1, 1, 8, 8), 0, deployed=Deployed("openvino"))


@pytest.mark.slow
def test_a_real_network_is_as_fast_as_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    # Wide enough for narrower layers to save time on every processor.
    model, example = cifar_resnet(8, (32, 64, 128)), torch.zeros(1, 3, 16, 16)

    def pruned_to(latency_ms: float) -> tuple[float, list[int]]:
        pruned = prune_by_params(Prune(latency_ms=latency_ms, scope="all"), model, example, 0)
        assert pruned.budget is not None
        return pruned.budget.reached, [layer.pruned_width for layer in pruned.layers]

    dense_ms, dense_widths = pruned_to(1000)
    ms, widths = pruned_to(0.8 * dense_ms)
    # Generous: within 3 % of 0.8, were nothing else running.
    assert ms < 0.95 * dense_ms and sum(widths) < sum(dense_widths)
