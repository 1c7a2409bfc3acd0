"""The largest singular value without a decomposition, against the decomposition."""

from __future__ import annotations

import pytest
import torch

from gradscope.chain import ArrayChain
from gradscope.numerics.products import sweep_products
from gradscope.numerics.singular_values import largest_singular_values


def test_agrees_with_the_decomposition_on_easy_hard_and_singular_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 150, 150, dtype=torch.float64, generator=generator)
    turn = torch.linalg.qr(noise[0]).Q
    close = turn * torch.linspace(1.0, 0.999, 150, dtype=torch.float64)
    rank_one = noise[1, :, :1] @ noise[1, :1]
    matrices = torch.stack([*noise, turn, close, rank_one, torch.zeros_like(turn), torch.eye(150, dtype=torch.float64)])
    found = largest_singular_values(matrices)
    expected = torch.linalg.svdvals(matrices)[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_products_of_large_jacobians() -> None:
    generator = torch.Generator().manual_seed(1)
    product, expected = torch.eye(140, dtype=torch.float64), []
    matrices = []
    for _ in range(12):
        product = product @ torch.randn(140, 140, dtype=torch.float64, generator=generator) / 12
        matrices.append(product)
        expected.append(float(torch.linalg.matrix_norm(product, 2)))
    found = largest_singular_values(torch.stack(matrices))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("power", "dtype"), [(-200, torch.float64), (200, torch.float64), (-30, torch.float32)])
@pytest.mark.parametrize("size", [20, 140])
def test_products_at_the_ends_of_the_range(size: int, power: int, dtype: torch.dtype) -> None:
    drawn = torch.randn(6, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / size**0.5
    found = sweep_products(ArrayChain((drawn * 10.0**power).to(dtype))).log10_norm
    plain = sweep_products(ArrayChain(drawn)).log10_norm
    expected = plain + power * torch.arange(6, -1, -1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("factor", [1e-35, 1e30])
def test_two_wild_steps_in_single_precision(factor: float) -> None:
    drawn = torch.randn(6, 140, 140, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 12
    plain = sweep_products(ArrayChain(drawn)).log10_norm
    drawn[2:4] *= factor
    found = sweep_products(ArrayChain(drawn.float())).log10_norm
    assert float(found[0] - plain[0]) == pytest.approx(2 * torch.tensor(factor).double().log10().item(), abs=1e-4)
