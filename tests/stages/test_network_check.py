"""What `params check` can say of the networks before anything is computed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from akgp import models, params
from akgp.orchestration.run import run_stage
from akgp.stages.network_check import check
from akgp.workspace import StageError

OURS = "cifar_resnet20"


def asked(**network: Any) -> params.Params:
    tree = {
        "data": {"splits": {"test": 0.25}},
        "networks": {"mine": network},
        "teachers": ["mine"],
        "student": "mine",
    }
    return params.validate(tree)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"architecture": "nowhere_at_all:f"}, "mine.architecture: 'nowhere_at_all:f' cannot be imported"),
        ({"architecture": "resnet19"}, "mine.architecture: unknown network 'resnet19', did you mean resnet1"),
        ({"architecture": "resnet18", "weights": "V9"}, "mine.weights: resnet18 has IMAGENET1K_V1, DEF"),
        ({"architecture": OURS, "checkpoint": "none.pt"}, "mine.checkpoint: .*none.pt: no such file"),
        ({"architecture": OURS, "checkpoint": "text.pt"}, "mine: .*text.pt: neither safetensors nor"),
        ({"architecture": OURS, "checkpoint": "other.pt"}, None),  # of other images, perhaps
    ],
)  # fmt: skip
def test_without_images(network: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not weights")
    torch.save(models.cifar_resnet(32).state_dict(), tmp_path / "other.pt")
    if message is None:
        check(asked(**network), tmp_path)
        return
    with pytest.raises(StageError, match=f"^networks.{message}") as raised:
        check(asked(**network), tmp_path)
    assert str(tmp_path) in str(raised.value) or "resnet1" in message


def test_with_images_a_checkpoint_is_compared(tmp_path: Path) -> None:
    checked = asked(architecture=OURS, checkpoint="other.pt")
    (tmp_path / "params.yaml").write_text(params.dump(checked))
    torch.save(models.cifar_resnet(32).state_dict(), tmp_path / "other.pt")
    run_stage("data", root=tmp_path)
    with pytest.raises(StageError, match=r"networks.mine: .*other.pt: has a tensor 'layer1.3"):
        check(checked, tmp_path)


@pytest.mark.parametrize(
    ("architecture", "prune", "message"),
    [
        (
            OURS,
            {"layers": {"layer9.*": 0.5}},
            "layers: 'layer9.*' matches no convolution .* did you mean layer",
        ),
        (OURS, {"limits": {"fc": {"max": 0.5}}}, "limits: 'fc' matches no convolution or linear layer"),
        (OURS, {"skip": ["head"]}, "skip: 'head' is not a module of the network"),
        (
            "tests.support.attention_networks:Cross",
            {"layers": {"*.in_proj": 0.5}},
            "layers: '.*in_proj' matches",
        ),
        ("tests.support.attention_networks:Cross", {"layers": {"*.in_proj_weight": 0.5}}, None),
        (OURS, {"layers": {"layer3.*": 0.5}, "limits": {"*": {"max": 0.9}}, "skip": ["conv1"]}, None),
    ],
)
def test_names_of_layers_are_looked_for(
    architecture: str, prune: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    settings = asked(architecture=architecture).model_dump()
    checked = params.validate(settings | {"prune": {"ratio": 0.5} | prune})
    if message is None:
        check(checked, tmp_path)
        return
    with pytest.raises(StageError, match=rf"^networks\.mine: prune\.{message}"):
        check(checked, tmp_path)


@pytest.mark.parametrize(
    ("section", "given", "message"),
    [
        ("teacher", {"freeze": ["nowhere"]}, r"teacher\.freeze: 'nowhere' is not a module"),
        ("distill", {"training": {"freeze": ["nowhere"]}}, r"distill\.training\.freeze: 'nowhere' is not"),
        (
            "distill",
            {"strategy": "self_distillation", "heads": ["nowhere"]},
            r"distill\.heads: 'nowhere' is not",
        ),
    ],
)
def test_names_of_modules_are_looked_for(
    section: str, given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    settings = asked(architecture=OURS).model_dump()
    with pytest.raises(StageError, match=rf"^networks\.mine: {message}"):
        check(params.validate(settings | {section: given}), tmp_path)


def test_what_is_frozen_is_not_looked_for_in_a_network_that_is_not_trained(tmp_path: Path) -> None:
    torch.save(models.cifar_resnet(20).state_dict(), tmp_path / "trained.pt")
    settings = asked(architecture=OURS, checkpoint="trained.pt").model_dump()
    check(params.validate(settings | {"teacher": {"freeze": ["nowhere"]}}), tmp_path)


def test_a_network_of_ours_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    check(asked(architecture=OURS), tmp_path)
