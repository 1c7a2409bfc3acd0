"""Written loops in which rounding grows: every sequence has its own Jacobians, and none that mixes them gets any."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.numerics import sequence_passes

X = torch.randn(3, 70, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Chaos(nn.Module):
    """tanh(W h + U x) with a gain of 4: rounding errors double at every other step."""

    def __init__(self, reads: str, mixes: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.reads, self.mixes = reads, mixes
        self.w, self.u, self.head = nn.Linear(48, 48), nn.Linear(4, 48), nn.Linear(48, 2)
        with torch.no_grad():
            self.w.weight.copy_(4 * torch.randn(48, 48) / 48**0.5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h, states = x.new_zeros(len(x), 48), []
        for step in x.unbind(1):
            h = torch.tanh(self.w(h) + self.u(step) + self.mixes * h.mean(0))
            states.append(h)
        out = self.head(torch.stack(states, 1))
        return {"every": out, "last": out[:, -1], "mean": out.square().mean(), "sum": out[:, -1].square().sum()}[
            self.reads
        ]


@pytest.mark.parametrize(("reads", "apart"), [("every", False), ("last", True), ("mean", False), ("sum", True)])
def test_sequences_that_part_by_rounding_alone_are_followed(
    reads: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if apart:
        monkeypatch.setattr(sequence_passes, "KEPT_OPERATIONS", 1)
    net = Chaos(reads)
    found = gradscope.analyze(net, X, loss=lambda y: y.sum()).models[0]
    check = found.loaded.equality_check
    assert check is not None
    assert check.passed
    assert found.status == "exploding"
    norms = found.series.values["log10_jacobian_norm"]
    # The first steps of the first sequence, before rounding has grown.
    h = torch.zeros(48, dtype=torch.float64)
    for t in range(8):
        h = torch.tanh(net.w(h) + net.u(X[0, t])).detach()
        right = torch.linalg.matrix_norm((1 - h.square())[:, None] * net.w.weight.detach(), 2).log10()
        assert norms[t] == pytest.approx(float(right), abs=1e-9)
    assert found.summary.lyapunov is not None
    assert found.summary.lyapunov[0] > 0.3


@pytest.mark.parametrize("reads", ["every", "last"])
def test_sequences_that_hear_each_other_are_not_excused_by_chaos(reads: str) -> None:
    found = gradscope.analyze(Chaos(reads, mixes=1e-3), X, loss=lambda y: y.sum()).models[0]
    assert "among the others of its batch" in found.skipped["log10_jacobian_norm"]
