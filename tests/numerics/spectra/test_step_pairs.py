"""Norms over pairs of steps against products written out."""

from __future__ import annotations

import math

import pytest
import torch

from gradscope.chain import ArrayChain
from gradscope.numerics.products import MOST, step_pairs


def product(jacobians: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    found = torch.eye(jacobians.shape[-1], dtype=torch.float64)
    for t in range(start, stop):
        found = jacobians[t] @ found
    return found


@pytest.mark.parametrize("length", [1, 2, 23, 75])
def test_every_cell_is_the_norm_of_its_product(length):
    generator = torch.Generator().manual_seed(length)
    jacobians = torch.randn(length, 5, 5, dtype=torch.float64, generator=generator) / 5**0.5
    found = step_pairs(ArrayChain(jacobians))
    edges = found["step"]
    assert (edges[0], edges[-1], len(edges)) == (0, length, min(length, MOST) + 1)
    for i, row in enumerate(found["log10_norm"]):
        assert len(row) == i + 1
        for j, value in enumerate(row):
            exact = torch.linalg.matrix_norm(product(jacobians, edges[j], edges[i + 1]), 2)
            assert value == pytest.approx(math.log10(float(exact)), abs=1e-12)


def test_nothing_underflows_and_zero_is_zero():
    jacobians = (0.01 * torch.eye(3, dtype=torch.float64)).repeat(400, 1, 1)
    assert step_pairs(ArrayChain(jacobians))["log10_norm"][-1][0] == pytest.approx(-800)
    jacobians[200] = 0
    found = step_pairs(ArrayChain(jacobians))["log10_norm"]
    assert found[-1][0] == -math.inf
    assert found[0][0] == pytest.approx(-2 * (400 // MOST + (400 % MOST > 0)), abs=2)
    assert math.isfinite(found[-1][-1])
