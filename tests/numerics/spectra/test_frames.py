"""Frames: how many Jacobians are multiplied between factorisations, and what ill-conditioned ones leave."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cases import RECURRENT, Case
from gradscope.chain import ArrayChain
from gradscope.models.cell import Volume
from gradscope.models.rnn import RNNCell
from gradscope.models.stack import Recurrent
from gradscope.numerics import frame
from gradscope.numerics.lyapunov import lyapunov, stretches


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_singular_values(length: int, values: Tensor) -> Tensor:
    """Jacobians with these singular values and random singular vectors."""
    size = len(values)
    left, right = (torch.linalg.qr(drawn(length, size, size, seed=seed)).Q for seed in (1, 2))
    return left * values @ right


def by_qr_at_every_step(jacobians: Tensor) -> Tensor:
    q, growth = torch.eye(jacobians.shape[-1], dtype=jacobians.dtype), []
    for jacobian in jacobians:
        q, r = torch.linalg.qr(jacobian @ q)
        growth.append(r.diagonal().abs().log())
    return torch.stack(growth).mean(0).sort(descending=True).values


@pytest.mark.parametrize("size", [3, 12, 24, 40])
@pytest.mark.parametrize(("spread", "tolerance"), [(0.1, 1e-12), (2.0, 1e-10), (8.0, 2e-9)])
def test_exponents_equal_those_of_a_factorisation_at_every_step(size: int, spread: float, tolerance: float) -> None:
    # A condition of e^16 costs a factorisation at every step as many digits as it costs ours.
    jacobians = with_singular_values(150, torch.linspace(spread, -spread, size, dtype=torch.float64).exp())
    found = lyapunov(ArrayChain(jacobians)).mean
    torch.testing.assert_close(found, by_qr_at_every_step(jacobians), rtol=0, atol=tolerance)


def test_the_condition_decides_how_many_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    factored = []
    plain = frame.factorise
    monkeypatch.setattr(frame, "factorise", lambda a: factored.append(1) or plain(a))
    taken = []
    for spread in (0.05, 1.0, 6.0):
        factored.clear()
        values = torch.linspace(spread, -spread, 20, dtype=torch.float64).exp()
        lyapunov(ArrayChain(with_singular_values(320, values)))
        taken.append(len(factored))
    assert taken[0] < 60
    assert taken[0] < taken[1] < taken[2]
    assert taken[2] == 320


def test_steps_that_turn_out_worse_than_foreseen_are_done_again() -> None:
    mild = torch.linspace(0.1, -0.1, 20, dtype=torch.float64).exp()
    harsh = torch.linspace(6.0, -6.0, 20, dtype=torch.float64).exp()
    jacobians = torch.cat([with_singular_values(100, mild), with_singular_values(100, harsh)])
    found = lyapunov(ArrayChain(jacobians)).mean
    torch.testing.assert_close(found, by_qr_at_every_step(jacobians), rtol=0, atol=1e-11)


@pytest.mark.parametrize("gain", [1e-40, 1e40])
def test_scales_that_would_leave_the_range_when_multiplied(gain: float) -> None:
    jacobians = with_singular_values(100, torch.linspace(1.1, 0.9, 18, dtype=torch.float64)) * gain
    found = lyapunov(ArrayChain(jacobians)).mean
    torch.testing.assert_close(found, by_qr_at_every_step(jacobians), rtol=0, atol=1e-11)


@pytest.mark.parametrize("smallest", [1e-6, 1e-9, 1e-11, 1e-14])
@pytest.mark.parametrize("size", [5, 20])
def test_the_sum_is_that_of_the_determinants_whatever_the_condition(size: int, smallest: float) -> None:
    values = torch.ones(size, dtype=torch.float64)
    values[-1] = smallest
    jacobians = with_singular_values(60, values)
    found = lyapunov(ArrayChain(jacobians))
    expected = torch.linalg.slogdet(jacobians).logabsdet.mean()
    assert float(found.mean.sum()) == pytest.approx(float(expected), abs=1e-10)
    assert bool(found.resolved[:-1].all())
    assert bool(found.resolved[-1]) == (smallest > 1e-12)


def test_the_step_that_loses_rank_is_named() -> None:
    jacobians = with_singular_values(50, torch.linspace(1.1, 0.9, 6, dtype=torch.float64))
    assert lyapunov(ArrayChain(jacobians)).rank_lost_at is None
    jacobians[36, 2] = 0.0
    found = lyapunov(ArrayChain(jacobians))
    assert found.rank_lost_at == 37
    assert float(found.mean[-1]) == -math.inf


@pytest.mark.parametrize("case", RECURRENT, ids=str)
def test_a_whole_basis_is_mapped_as_by_the_matrix_and_volumes_are_its_determinants(case: Case) -> None:
    chain = case.model().run(case.x())
    dense = chain.dense(0, chain.length)
    basis = torch.eye(chain.size, dtype=torch.float64).expand(chain.batch, -1, -1)
    for t in (1, chain.length):
        torch.testing.assert_close(chain.matmat(t, basis), dense[:, t - 1], rtol=0, atol=1e-13)
        torch.testing.assert_close(chain.rmatmat(t, basis), dense[:, t - 1].mT, rtol=0, atol=1e-13)
    for layer, alone in zip(chain.layers, own_jacobians(chain.layers), strict=True):
        if isinstance(layer, Volume):
            expected = torch.linalg.slogdet(alone).logabsdet
            found = layer.log_volume(slice(0, chain.length))
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def own_jacobians(layers: tuple) -> list[Tensor]:
    """J_t of every layer by itself, (T, batch, S, S)."""
    found = []
    for layer in layers:
        size = layer.states.shape[-1]
        eye = torch.eye(size, dtype=torch.float64)[:, None, None, :]
        shape = (size, *layer.states[1:].shape)
        found.append(layer.push(slice(None), eye).expand(shape).permute(1, 2, 3, 0))
    return found


def test_the_volume_of_saturated_units_is_exact() -> None:
    weights = {
        "weight_ih": torch.zeros(2, 1, dtype=torch.float64),
        "weight_hh": torch.tensor([[0.5, 0.25], [0.0, 0.5]], dtype=torch.float64),
        "bias_ih": torch.tensor([50.0, 0.0], dtype=torch.float64),
        "bias_hh": torch.zeros(2, dtype=torch.float64),
    }
    run = Recurrent("rnn", [RNNCell("l0", weights)]).run(torch.zeros(1, 1, 1, dtype=torch.float64))
    found = lyapunov(run)
    # ln(1/cosh^2 50) + 2 ln 0.5, by mpmath.
    assert float(found.mean.sum()) == pytest.approx(-98.613705638880109 - 2 * math.log(2), abs=1e-12)


@pytest.mark.parametrize("length", [1, 7, 10, 95, 200, 1001])
def test_stretches_cover_every_step_and_fall_into_ten_parts(length: int) -> None:
    found = list(stretches(length))
    assert [step for start, stop in found for step in range(start, stop)] == list(range(length))
    edges = {stop for _, stop in found}
    parts = torch.arange(length).tensor_split(10) if length >= 10 else []
    assert all(int(part[-1]) + 1 in edges for part in parts)
