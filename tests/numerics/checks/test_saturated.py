"""Where units are saturated, torch's 1 - y^2 is rounding: quiet steps of its gradient prove nothing against a chain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradscope import analyze
from gradscope.numerics.equality import _of_input

WIDE, STEPS = 24, 60


class First(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def layer_of(kind: str, dtype: torch.dtype) -> nn.RNNBase:
    torch.manual_seed(0)
    return getattr(nn, kind)(4, WIDE, batch_first=True, dtype=dtype)


def prices(dtype: torch.dtype) -> Tensor:
    return 300 * torch.randn(4, STEPS, 4, dtype=dtype, generator=torch.Generator().manual_seed(1))


def last(y: Tensor) -> Tensor:
    return y[:, -1].sum()


@pytest.mark.parametrize("wrapped", [False, True], ids=["layer", "module"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_layer_on_unscaled_data_is_measured(kind: str, dtype: torch.dtype, wrapped: bool) -> None:
    layer = layer_of(kind, dtype)
    found = analyze(First(layer) if wrapped else layer, prices(dtype), loss=last).models[0]
    assert found.loaded.equality_check is not None
    assert found.loaded.equality_check.passed
    assert found.status == "vanishing"
    assert found.series.values["log10_jacobian_norm"][-1] is not None


def test_what_is_measured_has_the_slopes_of_what_goes_in() -> None:
    layer, x = layer_of("RNN", torch.float64), prices(torch.float64)
    w, u = layer.weight_ih_l0.detach(), layer.weight_hh_l0.detach()
    h, slopes = x.new_zeros(4, WIDE), []
    for t in range(STEPS):
        z = x[:, t] @ w.T + layer.bias_ih_l0.detach() + h @ u.T + layer.bias_hh_l0.detach()
        h = z.tanh()
        slopes.append(1 / z.cosh() ** 2)
    a, norms = torch.ones_like(h), []
    for slope in reversed(slopes):
        delta = slope * a
        norms.append((delta @ w).norm(dim=-1).log10().mean())
        a = delta @ u
    found = analyze(layer, x, loss=last).models[0].series.values["log10_influence"]
    # Older ones are too small to be squared in this test.
    assert found[:38] == pytest.approx(torch.stack(norms).tolist()[:38], abs=1e-8)


def test_loud_steps_are_held_against_torch_all_the_same() -> None:
    theirs = torch.tensor([[[1.0]], [[1e-3]], [[1e-20]]], dtype=torch.float64)
    quiet = theirs * torch.tensor([1.0, 1.0, 3.0]).reshape(3, 1, 1)
    loud = theirs * torch.tensor([1.0, 1.01, 1.0]).reshape(3, 1, 1)
    assert _of_input(quiet, theirs, (torch.float64,), lambda: True) < 1e-10
    assert _of_input(quiet, theirs, (torch.float64,), lambda: False) > 1
    assert _of_input(loud, theirs, (torch.float64,), lambda: True) > 1e-3
