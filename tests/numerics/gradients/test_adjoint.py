"""BPTT in log scale against autograd through the unrolled graph, and far beyond where autograd reaches."""

from __future__ import annotations

import math

import pytest
import torch

from cases import RECURRENT, Case
from gradscope.models.rnn import RNNCell
from gradscope.models.stack import Recurrent
from gradscope.numerics.adjoint import backpropagate
from gradscope.numerics.logscale import log10_hypot
from oracles import state_gradients

LN10 = math.log(10)


@pytest.mark.parametrize("case", RECURRENT, ids=str)
def test_all_norms_equal_autograd(case: Case) -> None:
    model, x = case.model(), case.x()
    generator = torch.Generator().manual_seed(5)
    v = torch.randn(case.batch, case.length, model.output_size, dtype=torch.float64, generator=generator)
    found = backpropagate(model.run(x), v)
    states = torch.stack([g.norm(dim=-1) for g in state_gradients(model, x, v)])
    totals = torch.stack([layer.state for layer in found.layers])
    torch.testing.assert_close(log10_hypot(totals), states.log10(), rtol=0, atol=1e-12)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad((model(leaf) * v).sum(), leaf)
    torch.testing.assert_close(found.input, wanted.norm(dim=-1).log10().T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", RECURRENT, ids=str)
def test_joint_state_follows_the_chain_of_dense_jacobians(case: Case) -> None:
    model, x = case.model(), case.x()
    trajectory = model.run(x)
    v = torch.zeros(case.batch, case.length, model.output_size, dtype=torch.float64)
    v[:, -1] = torch.randn(model.output_size, dtype=torch.float64)
    leaves, flow = [layer.states[-1].clone().requires_grad_() for layer in trajectory.layers], x[:, -1]
    for cell, leaf in zip(model.cells, leaves, strict=True):
        flow = cell.output(flow, leaf)
    ends = torch.autograd.grad((flow * v[:, -1]).sum(), leaves, allow_unused=True)
    last = [torch.zeros_like(leaf) if end is None else end for end, leaf in zip(ends, leaves, strict=True)]
    jacobians, wanted = trajectory.dense(0, case.length), [torch.cat(last, -1)]
    for t in range(case.length, 0, -1):
        wanted.append((jacobians[:, t - 1].mT @ wanted[-1][..., None])[..., 0])
    expected = torch.stack(wanted[::-1]).norm(dim=-1).log10()
    torch.testing.assert_close(backpropagate(trajectory, v).state, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", RECURRENT, ids=str)
def test_per_step_weight_contributions_sum_to_the_weight_gradient(case: Case) -> None:
    model, x = case.model(), case.x()
    v = torch.randn(case.batch, case.length, model.output_size, dtype=torch.float64)
    kept = {k: p.requires_grad_() for k, p in model.parameters().items() if k.split(".")[1] not in ("c", "d")}
    total = torch.autograd.grad((model(x) * v).sum(), list(kept.values()))
    norm = torch.cat([g.flatten() for g in total]).norm().log10()
    for p in kept.values():
        p.requires_grad_(False)
    trajectory = model.run(x)
    assert backpropagate(trajectory, v).weight_gradient == pytest.approx(float(norm), abs=1e-12)


@pytest.mark.parametrize(
    "case", [Case("rnn", batch=1), Case("gru", batch=1), Case("lstm", batch=1), Case("lru", batch=1)]
)
def test_one_steps_weight_contribution_equals_autograd_with_other_steps_detached(case: Case) -> None:
    model, x = case.model(), case.x()
    v = torch.zeros(1, case.length, model.output_size, dtype=torch.float64)
    v[:, -1] = torch.randn(model.output_size, dtype=torch.float64)
    found = backpropagate(model.run(x), v).weight
    cell = model.cells[0]
    for t in (1, 4, case.length):
        weights = {k: p for k, p in cell.parameters.items() if k not in ("c", "d")}
        fresh = {k: p.clone().requires_grad_() for k, p in weights.items()}
        s = cell.initial_state(1)
        for step in range(1, case.length + 1):
            cell.parameters = {**cell.parameters, **(fresh if step == t else weights)}
            s = cell.step(x[:, step - 1], s)
        cell.parameters = {**cell.parameters, **weights}
        y = cell.output(x[:, -1], s)
        parts = torch.autograd.grad((y * v[:, -1]).sum(), list(fresh.values()))
        norm = torch.cat([g.flatten() for g in parts]).norm().log10()
        assert float(found[t - 1, 0]) == pytest.approx(float(norm), abs=1e-11)


def scaled_identity(gain: float, size: int = 3, dtype: torch.dtype = torch.float64) -> Recurrent:
    weights = {"weight_ih": torch.zeros(size, 1, dtype=dtype), "weight_hh": gain * torch.eye(size, dtype=dtype)}
    return Recurrent("linear", [RNNCell("l0", weights, "linear")])


@pytest.mark.parametrize(("gain", "steps"), [(0.9, 5000), (0.5, 20000), (2.0, 20000)])
def test_no_underflow_or_overflow_at_any_length(gain: float, steps: int) -> None:
    model = scaled_identity(gain)
    v = torch.zeros(1, steps, 3, dtype=torch.float64)
    v[:, -1, 0] = 1.0
    found = backpropagate(model.run(torch.zeros(1, steps, 1, dtype=torch.float64)), v).state
    assert float(found[0, 0]) * LN10 == pytest.approx(steps * math.log(gain), rel=1e-12)


def test_float32_norms_below_its_range_are_not_zero() -> None:
    model = scaled_identity(0.5, dtype=torch.float32)
    v = torch.zeros(1, 1000, 3)
    v[:, -1] = 1e-30
    found = backpropagate(model.run(torch.zeros(1, 1000, 1)), v).state
    expected = math.log10(math.sqrt(3)) - 30 - 1000 * math.log10(2)
    assert float(found[0, 0]) == pytest.approx(expected, abs=1e-5)


def test_exact_zero_is_reported_as_zero_and_only_there() -> None:
    model = scaled_identity(0.0)
    v = torch.ones(1, 6, 3, dtype=torch.float64)
    found = backpropagate(model.run(torch.zeros(1, 6, 1, dtype=torch.float64)), v).state[:, 0]
    assert float(found[0]) == -math.inf
    assert bool(found[1:].isfinite().all())


@pytest.mark.parametrize("power", [-300, -1, 1, 300])
def test_a_loss_scaled_by_a_power_of_two_shifts_exponents_and_nothing_else(power: int) -> None:
    case = Case("lstm", {"layers": "2"})
    model, x = case.model(), case.x()
    trajectory = model.run(x)
    v = torch.randn(case.batch, case.length, 5, dtype=torch.float64)
    plain, scaled = backpropagate(trajectory, v), backpropagate(trajectory, v * 2.0**power)
    torch.testing.assert_close(scaled.state - plain.state, torch.full_like(plain.state, power * math.log10(2)))


def test_a_batch_row_equals_its_single_run() -> None:
    case = Case("gru", {"layers": "2"}, batch=3)
    model, x = case.model(), case.x()
    v = torch.randn(3, case.length, 5, dtype=torch.float64)
    together, alone = backpropagate(model.run(x), v), backpropagate(model.run(x[1:2]), v[1:2])
    torch.testing.assert_close(together.state[:, 1:2], alone.state, rtol=0, atol=1e-12)


def test_chunks_do_not_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("lstm", {"layers": "2"}, length=50)
    model, x = case.model(), case.x()
    v = torch.randn(case.batch, 50, 5, dtype=torch.float64)
    whole = backpropagate(model.run(x), v)
    monkeypatch.setattr("gradscope.numerics.adjoint.CHUNK_NUMBERS", 7 * 20)
    pieces = backpropagate(model.run(x), v)
    torch.testing.assert_close(pieces.state, whole.state, rtol=0, atol=1e-12)
    torch.testing.assert_close(pieces.weight, whole.weight, rtol=0, atol=1e-12)
    assert pieces.weight_gradient == pytest.approx(whole.weight_gradient, abs=1e-12)
