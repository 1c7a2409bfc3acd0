"""Attention weights read inside modules of torch.nn, and the modules none the wiser."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.models.attention_weights import attended, holds_attention
from gradscope.models.whole_module import WholeModule

X = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(1))


def weights_of(module: nn.Module, x: Tensor = X, **settings: Any) -> list[Tensor]:
    return attended(WholeModule("own", module.eval(), 8, kind="module", **settings), x)


def test_every_layer_and_head_of_an_encoder() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    before = torch.backends.mha.get_fastpath_enabled()
    found = weights_of(module)
    x = X
    for layer, weights in zip(module.layers, found, strict=True):
        expected = layer.self_attn(x, x, x, need_weights=True, average_attn_weights=False)[1]
        torch.testing.assert_close(weights, expected)
        x = layer(x)
    assert torch.backends.mha.get_fastpath_enabled() is before
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


class Asks(nn.Module):
    """Attention called with arguments of every form, which looks at the weights it gets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.args, self.kwargs = args, kwargs
        self.got: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y, self.got = self.attention(x, x, x, *self.args, **self.kwargs)
        return y


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((), {"need_weights": False}),
        ((), {"average_attn_weights": False}),
        ((None, False), {}),
        ((None, True, None, False), {}),
        ((None, True, None, True), {"is_causal": False}),
    ],
)
def test_the_module_gets_what_it_asked_for(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    module = Asks(*args, **kwargs).eval()
    module(X)
    expected = module.got
    (weights,) = weights_of(module)
    assert weights.shape == (1, 2, 6, 6)
    assert (module.got is None) == (expected is None)
    if expected is not None and module.got is not None:
        torch.testing.assert_close(module.got, expected)


class Reads(nn.Module):
    """Looks from a sequence at a memory of other length, then at itself, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.cross, self.own = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        memory = torch.cat([x, x])
        y = x + self.cross(x, memory, memory, need_weights=False)[0]
        return self.own(y, y, y, need_weights=False)[0]


def test_only_looks_of_the_sequence_at_itself() -> None:
    (weights,) = weights_of(Reads(), X.expand(3, -1, -1), time_first=True)
    assert weights.shape == (3, 4, 6, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 6))
    assert holds_attention(Reads())
    assert not holds_attention(nn.Linear(2, 2))


def test_maps_are_bounded_and_stand_in_the_result() -> None:
    layer = nn.TransformerEncoderLayer(8, 8, 16, batch_first=True)
    module = nn.TransformerEncoder(layer, 16, enable_nested_tensor=False)
    x = torch.randn(1, 80, 8, generator=torch.Generator().manual_seed(1))
    maps: Any = gradscope.analyze(module, x).models[0].attention
    assert (len(maps.weights), len(maps.weights[0])) == (16, 8)
    assert len(maps.weights[0][0]) == 45
    assert 16 * 8 * 45**2 <= 2**18
