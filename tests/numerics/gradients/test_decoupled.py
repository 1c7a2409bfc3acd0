"""Units that do not hear of each other: what leads may change hands from lag to lag, with nothing to carry it over."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gradscope.chain import ArrayChain
from gradscope.numerics.lyapunov import lyapunov
from gradscope.numerics.products import sweep_products
from gradscope.numerics.spectra import leading_spectra


class Diagonal:
    """Jacobians diag(d_t), whose products are exactly known; matrices only where asked for."""

    begins = 0

    def __init__(self, d: Tensor) -> None:
        self.d, self.batch, (self.length, self.size), self.like = d, 1, d.shape, d.new_empty(0)

    def matmat(self, t: int, q: Tensor) -> Tensor:
        return self.d[t - 1][:, None] * q

    rmatmat = matmat

    def dense(self, start: int, stop: int) -> Tensor:
        return torch.diag_embed(self.d[start:stop])[None]

    def ln_sigma(self, lag: int, count: int) -> Tensor:
        return self.d[self.length - lag :].log().sum(0).sort(descending=True).values[:count]


def drawn(steps: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(steps, size, dtype=torch.float64).uniform_(0.6, 1.1, generator=generator)


def handed_over(steps: int, size: int) -> Tensor:
    """Forty units lead over the newest hundred steps, forty others over the whole."""
    d = torch.full((steps, size), 0.7, dtype=torch.float64)
    d[-100:, :40], d[:-100, :40] = torch.linspace(0.95, 0.96, 40, dtype=torch.float64), 0.5
    d[:-100, 40:80] = torch.linspace(0.97, 0.995, 40, dtype=torch.float64)
    return d


@pytest.mark.parametrize("size", [60, 200])
def test_the_largest_singular_value_is_that_of_the_unit_that_leads_at_the_lag(size: int) -> None:
    chain = Diagonal(drawn(60, size))
    found = sweep_products(chain).log10_norm.flip(0)[1:] * math.log(10)
    expected = torch.cat([chain.ln_sigma(lag, 1) for lag in range(1, 61)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_the_largest_singular_value_of_two_blocks() -> None:
    generator = torch.Generator().manual_seed(1)
    blocks = torch.randn(40, 2, 80, 80, dtype=torch.float64, generator=generator) / 9
    jacobians = torch.stack([torch.block_diag(*pair) for pair in blocks])
    found = sweep_products(ArrayChain(jacobians)).log10_norm.flip(0)[1:]
    product, expected = torch.eye(160, dtype=torch.float64), []
    for jacobian in jacobians.flip(0):
        product = product @ jacobian
        expected.append(torch.linalg.matrix_norm(product, 2).log10())
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-11)


def drawn_anew(steps: int, size: int) -> Tensor:
    return drawn(steps, size, seed=2)


@pytest.mark.parametrize("draw", [drawn, drawn_anew, handed_over])
def test_leading_values_at_far_lags_find_units_that_did_not_lead_at_near_ones(draw) -> None:
    chain = Diagonal(draw(400, 300))
    found = leading_spectra(chain, [1, 10, 100, 200, 400], 16)
    for lag, ln_sigma, residual in zip(found.lag, found.ln_sigma, found.residual, strict=True):
        off = (ln_sigma - chain.ln_sigma(lag, 16)).abs()
        assert float(off.max()) < 1e-3, lag
        assert bool((off <= 2 * residual + 1e-12).all()), lag


def test_leading_exponents_are_those_of_the_leading_units() -> None:
    chain = Diagonal(drawn(400, 300))
    expected = chain.ln_sigma(400, 1) / 400
    assert float(lyapunov(chain, 8).mean[0]) == pytest.approx(float(expected), abs=2e-3)
    assert float(lyapunov(chain).mean[0]) == pytest.approx(float(expected), abs=1e-13)


def test_leading_exponents_of_units_that_never_change_are_their_slopes() -> None:
    slopes = torch.linspace(0.5, 0.999, 300, dtype=torch.float64)
    found = lyapunov(Diagonal(slopes.expand(1000, -1)), 8)
    torch.testing.assert_close(found.mean[:3], slopes.flip(0)[:3].log(), rtol=0, atol=1e-4)


def test_leading_exponents_have_the_right_sign_where_many_units_are_close() -> None:
    slopes = torch.linspace(0.5, 1.0005, 400, dtype=torch.float64)
    found = float(lyapunov(Diagonal(slopes.expand(200, -1)), 16).mean[0])
    assert found == pytest.approx(math.log(1.0005), abs=1e-4)
