"""Exact zero, overflow, padding and what is no number are four things."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gradscope
from gradscope.chain import ArrayChain
from gradscope.numerics.chain_rule import through_product
from gradscope.numerics.influence import mean_over_anchors, overflow_kept
from gradscope.records import ModelResult
from gradscope.renderers.screen import render
from gradscope.renderers.view import View

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit", "ignore:The .grad attribute of a Tensor that is not a leaf"
)
INF, NAN = math.inf, math.nan
STEPS = 120


class Sines(nn.Module):
    """h_t = sin(3 W h_{t-1}) + x_t; at h = 0 and W = 1 every step back multiplies by 3 exactly."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(weight)

    def forward(self, x):
        h = torch.zeros(x.shape[0], 4)
        out = []
        for t in range(x.shape[1]):
            h = torch.sin(3 * (h @ self.w)) + x[:, t]
            out.append(h)
        return torch.stack(out, 1)


def opaque(weight: torch.Tensor, x: torch.Tensor, **given) -> ModelResult:
    """A report of a module that cannot be looked into, so that autograd's own float32 gradient is all there is."""
    return gradscope.analyze(torch.jit.script(Sines(weight)), x, lambda y: y[:, -1].sum(), **given).models[0]


def verdict(model: ModelResult, code: str):
    return next(one for one in model.verdicts if one.code == code)


@pytest.mark.parametrize(
    ("profiles", "wanted"),
    [
        ([[[0.0, INF]]], [[0.0, INF]]),
        ([[[0.0]], [[2.0, INF]]], [[1.0, INF]]),
        ([[[0.0]], [[-INF, -INF, 3.0]]], [[0.0, -INF, 3.0]]),
        ([[[1.0, 1.0], [2.0, 2.0]], [[3.0, INF, -INF], [4.0, 4.0, NAN]]], [[2.0, INF, -INF], [3.0, 3.0, NAN]]),
    ],
)
def test_a_mean_over_anchors_of_different_length_pads_with_nothing(profiles, wanted):
    found = mean_over_anchors([torch.tensor(one, dtype=torch.float64) for one in profiles])
    assert torch.equal(found.nan_to_num(nan=99.0), torch.tensor(wanted, dtype=torch.float64).nan_to_num(nan=99.0))


def test_nan_after_an_overflow_is_the_overflow_and_nan_by_itself_is_not():
    logs = torch.tensor([[0.0, 20.0, INF, NAN, 3.0], [0.0, 35.0, NAN, NAN, NAN], [0.0, NAN, 1.0, NAN, NAN]])
    found = overflow_kept(logs, torch.float32)
    assert found[0].tolist() == [0.0, 20.0, INF, INF, 3.0]
    assert found[1].tolist() == [0.0, 35.0, INF, INF, INF]
    assert found[2].isnan().tolist() == [False, True, False, True, True]


def test_autograd_that_overflows_is_an_overflow_at_its_own_step():
    x = torch.zeros(2, STEPS, 4)
    model = opaque(torch.eye(4), x)
    leaf = x.clone().requires_grad_()
    (own,) = torch.autograd.grad(Sines(torch.eye(4))(leaf)[:, -1].sum(), leaf)
    first = next(lag for lag in range(STEPS) if not bool(own[:, STEPS - 1 - lag].isfinite().all()))
    assert math.floor(math.log(torch.finfo(torch.float32).max, 3)) in (first, first - 1)
    assert model.summary.overflow_lags == (first, STEPS - first)
    assert model.summary.zero_lags == ()
    assert model.summary.rate == pytest.approx(math.log(3), abs=1e-5)
    assert (model.summary.reach, model.status) == (STEPS - 1, "exploding")
    assert verdict(model, "GS102").status == "pass"
    assert f"overflows at lag {first} (step {STEPS - first})" in verdict(model, "GS201").message
    assert (verdict(model, "GS302").status, model.summary.precision_horizon["float32"]["lag"]) == ("warn", first - 1)
    assert "overflows" in model.skipped["gradient_share"]
    assert f"step {STEPS - first}" in render(gradscope_report(model), View())


def gradscope_report(model: ModelResult) -> gradscope.Report:
    return gradscope.Report(gradscope.records.RunSpec(), {}, (model,))


def test_a_gradient_that_overflows_at_once_explodes():
    model = opaque(torch.eye(4) * 1e38, torch.zeros(2, 9, 4))
    assert (model.status, model.summary.rate) == ("exploding", INF)
    assert "at lag 2 (step 7)" in verdict(model, "GS201").message
    assert "inf" in render(gradscope_report(model), View())


