"""The adding problem with markers at random places: short lags occur beside long ones, and open the way for them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import gradscope

LENGTH, HIDDEN, BATCH = 100, 64, 64
TRIVIAL = 1 / 6
"""Mean squared error of answering 1 always: the variance of the sum of two uniform numbers."""


class Adder(nn.Module):
    """A GRU and a readout of its last output."""

    def __init__(self) -> None:
        """Weights as torch draws them."""
        super().__init__()
        self.gru, self.head = nn.GRU(2, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch)."""
        return self.head(self.gru(x)[0][:, -1]).squeeze(-1)


def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers and markers (batch, T, 2): two places anywhere are marked, the target is the sum of their numbers."""
    numbers = torch.rand(BATCH, LENGTH, generator=generator)
    places = torch.rand(BATCH, LENGTH, generator=generator).topk(2, 1).indices
    markers = torch.zeros(BATCH, LENGTH).scatter_(1, places, 1.0)
    return torch.stack([numbers, markers], -1), (numbers * markers).sum(1)


def run(log: Path, steps: int = 1000) -> None:
    """Adam 3e-3, clip 1."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = Adder()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with gradscope.Monitor(model, every=20, needs_lag=LENGTH - 1, log=log, name="GRU on adding") as flow:
        for _ in range(steps):
            x, y = batch(generator)
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            flow.step(loss, x)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
