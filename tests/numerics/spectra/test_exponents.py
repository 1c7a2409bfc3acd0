"""Lyapunov exponents and products on systems whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from cases import RECURRENT, Case
from gradscope.chain import ArrayChain
from gradscope.models.family import family_model
from gradscope.models.lstm import LSTMCell
from gradscope.models.stack import Recurrent
from gradscope.models.user_step import CustomCell
from gradscope.numerics.lyapunov import lyapunov
from gradscope.numerics.products import jacobian_sigma, sweep_products
from gradscope.numerics.spectra import spectra
from oracles import log_singular_values


def zeros(steps: int, features: int = 0) -> torch.Tensor:
    return torch.zeros(1, steps, features, dtype=torch.float64)


def test_henon_map_as_a_users_cell() -> None:
    def henon(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return torch.stack([1 - 1.4 * s[:, 0] ** 2 + s[:, 1], 0.3 * s[:, 0]], -1)

    model = Recurrent("henon", [CustomCell("cell", henon, torch.tensor([0.1, 0.1], dtype=torch.float64), 0)])
    found = lyapunov(model.run(zeros(20000))).mean
    # Literature: 0.419 and -1.623 (e.g. Sprott 2003); the determinant of every Jacobian is -0.3.
    assert found.tolist() == pytest.approx([0.419, -1.623], abs=3e-3)
    assert float(found.sum()) == pytest.approx(-1.2039728043259361, abs=1e-12)


@pytest.mark.parametrize("gain", [0.7, 1.0, 1.3])
def test_scaled_orthogonal_recurrence_has_all_exponents_ln_a(gain: float) -> None:
    word = {"nonlinearity": "linear", "init": "orthogonal", "gain": str(gain), "hidden": "12", "bias": "false"}
    model = family_model("rnn", word, "rnn", {}).build(input_size=1, seed=0, dtype=torch.float64)
    found = lyapunov(model.run(zeros(300, 1))).mean
    assert float((found - math.log(gain)).abs().max()) < 1e-10


def test_scaling_a_linear_recurrence_shifts_all_exponents() -> None:
    plain, scaled = (
        lyapunov(Case("rnn", {"nonlinearity": "linear", "init": "normal", "gain": g}).model().run(zeros(200, 3))).mean
        for g in ("1", "1.7")
    )
    torch.testing.assert_close(scaled - plain, torch.full_like(plain, math.log(1.7)), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("bias", "expected"), [(1.0, -0.31326168751822286), (6.0, -0.0024756851377303)])
def test_lstm_cell_path_is_the_forget_gate(bias: float, expected: float) -> None:
    size = 4
    weights = {
        "weight_ih": torch.zeros(4 * size, 1, dtype=torch.float64),
        "weight_hh": torch.zeros(4 * size, size, dtype=torch.float64),
        "bias_ih": torch.zeros(4 * size, dtype=torch.float64),
        "bias_hh": torch.zeros(4 * size, dtype=torch.float64),
    }
    weights["bias_ih"][size : 2 * size] = bias
    found = lyapunov(Recurrent("lstm", [LSTMCell("l0", weights)]).run(zeros(100, 1))).mean
    # ln sigmoid(1) and ln sigmoid(6), by mpmath; the h half of the state carries nothing.
    assert found[:size].tolist() == pytest.approx([expected] * size, abs=1e-12)
    assert found[size:].tolist() == [-math.inf] * size


@pytest.mark.parametrize("case", [case for case in RECURRENT if case.batch <= 2][:8], ids=str)
def test_sum_of_exponents_is_the_mean_log_determinant(case: Case) -> None:
    chain = ArrayChain(case.model().run(case.x()[:1]).dense(0, case.length))
    if bool((torch.linalg.svdvals(chain.jacobians)[..., -1] < 1e-12).any()):
        pytest.skip("a Jacobian of this case is singular")
    expected = torch.linalg.slogdet(chain.jacobians[0]).logabsdet.mean()
    assert float(lyapunov(chain).mean.sum()) == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("case", RECURRENT[:8], ids=str)
def test_products_and_spectra_against_400_digits(case: Case) -> None:
    chain = ArrayChain(case.model().run(case.x()[:1]).dense(0, case.length))
    jacobians = chain.jacobians[0]
    found = sweep_products(chain)
    for t in range(case.length):
        expected = log_singular_values(jacobians[t:])
        assert float(found.log10_norm[t]) * math.log(10) == pytest.approx(float(expected[0]), abs=1e-11)
        counted = sweep_products(chain, case.length - t).directions
        assert counted == int((expected >= expected[0] + math.log(0.01)).sum())
    assert float(found.log10_norm[-1]) == 0.0
    (whole,) = spectra(chain, [case.length])
    expected = log_singular_values(jacobians)
    usable = whole.resolved & expected.isfinite()
    torch.testing.assert_close(whole.ln_sigma[usable], expected[usable], rtol=1e-9, atol=1e-9)
    norms = torch.linalg.matrix_norm(jacobians, 2).log()
    torch.testing.assert_close(jacobian_sigma(chain)[:, 0], norms, rtol=0, atol=1e-12)


def test_chunked_products_equal_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("gru", length=40)
    chain = ArrayChain(case.model().run(case.x()[:1]).dense(0, 40))
    whole = sweep_products(chain).log10_norm
    monkeypatch.setattr("gradscope.numerics.products.chunks", lambda n, size: [(0, 7), (7, 31), (31, 40)])
    torch.testing.assert_close(sweep_products(chain).log10_norm, whole, rtol=0, atol=1e-11)


def test_products_across_a_zero_jacobian_are_zero() -> None:
    jacobians = torch.eye(3, dtype=torch.float64).repeat(6, 1, 1)
    jacobians[2] = 0.0
    found = sweep_products(ArrayChain(jacobians))
    assert found.log10_norm.tolist() == [-math.inf] * 3 + [0.0] * 4


def test_steps_before_a_trajectory_has_settled_are_left_out() -> None:
    """A period-2 orbit of the logistic map at r = 3.3, entered from outside: exponent ln |r^2 (1-2a)(1-2b)| / 2."""
    r = 3.3

    def logistic(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return r * s * (1 - s)

    run = Recurrent("map", [CustomCell("cell", logistic, torch.tensor([0.01], dtype=torch.float64), 0)]).run(
        zeros(4000)
    )
    root = math.sqrt((r - 3) * (r + 1))
    a, b = (r + 1 + root) / (2 * r), (r + 1 - root) / (2 * r)
    exact = math.log(abs(r * r * (1 - 2 * a) * (1 - 2 * b))) / 2
    assert abs(float(lyapunov(run).mean) - exact) > 1e-4
    assert math.isclose(float(lyapunov(run, burn_in=200).mean), exact, abs_tol=1e-12)


def test_a_frame_that_is_known_to_grow_fastest_gives_the_leading_exponents() -> None:
    """Of a constant J the exponents are ln |eigenvalues|, whatever the frame; here it starts from eigenvectors."""
    scales = torch.tensor([0.9, 0.7, 0.5, 0.2], dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    chain = ArrayChain((basis @ torch.diag(scales) @ basis.T).expand(50, 4, 4))
    found = lyapunov(chain, 2, frame=basis[None, :, :2]).mean
    assert torch.allclose(found, scales[:2].log(), atol=1e-12)
