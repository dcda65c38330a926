"""`akgp sensitivity` and what it measures: each layer cut alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from akgp import artifacts, params
from akgp.cli import app
from akgp.data.prepare import prepare
from akgp.models import cifar_resnet
from akgp.pruning import PruningError, Sensitivity
from tests.support.further_constructions import NETWORKS

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(IMAGES)
    return logits


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)
    )


def test_every_layer_alone_loses_its_smallest_filters() -> None:
    model, seen = plain(), list[Tensor]()

    def judge(smaller: nn.Module) -> float:
        seen.append(outputs(smaller))
        return float(len(seen))

    sensitivity = Sensitivity(model, IMAGES, [0.25, 0.5], judge, criterion="l1", round_to=2)
    points = list(sensitivity)
    assert len(points) == len(sensitivity) == 4
    assert [(point.layers, point.pruned_width) for point in points] == [
        (("0",), 6), (("0",), 4), (("2",), 12), (("2",), 8),
    ]  # fmt: skip
    for point, got in zip(points, seen, strict=True):
        masked = copy.deepcopy(model)
        layer = masked.get_submodule(point.layers[0])
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        order = layer.weight.detach().abs().sum((1, 2, 3)).argsort()
        gone = order[: point.dense_width - point.pruned_width]
        with torch.no_grad():
            layer.weight[gone], layer.bias[gone] = 0, 0
        torch.testing.assert_close(got, outputs(masked), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs(model), outputs(plain()), rtol=0, atol=0)


def test_where_code_fixes_sizes_each_cut_has_its_own() -> None:
    model, images = NETWORKS["timm's attention, fused"]().eval(), torch.zeros(2, 3, 16, 16)
    runs = Sensitivity(
        model, images, [0.25, 0.5], lambda smaller: float(smaller(images).detach().sum()), round_to=1
    )
    widths = {point.pruned_width for point in runs if point.layers == ("mix.qkv",)}
    assert widths == {36, 24}


@pytest.mark.parametrize(
    ("ratios", "round_to", "message"),
    [
        ([1.0], 2, r"ratios must be in \(0, 1\), got 1.0"),
        ([], 2, "got none"),
        ([0.5], 16, "no layer can be cut with round_to 16"),
    ],
)
def test_what_cannot_be_measured_is_refused(ratios: list[float], round_to: int, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        Sensitivity(plain(), IMAGES, ratios, lambda _: 0.0, round_to=round_to)


def test_the_command_prints_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("data/prepared", "models/dense/one"):
        Path(folder).mkdir(parents=True)
    tree = {
        "networks": {"one": {"architecture": "cifar_resnet20"}}, "teachers": ["one"], "student": "one",
        "prune": {"ratio": 0.5, "scope": "inside", "round_to": 4},
    }  # fmt: skip
    Path("params.yaml").write_text(params.dump(params.validate(tree)), encoding="utf-8")
    prepare(params.Data(color="gray", splits=params.Splits(test=0.25)), 0, Path("data/prepared"))
    artifacts.save(cifar_resnet(8, (8, 8, 16), in_channels=1), Path("models/dense/one"))

    result = CliRunner().invoke(app, ["sensitivity", "--ratios", "0.5,0.25", "--images", "40", "--json"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert [row["layer"] for row in shown["layers"]] == [f"layer{stage}.0.conv1" for stage in (1, 2, 3)]
    assert [point["pruned_width"] for point in shown["layers"][2]["points"]] == [12, 8]
    assert shown["images"] == 40 and Path(shown["plot"]).read_text(encoding="utf-8").startswith("<?xml")

    table = CliRunner().invoke(app, ["sensitivity", "--ratios", "0.5", "--images", "40"]).stdout.splitlines()
    assert table[0].split() == ["without", "top-1", "MACs", "left"] and table[1].startswith("layer1.0 ")
    assert table[3].split() == ["layer", "filters", "top-1", "at", "0.5"] and len(table) == 9
    assert CliRunner().invoke(app, ["sensitivity", "--ratios", "half"]).exit_code == 2
