"""A training's state, packed into few tensors, is read as it was: values, types, shapes, strides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from akgp.orchestration.state_packing import packed, unpacked


def test_a_packed_state_is_read_as_it_was(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    state: dict[str, Any] = {
        "weights": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last),
        "part": whole[:, 1:3],
        "transposed": whole.T,
        "expanded": torch.ones(1).expand(3),
        "empty": torch.zeros(0, 2),
        "count": torch.tensor(7),
        "half": torch.randn(5).bfloat16(),
        "optimizer": {
            "state": {0: {"momentum": whole.clone(), "step": 3}},
            "groups": [{"betas": (0.9, 1)}],
        },
        "none": None,
    }
    torch.save(packed(state), tmp_path / "state.pt")
    read = unpacked(*torch.load(tmp_path / "state.pt", weights_only=True))
    assert list(read) == list(state)
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            assert (read[name].dtype, read[name].shape) == (value.dtype, value.shape)
            assert torch.equal(read[name], value)
    assert read["weights"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(read["optimizer"]["state"][0]["momentum"], whole)
    assert read["optimizer"]["state"][0]["step"] == 3
    assert read["optimizer"]["groups"] == [{"betas": (0.9, 1)}] and read["none"] is None


def test_a_packed_state_is_a_copy() -> None:
    weights = torch.zeros(2)
    kept = packed({"weights": weights})
    weights += 1
    assert unpacked(*kept)["weights"].tolist() == [0, 0]
