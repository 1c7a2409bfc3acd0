"""What does not fit is refused before it starts, with all that takes part named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import UsageError
from gradscope.numerics import costs


def test_seeds_are_part_of_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # An RNN of 4 units and 2 features keeps 44 numbers a step: 8 * 8 * 20 * 44 bytes a seed, and its weights.
    monkeypatch.setattr(costs, "available_bytes", lambda: 150_000)
    said = r"3 seeds x 8 sequences of 20 steps need .* --length \d+ fits, .* smaller --batch or fewer --seeds$"
    with pytest.raises(UsageError, match=said):
        gradscope.analyze("rnn", length=20, hidden=4, input_size=2, seeds=3)
    assert gradscope.analyze("rnn", length=20, hidden=4, input_size=2).models[0].length == 20


class Headed(nn.Module):
    """Its attributes are called as those of attention are, and are no counts."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.depth = nn.GRUCell(2, 3), nn.Parameter(torch.ones(1))
        self.heads = nn.ModuleList([nn.Linear(3, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(len(x), 3)
        for t in range(x.shape[1]):
            h = self.rnn(x[:, t], h)
        return self.heads[0](h * self.depth)


def test_a_users_heads_and_depth_may_be_anything() -> None:
    assert gradscope.analyze(Headed(), torch.randn(2, 6, 2)).models[0].summary.reach is not None
