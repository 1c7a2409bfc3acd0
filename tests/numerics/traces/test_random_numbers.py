"""Modules that draw random numbers in evaluation mode too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import gradscope

FEATURES, SIZE = 3, 4
X = torch.randn(2, 9, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


class Noisy(nn.Module):
    """Dropout that stays on in evaluation mode, as Monte Carlo dropout does."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.cell, self.noise = nn.GRUCell(FEATURES, SIZE), noise

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), SIZE)
        for step in x.unbind(1):
            h = nn.functional.dropout(self.cell(step, h), self.noise)
        return h


def test_sequences_that_get_other_random_numbers_alone_are_not_said_to_influence_each_other() -> None:
    found = gradscope.analyze(Noisy(0.3).double(), X).models[0]
    assert found.skipped["log10_jacobian_norm"].startswith(
        "Noisy draws random numbers, others for a sequence by itself"
    )
    # What is said to help does: one sequence alone has its own numbers.
    assert "log10_jacobian_norm" in gradscope.analyze(Noisy(0.3).double(), X[:1]).models[0].series.values
    assert "log10_jacobian_norm" in gradscope.analyze(Noisy(0.0).double(), X).models[0].series.values
