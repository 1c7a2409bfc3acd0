"""The textbook loop in a module's forward, and the family `rnn` with the same weights: the same table."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import gradscope
from gradscope.models.rnn import RNNCell
from gradscope.models.stack import Recurrent


class Plain(nn.Module):
    """h_t = tanh(W h_{t-1} + U x_t), as the formula stands."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.U = nn.Linear(12, 12, bias=False), nn.Linear(5, 12)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(len(x), 12), []
        for t in range(x.shape[1]):
            h = torch.tanh(self.W(h) + self.U(x[:, t]))
            outputs.append(h)
        return torch.stack(outputs, 1)


def test_number_for_number() -> None:
    torch.manual_seed(0)
    module = Plain().double()
    weights = {"weight_ih": module.U.weight, "weight_hh": module.W.weight, "bias_ih": module.U.bias}
    cell = RNNCell("l0", {name: value.detach().clone() for name, value in weights.items()}, "tanh")
    x = torch.randn(4, 40, 5, dtype=torch.float64)
    own = gradscope.analyze(module, x, loss="every").models[0]
    family = gradscope.analyze(Recurrent("rnn", [cell]), x, loss="every").models[0]
    assert own.loaded.equality_check.passed
    names = set(family.series.values)
    assert names <= set(own.series.values)
    for name in names:
        for a, b in zip(own.series.values[name], family.series.values[name], strict=True):
            assert (a is None) == (b is None), name
            assert a is None or a == b or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9), name
    for name in ("rate", "reach", "coverage", "temporal_range", "gradient_share", "directions", "log10_condition"):
        assert math.isclose(getattr(own.summary, name), getattr(family.summary, name), rel_tol=1e-9), name
    for mine, theirs in zip(own.summary.lyapunov, family.summary.lyapunov, strict=True):
        assert math.isclose(mine, theirs, rel_tol=1e-8)
    assert own.status == family.status
    assert own.size == family.size
