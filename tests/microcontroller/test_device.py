"""Memory as a budget: what is needed is known without training, and the widest network that fits is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from akgp import params
from akgp.budgets import prune_by_params
from akgp.budgets.device import RATIOS, prune_to_device
from akgp.cli import app
from akgp.microcontroller.device import CLASS_NAME, CODE, STACK, Need, need, need_of
from akgp.models import cifar_resnet
from akgp.params import Device, ParamsError, Prune
from akgp.pruning import NothingRemoved, Pruned, PruningError
from tests.support.c_programs import digits

EXAMPLE = torch.zeros(1, 1, 8, 8)
FLASH, RAM = 75_111 + CODE + 10 * CLASS_NAME + 64 + 10, 1_984 + STACK + 10
"""Of the digits' student: constants, code, names of ten classes, pixels and logits of the test vector."""


def test_the_need_is_known_before_training(tmp_path: Path) -> None:
    """Of the digits' student with other weights: what the export of the trained one counts."""
    assert need(digits(tmp_path).network) == Need(FLASH, RAM, "layer3.0.conv2")


@pytest.mark.parametrize("flash", [10, 100, 500, 975, 10_000])
def test_the_widest_network_that_fits(flash: int) -> None:
    """On networks of a made-up need, 1,000 bytes dense, against a walk over all ratios."""

    def cut(ratio: float) -> Pruned:
        return Pruned(nn.Linear(1, round(1000 * (1 - ratio))), [])

    def taken(model: nn.Module) -> Need:
        return Need(len(model.weight), 0, "fc")

    device, widths = Device(flash=flash), [len(cut(ratio).model.weight) for ratio in RATIOS]
    fitting = [width for width in widths if width <= flash]
    if fitting:
        assert len(prune_to_device(cut, taken, device).model.weight) == max(fitting)
    else:
        with pytest.raises(PruningError, match=r"needs 31 bytes of flash, where 10 are there .*RAM in fc"):
            prune_to_device(cut, taken, device)


def test_a_network_that_fits_and_of_which_nothing_can_be_removed_stays() -> None:
    def cut(ratio: float) -> Pruned:
        if ratio:
            raise NothingRemoved("no layer is wider than round_to")
        return Pruned(nn.Linear(1, 8), [])

    assert len(prune_to_device(cut, lambda model: Need(8, 0, "fc"), Device(flash=10)).model.weight) == 8


def small() -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(8, (8, 16, 16), num_classes=3, in_channels=1).eval()


@pytest.mark.slow
def test_a_network_is_pruned_until_its_c_library_fits() -> None:
    """Also where low ratios are too little for one filter."""
    model = small()
    dense = need_of(model, EXAMPLE)
    asked = Prune(device=Device(flash=dense.flash - 1), scope="all", round_to=4)
    pruned = prune_by_params(asked, model, EXAMPLE, seed=0)
    assert 0.6 * dense.flash < need_of(pruned.model, EXAMPLE).flash < dense.flash
    kept = prune_by_params(Prune(device=Device(flash=dense.flash), scope="all"), model, EXAMPLE, seed=0)
    assert all(layer.pruned_width == layer.dense_width for layer in kept.layers)


def test_what_cannot_fit_is_refused_before_anything_is_trained() -> None:
    """By the stage teacher's check, which prunes a network with new weights."""
    with pytest.raises(PruningError, match=r"^prune\.device: the narrowest .* of RAM, where 1,024 are there"):
        prune_by_params(Prune(device=Device(ram="1k"), scope="all", round_to=4), small(), EXAMPLE, seed=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"flash": "128kB"},
            "prune.device.flash: must be a number of bytes such as 131072 or 128k, got '128kB'",
        ),
        ({"ram": True}, "prune.device.ram: must be a number of bytes such as 131072 or 128k, got True"),
        ({}, "prune.device: flash or ram must be given, such as flash: 128k"),
    ],
)
def test_bad_devices_are_refused(given: dict[str, Any], message: str) -> None:
    tree = {
        "networks": {"net": {"architecture": "cifar_resnet20"}}, "teachers": ["net"], "student": "net",
        "prune": {"device": given},
    }  # fmt: skip
    with pytest.raises(ParamsError) as error:
        params.validate(tree)
    assert str(error.value) == message


def test_sizes_are_kept_as_they_were_written() -> None:
    device = Device(flash="128k", ram=49152)
    assert (device.flash_bytes, device.ram_bytes) == (131072, 49152)
    assert device.model_dump() == {"flash": "128k", "ram": 49152}
    assert str(device) == "128k of flash and 49152 of RAM"


def test_an_export_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    model, to = digits(tmp_path).file, tmp_path / "c"
    command = ["export", str(model), "--to", "c", "--output", str(to), "--no-check"]
    refused = CliRunner().invoke(app, [*command, "--flash", "64k", "--ram", "1k"])
    assert (
        str(refused.exception).endswith(
            f"does not fit: it needs {FLASH:,} bytes of flash, where 65,536 are there and "
            f"{RAM:,} bytes of RAM, where 1,024 are there"
        )
        and not to.exists()
    )
    fits = CliRunner().invoke(app, [*command, "--flash", "128k", "--ram", "4k"], catch_exceptions=False)
    assert fits.exit_code == 0 and to.exists()


def test_an_option_leaves_the_workspaces_other_limit_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/int8").mkdir(parents=True)
    digits(tmp_path / "models" / "int8")
    tree = {
        "networks": {"net": {"architecture": "cifar_resnet20"}}, "teachers": ["net"], "student": "net",
        "prune": {"device": {"ram": "1k"}},
    }  # fmt: skip
    Path("params.yaml").write_text(params.dump(params.validate(tree)), encoding="utf-8")
    refused = CliRunner().invoke(app, ["export", "--to", "c", "--flash", "128k", "--no-check"])
    assert str(refused.exception).endswith(f"it needs {RAM:,} bytes of RAM, where 1,024 are there")