@pytest.mark.parametrize("needs_lag", [None, 10])
def test_what_overflows_into_nan_is_exploding_too(needs_lag):
    torch.manual_seed(0)
    model = opaque(torch.randn(4, 4) * 2, torch.randn(2, STEPS, 4) / 100, needs_lag=needs_lag)
    assert any(math.isnan(value) for value in model.series.values["log10_grad_input"])
    assert (model.status, model.summary.non_finite) == ("exploding", None)
    assert verdict(model, "GS201").status == "fail"


class Rooted(nn.Module):
    """Its output is finite, and its slope at zero is not."""

    def forward(self, x):
        h = torch.zeros(x.shape[0], x.shape[2])
        out = []
        for t in range(x.shape[1]):
            h = 0.9 * h + torch.sqrt(x[:, t] * x[:, t])
            out.append(h)
        return torch.stack(out, 1)


@pytest.mark.parametrize("scripted", [False, True])
def test_a_gradient_that_is_nan_is_non_finite_at_its_step_and_never_healthy(scripted):
    module = torch.jit.script(Rooted()) if scripted else Rooted()
    x = torch.ones(2, 20, 3)
    x[1, 14] = 0.0
    leaf = x.clone().requires_grad_()
    (own,) = torch.autograd.grad(Rooted()(leaf)[:, -1].sum(), leaf)
    assert own.isnan().any(0).any(1).nonzero().flatten().tolist() == [14]
    model = gradscope.analyze(module, x, lambda y: y[:, -1].sum()).models[0]
    assert model.status == "non-finite"
    assert (model.summary.non_finite.step, model.summary.non_finite.where) == (15, "gradient")
    assert "step 15" in verdict(model, "GS301").message
    assert model.summary.rate is None


def dying(steps: int, alive: int) -> tuple[nn.RNN, torch.Tensor]:
    """Half of the sequences grow by 16 a step back over `alive` steps and are dead before; the others halve."""
    net = nn.RNN(2, 2, nonlinearity="relu", batch_first=True).double()
    with torch.no_grad():
        for value in net.parameters():
            value.zero_()
        net.weight_hh_l0.copy_(torch.diag(torch.tensor([16.0, 0.5])))
        net.weight_ih_l0.copy_(torch.eye(2))
    x = torch.full((2, steps, 2), -1.0, dtype=torch.float64)
    # Unit 0 of sequence 0 wakes to h = 1 and stays: 16 - 15 = 1. Unit 1 of sequence 1 is driven by 1.
    x[0, steps - alive, 0], x[0, steps - alive + 1 :, 0] = 1.0, -15.0
    x[1, :, 1] = 1.0
    return net, x


def test_a_sequence_that_dies_after_it_exploded_leaves_the_gradient_of_the_weights_a_number():
    steps, alive = 700, 300
    net, x = dying(steps, alive)
    model = gradscope.analyze(net, x, lambda y: y[:, -1, 0].sum()).models[0]
    # All integers: delta_t = 16^k, h = 1, x = -15 but for the oldest step, whose x is 1 and h before it 0.
    deltas = [16**k for k in range(alive)]
    by_state, by_bias = sum(deltas[:-1]), sum(deltas)
    by_input = -15 * sum(deltas[:-1]) + deltas[-1]
    other = -sum(deltas)
    squares = by_state**2 + 2 * by_bias**2 + by_input**2 + other**2
    assert model.summary.log10_grad_weight == pytest.approx(math.log10(squares) / 2, abs=1e-9)
    check = model.loaded.equality_check
    assert check.passed
    assert "dL/dW" in check.unheld
    assert "dL/dW is not" in render(gradscope_report(model), View(width=200))


def test_a_check_against_finite_gradients_holds_all_of_them():
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    model = gradscope.analyze(nn.RNN(3, 4, batch_first=True).double(), x).models[0]
    assert (model.loaded.equality_check.passed, model.loaded.equality_check.unheld) == (True, ())


@pytest.mark.parametrize("gain", [1e-3, 1e3])
def test_a_product_far_outside_the_range_of_numbers_is_multiplied_out_in_parts(gain):
    steps = 400
    chain = ArrayChain(torch.full((steps, 1, 1), gain, dtype=torch.float64))
    found = through_product(chain, torch.tensor([gain**-100], dtype=torch.float64), 101)
    assert float(found) == pytest.approx(gain, rel=1e-9)
    lost = through_product(chain, torch.ones(1, dtype=torch.float64), steps)
    assert float(lost) == (0.0 if gain < 1 else INF)
