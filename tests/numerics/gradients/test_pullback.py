"""Gradients through ordinary operations, whatever their scale."""

from __future__ import annotations

import math

import torch

from gradscope.numerics.adjoint import Scaled
from gradscope.numerics.fused_backward import pull_through


def test_bands_far_apart_are_pulled_one_by_one_and_lose_nothing() -> None:
    x = torch.randn(4, 1, 3, dtype=torch.float64, requires_grad=True)
    m = torch.randn(4, 1, 3, dtype=torch.float64)
    e = torch.tensor([[0], [-5000], [40], [-100_000]])
    y = x.cumsum(0) * 3
    parts = list(pull_through([y], [Scaled(m, e)], [x]))
    assert [top for _, top in parts] == [40, -5000, -100_000]
    # y_t reads x_1 .. x_t, so x_4 hears from step 4 alone and x_1 from all.
    last = parts[-1][0][0]
    assert torch.allclose(last[3], 3 * m[3])
    assert torch.allclose(parts[0][0][0][0], 3 * (m[0] * 2.0**-40 + m[2]))
    assert torch.equal(parts[0][0][0][3], torch.zeros(1, 3, dtype=torch.float64))


def test_what_is_not_joined_gives_nothing() -> None:
    x = torch.ones(2, 1, 1, requires_grad=True)
    v = Scaled(torch.ones(2, 1, 1), torch.zeros(2, 1, dtype=torch.int64))
    assert list(pull_through([torch.ones(2, 1, 1)], [v], [x])) == []
    (found, top), *more = pull_through([x * 2, torch.ones(2, 1, 1)], [v, v], [x])
    assert not more
    assert float(found[0].sum()) * math.ldexp(1, top) == 4
