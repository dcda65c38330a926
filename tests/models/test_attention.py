"""Narrowable attention against torch's and torchvision's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from akgp.models.attention import make_narrowable, narrowable

CAUSAL = torch.triu(torch.ones(5, 5), 1).bool()
PADDING = (torch.arange(5) > 2).expand(3, 5)


def both(module: nn.Module, several: bool = False) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    twin = copy.deepcopy(module)
    make_narrowable(twin, several)
    return module.eval(), twin.eval()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"need_weights": False}, {"average_attn_weights": False}, {"attn_mask": CAUSAL},
        {"attn_mask": torch.randn(12, 5, 5), "need_weights": False}, {"key_padding_mask": PADDING},
        {"key_padding_mask": PADDING, "attn_mask": CAUSAL, "need_weights": False},
    ],
)  # fmt: skip
def test_multihead_as_torch(options: dict[str, Any], batch_first: bool) -> None:
    dense, twin = both(nn.MultiheadAttention(16, 4, batch_first=batch_first))
    x = torch.randn(3, 5, 16) if batch_first else torch.randn(5, 3, 16)
    for expected, got in zip(dense(x, x, x, **options), twin(x, x, x, **options), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("options", [{}, {"kdim": 12, "vdim": 8}, {"bias": False}, {"batch_first": False}])
def test_several_sequences_as_torch(options: dict[str, Any]) -> None:
    dense, twin = both(nn.MultiheadAttention(16, 4, **{"batch_first": True} | options), several=True)
    sizes = ((5, 16), (7, options.get("kdim", 16)), (7, options.get("vdim", 16)))
    given = [torch.randn(3, *size) for size in sizes]
    given = given if dense.batch_first else [each.transpose(0, 1) for each in given]
    padding = (torch.arange(7) > 4).expand(3, 7)
    for mask in ({}, {"key_padding_mask": padding}, {"attn_mask": torch.randn(5, 7), "need_weights": False}):
        for expected, got in zip(dense(*given, **mask), twin(*given, **mask), strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", [ShiftedWindowAttention, ShiftedWindowAttentionV2])
@pytest.mark.parametrize("size", [(8, 8), (4, 10), (3, 4)])
@pytest.mark.parametrize("shift", [[0, 0], [2, 2], [2, 0]])
def test_windows_as_torchvision(kind: Any, size: tuple[int, int], shift: list[int]) -> None:
    dense, twin = both(kind(16, [4, 4], shift, 4))
    x = torch.randn(2, *size, 16)
    torch.testing.assert_close(twin(x), dense(x), rtol=1e-5, atol=1e-5)


def test_others_have_no_narrowable() -> None:
    class Mine(nn.MultiheadAttention):
        """Its forward may do anything."""

    given = (
        Mine(16, 4),
        nn.MultiheadAttention(16, 4, add_bias_kv=True),
        nn.MultiheadAttention(16, 4, add_zero_attn=True),
    )
    assert [narrowable(each, several) for each in given for several in (False, True)] == [None] * 6


def test_one_sequence_only_in_one_line() -> None:
    _, twin = both(nn.MultiheadAttention(16, 4))
    x = torch.randn(5, 3, 16)
    with pytest.raises(ValueError, match="takes one tensor as query, key and value"):
        twin(x, x.clone(), x)
