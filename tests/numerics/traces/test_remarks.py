"""What is said of how a module was taken."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import gradscope


class Tagger(nn.Module):
    """A bidirectional GRU of which the head reads the last output, or the mean."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.rnn, self.head, self.last = nn.GRU(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 2), last

    def forward(self, x: Tensor) -> Tensor:
        y = self.rnn(x)[0]
        return self.head(y[:, -1] if self.last else y.mean(1))


def notes(module: nn.Module) -> str:
    x = torch.randn(4, 15, 3, generator=torch.Generator().manual_seed(0))
    return " | ".join(gradscope.analyze(module, x, loss=lambda y: y.square().sum()).models[0].notes)


def test_the_last_output_of_a_reverse_half_has_seen_one_input() -> None:
    assert "the last output of rnn, whose reverse half has seen the last input alone" in notes(Tagger(last=True))
    assert "reverse half" not in notes(Tagger(last=False))
