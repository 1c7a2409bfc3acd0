"""Every number that counts lags, against plain autograd: loss x anchor x seeds x sequences x kind of module."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gradscope

STEPS, SEQUENCES, NEEDED = 14, 3, 4


class Stack(nn.Module):
    """Two layers of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, 4, num_layers=2, batch_first=True, dtype=torch.float64)

    def forward(self, x):
        return self.rnn(x)[0]


class Written(nn.Module):
    """A loop of one's own whose influence grows with the lag."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(4, 4, dtype=torch.float64), nn.Linear(2, 4, dtype=torch.float64)

    def forward(self, x):
        h, out = x.new_zeros(len(x), 4), []
        for t in range(x.shape[1]):
            h = torch.sin(3 * self.w(h)) + self.u(x[:, t])
            out.append(h)
        return torch.stack(out, 1)


class Attending(nn.Module):
    """Causal attention: no state at all."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(2, 4, dtype=torch.float64) for _ in range(3))

    def forward(self, x):
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = (self.q(x) @ self.k(x).mT / 2).masked_fill(hidden, -math.inf)
        return scores.softmax(-1) @ self.v(x)


class Delayed(nn.Module):
    """y_t = tanh(x_t) + 0.5 tanh(x_{t-2}): all other lags are exactly zero."""

    def forward(self, x):
        return torch.tanh(x) + 0.5 * torch.tanh(torch.cat([torch.zeros_like(x[:, :2]), x[:, :-2]], 1))


LOSSES = {
    "last": (lambda y: y[:, -1].square().sum(), STEPS),
    "step 6": (lambda y: y[:, 5].square().sum(), 6),
    "every": (lambda y: y.square().sum(), STEPS),
    "all but the last": (lambda y: (y[:, :-1] * torch.arange(1, STEPS)[:, None]).sum(), STEPS - 1),
}


def influence(make, loss, anchor: int, x: torch.Tensor, seeds: int) -> torch.Tensor:
    """I(k) of every sequence by torch: the cotangent of the anchor's output alone, (seeds, sequences, lags)."""
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        net = make()
        y = net(x).detach().requires_grad_()
        (v,) = torch.autograd.grad(loss(y), y)
        leaf = x.clone().requires_grad_()
        out = net(leaf)
        (g,) = torch.autograd.grad((out[:, anchor - 1] * v[:, anchor - 1]).sum(), leaf)
        found.append(g.norm(dim=-1)[:, :anchor].flip(1))
    return torch.stack(found)


@pytest.mark.parametrize("make", [Stack, Written, Attending, Delayed])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("seeds", "needed"), [(1, None), (2, NEEDED)])
def test_lags_are_those_of_autograd(make, loss, seeds, needed):
    read, anchor = LOSSES[loss]
    torch.manual_seed(7)
    x = torch.randn(SEQUENCES, STEPS, 2, dtype=torch.float64)
    seen = influence(make, read, anchor, x, seeds)
    found = gradscope.analyze(make, x, read, seeds=seeds, needs_lag=needed).models[0]
    lag, summary = needed or anchor - 1, found.summary
    assert summary.needed_lag == lag

    flat = seen.reshape(-1, anchor)
    counted = torch.where(flat > 0, flat.log10(), math.nan)
    profile = torch.where(counted.isnan().all(0), -math.inf, counted.nanmean(0))
    own = found.series.values["log10_influence"]
    assert own == pytest.approx(profile.tolist(), abs=1e-9)
    assert summary.zero_lags == _zeros(profile[1 : lag + 1])

    share = (seen.mean(1)[:, lag] / seen.mean(1)[:, : lag + 1].sum(1)).max()
    assert summary.gradient_share == pytest.approx(math.log10(share) if share > 0 else -math.inf, abs=1e-9)
    if profile[1] > -math.inf:
        assert summary.reach == int((profile[1:] >= profile[1] - 2).nonzero().max()) + 1
    else:
        assert summary.reach is None
    assert summary.coverage == pytest.approx(float((profile[1:] >= profile[1:].max() - 2).double().mean()))
    weight = 10**profile
    assert summary.temporal_range == pytest.approx(float((weight * torch.arange(anchor)).sum() / weight.sum()))

    slopes = [_slope(row[1 : lag + 1]) for row in flat]
    if None in slopes:
        assert summary.rate is None
    else:
        assert summary.rate == pytest.approx(sum(slopes) / len(slopes), abs=1e-9)


def _zeros(profile: torch.Tensor) -> tuple[int, ...]:
    zero = (profile == -math.inf).nonzero().flatten().tolist()
    return (zero[0] + 1, len(zero)) if zero else ()


def _slope(row: torch.Tensor) -> float | None:
    lags = torch.arange(1, len(row) + 1, dtype=torch.float64)[row > 0]
    if len(lags) < 2:
        return None
    design = torch.stack([lags, torch.ones_like(lags)], 1)
    return float(torch.linalg.lstsq(design, row[row > 0].log()[:, None]).solution[0])
