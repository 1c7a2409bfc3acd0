"""Every metric on models whose answer is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch

import gradscope
from cases import RECURRENT, Case
from gradscope.chain import ArrayChain
from gradscope.metrics import forward_pass, gradients, influence, state_spectra
from gradscope.metrics.collect import mean_interval, t_quantile
from gradscope.models.rnn import RNNCell
from gradscope.models.stack import Recurrent
from gradscope.models.user_step import CustomCell
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.analysis import Analysis, Run
from gradscope.numerics.trace import Unavailable
from gradscope.records import RunSpec


def final(y: torch.Tensor) -> torch.Tensor:
    u = torch.randn(y.shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (y[:, -1] @ (u / u.norm()).to(y)).sum()


def analysis_of(model, x: torch.Tensor, loss=final, **spec) -> Analysis:
    return Analysis((Run(model, x, loss),), RunSpec(**spec))


def noise(batch: int, steps: int, features: int) -> torch.Tensor:
    return torch.randn(batch, steps, features, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def scalar(a: float) -> Recurrent:
    one = torch.ones(1, 1, dtype=torch.float64)
    return Recurrent("scalar", [RNNCell("l0", {"weight_ih": one, "weight_hh": a * one}, "linear")])


def test_scalar_linear_recurrence_in_closed_form() -> None:
    a, steps = 0.9, 64
    found = analysis_of(scalar(a), noise(2, steps, 1))
    powers = [a**k for k in range(steps)]
    assert influence.rate(found) == pytest.approx(math.log(a), abs=1e-12)
    assert influence.gain(found) == pytest.approx(a, abs=1e-12)
    assert influence.half_life(found) == pytest.approx(6.578813478960585, rel=1e-10)
    # 0.9^(k-1) >= 0.01 for k - 1 <= 43.7.
    assert influence.reach(found) == 44
    assert influence.coverage(found) == pytest.approx(44 / 63)
    expected = sum(k * p for k, p in enumerate(powers)) / sum(powers)
    assert influence.temporal_range(found) == pytest.approx(expected, rel=1e-12)
    assert influence.gradient_share(found) == pytest.approx(math.log10(powers[-1] / sum(powers)), abs=1e-12)
    assert state_spectra.directions(found) == 1
    assert state_spectra.lyapunov_exponents(found) == pytest.approx((math.log(a),), abs=1e-12)
    assert state_spectra.finite_time_exponents(found) == pytest.approx((math.log(a),), abs=1e-12)
    assert state_spectra.condition(found) == 0.0
    assert influence.zero_lags(found) == ()
    assert forward_pass.carried_floats(found) == 1


def test_uniform_causal_attention_has_no_decay() -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]

    found = analysis_of(WholeModule("mean", Mean(), 3), noise(2, 64, 3))
    assert influence.rate(found) == pytest.approx(0.0, abs=1e-12)
    assert influence.temporal_range(found) == pytest.approx(31.5, rel=1e-12)
    assert influence.reach(found) == 63
    assert influence.coverage(found) == 1.0
    with pytest.raises(Unavailable, match="no recurrent state"):
        state_spectra.directions(found)


@pytest.mark.parametrize("case", RECURRENT, ids=str)
def test_chain_rule_holds_for_every_family(case: Case) -> None:
    assert state_spectra.chain_rule_residual(analysis_of(case.model(), case.x())) < 1e-12


def test_chain_rule_sees_one_corrupted_jacobian() -> None:
    case = Case("lstm")
    found = analysis_of(case.model(), case.x())
    assert isinstance(found.chain, ArrayChain)
    assert state_spectra.chain_rule_residual(found) < 1e-12
    found.chain.jacobians[0, 3, 1, 2] += 1e-3
    del found.chain_rule_residual
    assert state_spectra.chain_rule_residual(found) > 1e-6


def test_every_and_final_have_the_same_influence() -> None:
    case = Case("rnn", {"hidden": "16"}, length=60)
    model, x = case.model(), case.x()

    def every(y: torch.Tensor) -> torch.Tensor:
        return sum(final(y[:, : t + 1]) for t in range(y.shape[1]))

    one, all_steps = analysis_of(model, x), analysis_of(model, x, every)
    torch.testing.assert_close(one.influence, all_steps.influence, rtol=0, atol=1e-12)
    # The plain gradients of the summed loss hide what the profile shows.
    assert float((all_steps.input_gradient[:, 0] - all_steps.input_gradient[:, -1]).mean()) > -1
    assert float(one.profile[-1] - one.profile[0]) < -10


def test_several_anchors_average_their_profiles() -> None:
    found = analysis_of(scalar(0.8), noise(2, 40, 1), lambda y: y.sum(), anchors=4)
    assert len(found.anchors) == 4
    assert found.anchors[-1] == 40
    assert influence.rate(found) == pytest.approx(math.log(0.8), abs=1e-12)


def test_weight_shares_sum_to_one_and_favour_the_newest_steps() -> None:
    case = Case("rnn", {"init": "normal", "gain": "0.8", "hidden": "32"}, batch=1, length=100)
    found = gradients.weight_share(analysis_of(case.model(), case.x()))["weight_share"].values
    assert math.fsum(found) == pytest.approx(1.0, abs=1e-12)
    assert math.fsum(found[-20:]) > 0.99


def test_vanishing_does_not_show_in_the_weight_gradient() -> None:
    case = Case("rnn", {"init": "normal", "gain": "0.8", "hidden": "64"}, batch=8, length=100, input_size=16)
    found = analysis_of(case.model(), case.x())
    state = found.adjoints[0].state
    assert -21 < float((state[0] - state[-1]).mean()) < -18
    assert 0 < gradients.weight_gradient(found) < 2


def test_a_detached_state_is_a_cut_and_a_dead_unit_is_not() -> None:
    weight = torch.eye(3, dtype=torch.float64)

    def detaching(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        keep = (x[:, :1] < 5).to(s.dtype)
        return 0.5 * (keep * s + (1 - keep) * s.detach()) @ weight + x

    x = noise(1, 12, 3)
    x[:, 6, 0] = 9.0
    cell = CustomCell("cell", detaching, torch.zeros(3, dtype=torch.float64), 3)
    found = analysis_of(Recurrent("cut", [cell]), x)
    assert forward_pass.cut(found) == 7
    assert influence.zero_lags(found) == (6, 6)
    dead = Case("rnn", {"nonlinearity": "relu"}).model()
    dead.cells[0].parameters["bias_ih"][:] = -100.0
    quiet = analysis_of(dead, Case("rnn").x())
    assert forward_pass.cut(quiet) is None
    assert forward_pass.saturation(quiet) == {"activation.dead": 1.0}


@pytest.mark.parametrize("step", [1, 4, 7])
def test_nan_born_inside_is_found_where_it_is_born(step: int) -> None:
    case = Case("lstm", {"layers": "2"}, batch=1)

    class Faulty:
        def __init__(self, cell):
            self.cell = cell

        def __getattr__(self, name):
            return getattr(self.cell, name)

        def linearize(self, x, s0):
            x = x.clone()
            x[step - 1] = math.nan
            return self.cell.linearize(x, s0)

    model = case.model()
    found = analysis_of(Recurrent("lstm", [model.cells[0], Faulty(model.cells[1])]), case.x()).non_finite
    assert (found.step, found.layer, found.where, found.value) == (step, "l1", "gate.input", "nan")


def test_overflow_in_float32_is_found_with_its_step() -> None:
    weights = {"weight_ih": torch.ones(1, 1), "weight_hh": torch.full((1, 1), 1e10)}
    model = Recurrent("rnn", [RNNCell("l0", weights, "linear")])
    found = analysis_of(model, torch.ones(1, 9, 1), dtype="float32")
    # h_t is about 1e10^(t-1): beyond 3.4e38 at t = 5.
    assert (found.non_finite.step, found.non_finite.value) == (5, "inf")
    with pytest.raises(Unavailable, match="not finite from step 5"):
        influence.rate(found)


def test_gates_and_saturation_of_an_open_forget_gate() -> None:
    case = Case("lstm", {"forget_bias": "9"})
    found = analysis_of(case.model(), case.x())
    assert forward_pass.saturation(found)["gate.forget.open"] == 1.0
    assert min(forward_pass.gates(found)["gate.forget.mean"].values) > 0.99


def test_students_t() -> None:
    # R: qt(0.975, c(1, 7, 30, 31, 100)).
    for freedom, expected in ((1, 12.7062047), (7, 2.3646243), (30, 2.0422725), (31, 2.0395134), (100, 1.9839715)):
        assert t_quantile(freedom) == pytest.approx(expected, abs=2e-5)
    assert mean_interval([1.0]) is None
    # mean 2, standard deviation 1, n = 3: 2 -+ 4.302653 / sqrt(3).
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((-0.484138, 4.484138), abs=1e-6)


def test_the_first_singular_jacobian_is_named() -> None:
    chain = torch.eye(3, dtype=torch.float64).repeat(40, 1, 1)
    chain[17, 2] = 0
    chain[25] = 0
    assert state_spectra.rank_lost_at(analysis_of(ArrayChain(chain), torch.zeros(1, 40, 0))) == 18
    assert state_spectra.rank_lost_at(analysis_of(ArrayChain(chain[:17]), torch.zeros(1, 17, 0))) is None


def test_the_share_of_several_seeds_is_the_largest() -> None:
    """S = log10(g_K / sum g), g the mean over sequences of ||dL/dx||, by plain autograd of every seed's own model."""
    settings = {"length": 15, "hidden": 5, "batch": 3, "needs_lag": 9}
    together = gradscope.analyze("rnn", seeds=3, **settings).models[0].summary.gradient_share
    alone = [gradscope.analyze("rnn", seed=seed, **settings).models[0] for seed in range(3)]
    shares = [model.summary.gradient_share for model in alone]
    assert together == max(shares)
    assert len(set(shares)) == 3
    x = torch.randn(3, 15, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    net = torch.nn.RNN(4, 5, batch_first=True).double()
    (dx,) = torch.autograd.grad(net(x)[0][:, -1].sum(), x)
    g = dx.norm(dim=-1).mean(0).flip(0)[:10]
    own = gradscope.analyze(net, x.detach(), loss=lambda y: y[:, -1].sum(), needs_lag=9).models[0]
    assert own.summary.gradient_share == pytest.approx(float((g[9] / g.sum()).log10()))
