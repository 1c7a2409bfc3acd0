"""The largest singular value without a decomposition, against the decomposition."""

from __future__ import annotations

import torch

from gradscope.numerics.largest import largest_singular_values


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
