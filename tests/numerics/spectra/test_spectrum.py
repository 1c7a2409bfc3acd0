"""Singular values of long products against exactly known ones and against hundreds of digits."""

from __future__ import annotations

import math

import pytest
import torch

from gradscope.numerics.spectra import log_lags, product_spectra
from oracles import log_singular_values


def repeated(rows: list[list[float]], times: int) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).expand(times, -1, -1)


def test_diagonal_product_beyond_any_condition_number() -> None:
    (found,) = product_spectra(repeated([[2, 0], [0, 0.5]], 2000), [2000])
    # 2000 ln 2 = 1386.294361119891
    assert found.ln_sigma.tolist() == pytest.approx([1386.294361119891, -1386.294361119891], rel=1e-14)


@pytest.mark.parametrize(("steps", "expected"), [(1, 0.42498), (9, 1.36419), (1000, -98.34740)])
def test_jordan_block(steps: int, expected: float) -> None:
    (found,) = product_spectra(repeated([[0.9, 1], [0, 0.9]], steps), [steps])
    assert float(found.ln_sigma[0]) == pytest.approx(expected, abs=5e-6)
    assert float(found.ln_sigma.sum()) == pytest.approx(2 * steps * math.log(0.9), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 10, 100000])
def test_shear(steps: int) -> None:
    (found,) = product_spectra(repeated([[1, 1], [0, 1]], min(steps, 1000)), [min(steps, 1000)])
    # The larger singular value of [[1, T], [0, 1]] is exp(asinh(T/2)).
    assert float(found.ln_sigma[0]) == pytest.approx(math.asinh(min(steps, 1000) / 2), rel=1e-13)


def test_henon_map_after_twenty_steps() -> None:
    x, y, factors = 0.1, 0.1, []
    for _ in range(20):
        factors.append([[-2.8 * x, 1.0], [0.3, 0.0]])
        x, y = 1 - 1.4 * x * x + y, 0.3 * x
    (found,) = product_spectra(torch.tensor(factors, dtype=torch.float64), [20])
    assert found.ln_sigma.exp().tolist() == pytest.approx([1982.85493616100652, 1.75846671252247e-14], rel=1e-10)


@pytest.mark.parametrize(("size", "steps", "scale"), [(4, 50, 1.0), (8, 40, 1.0), (5, 150, 0.3), (3, 400, 2.0)])
def test_random_products_against_400_digits(size: int, steps: int, scale: float) -> None:
    factors = torch.randn(steps, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size)) * scale
    (found,) = product_spectra(factors, [steps])
    expected = log_singular_values(factors)
    error = (found.ln_sigma - expected).abs() / expected.abs().clamp_min(1)
    assert float(error.max()) < 1e-10
    assert bool(found.resolved.all())


def test_cluster_of_nearly_equal_values() -> None:
    generator = torch.Generator().manual_seed(3)
    turns = torch.linalg.qr(torch.randn(30, 6, 6, dtype=torch.float64, generator=generator)).Q
    factors = turns * (1 + 1e-3 * torch.randn(30, 6, 6, dtype=torch.float64, generator=generator))
    (found,) = product_spectra(factors, [30])
    assert float((found.ln_sigma - log_singular_values(factors)).abs().max()) < 1e-12


def test_several_lengths_share_one_sweep_and_agree_with_their_own() -> None:
    factors = torch.randn(20, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    for found, count in zip(product_spectra(factors, [1, 5, 20]), (1, 5, 20), strict=True):
        torch.testing.assert_close(found.ln_sigma, log_singular_values(factors[:count]), rtol=1e-12, atol=1e-12)


def test_what_double_precision_cannot_hold_is_marked() -> None:
    turns = torch.linalg.qr(torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    factors = turns * torch.tensor([1.0, 1.0, 1e-15], dtype=torch.float64)
    (found,) = product_spectra(factors, [5])
    assert found.resolved.tolist() == [True, True, False]


def test_exactly_singular_product_is_minus_infinity() -> None:
    (found,) = product_spectra(repeated([[1, 0], [0, 0]], 3), [3])
    assert found.ln_sigma.tolist() == [0.0, -math.inf]


def test_log_lags() -> None:
    assert log_lags(200) == [1, 2, 5, 10, 20, 50, 100, 200]
    assert log_lags(3) == [1, 2, 3]


@pytest.mark.parametrize("decades", [-300, -20, 20, 300])
def test_factors_of_any_size_multiply_out_within_range(decades: int) -> None:
    factors = torch.eye(2, dtype=torch.float64).repeat(60, 1, 1) * 10.0**decades
    short, long = product_spectra(factors, [7, 60])
    assert short.ln_sigma.tolist() == pytest.approx([7 * decades * math.log(10)] * 2, rel=1e-13)
    assert long.ln_sigma.tolist() == pytest.approx([60 * decades * math.log(10)] * 2, rel=1e-13)
