"""Pairs in models that are run as they are: all outputs, or random directions for many."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.logscale import log10_sum
from gradscope.numerics.token_pairs import through_module

STEPS = 6


class Mixed(nn.Module):
    """y_t = W tanh(mean of x up to t, or of all x): outputs of any width."""

    def __init__(self, width: int, *, causal: bool = True, pooled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out, self.causal, self.pooled = nn.Linear(4, width), causal, pooled

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.linspace(1, 3, x.shape[1]).to(x)[:, None]
        mixed = (x * weight).cumsum(1) if self.causal else (x * weight).sum(1, keepdim=True).expand_as(x)
        y = self.out(torch.tanh(mixed))
        return y[:, -1] if self.pooled else y


def norms(module: nn.Module, x: Tensor, target: int) -> Tensor:
    def at_target(given: Tensor) -> Tensor:
        y = module(given[None])[0]
        return y[target - 1] if y.ndim == 2 else y

    jacobian = torch.func.jacrev(at_target)(x[0])
    return jacobian.detach().square().sum((0, 2)).sqrt().log10()


def measured(module: nn.Module, target: int) -> tuple[Tensor, Tensor, str]:
    module, x = module.double(), torch.randn(1, STEPS, 4, generator=torch.Generator().manual_seed(2)).double()
    logs, paths = through_module(WholeModule("own", module, 4, kind="module"), x, 1, target)
    return logs, norms(module, x, target), paths[0].path


@pytest.mark.parametrize("width", [3, 512])
def test_every_output_counts(width: int) -> None:
    logs, expected, what = measured(Mixed(width), 4)
    torch.testing.assert_close(logs, expected[:4])
    assert what == "all"


def test_directions_stand_for_many_outputs() -> None:
    logs, expected, what = measured(Mixed(1000), 6)
    assert what == "all, by 64 of 1,000 directions"
    assert float((logs - expected).abs().max()) < math.log10(1.25)
    shares, exact = (10 ** (values - log10_sum(values)) for values in (logs, expected))
    torch.testing.assert_close(shares, exact, rtol=0.1, atol=0)


def test_what_reads_the_future_is_ranked_over_all_steps() -> None:
    logs, expected, _ = measured(Mixed(3, causal=False), 2)
    torch.testing.assert_close(logs, expected)


def test_one_output_for_all_steps_is_that_of_the_last() -> None:
    logs, expected, _ = measured(Mixed(3, pooled=True), STEPS)
    torch.testing.assert_close(logs, expected)
    with pytest.raises(UsageError, match="let step 6 be the target"):
        measured(Mixed(3, pooled=True), 2)
