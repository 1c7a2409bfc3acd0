"""What a Monitor adds to a training loop: two loops side by side, one watched, step by step in turn."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

import gradscope
from benchmarks.figure import Figure, Work
from benchmarks.measure import Effort
from benchmarks.models import threads


class Classifier(nn.Module):
    """An LSTM and a readout of its last output."""

    def __init__(self, hidden: int) -> None:
        """Weights as torch draws them."""
        super().__init__()
        self.lstm, self.head = nn.LSTM(64, hidden, batch_first=True), nn.Linear(hidden, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (batch, 10)."""
        return self.head(self.lstm(x)[0][:, -1])


def monitor(effort: Effort) -> list[Figure]:
    """The watched loop beside the same loop alone, at the default interval, closing included."""
    hidden, length, batch, steps = effort.pick((256, 200, 32, 300), (16, 20, 8, 3))
    if effort.whole:
        steps = 1000
    watched, alone = Loop(hidden, length, batch), Loop(hidden, length, batch)
    for loop in (watched, alone):
        loop.step()
    flow = gradscope.Monitor(watched.model, needs_lag=length // 2, log=None, screen=False)
    ours = other = 0.0
    for _ in range(steps):
        ours += _timed(watched.step)
        other += _timed(alone.step)
    ours += _timed(flow.close)
    size = f"LSTM H={hidden} T={length} B={batch}, float32, {steps} updates, {threads()}"
    kinds = [point.kind for point in flow.trajectory.points]
    note = f"{kinds.count('signal')} signals and {kinds.count('analysis')} analyses"
    work = Work("training steps under a Monitor at its defaults", size, ours / steps, (note,))
    return [work.price("the same steps without it", other / steps, 1.05)]


class Loop:
    """One training loop, a step at a time."""

    def __init__(self, hidden: int, length: int, batch: int) -> None:
        torch.manual_seed(0)
        self.model = Classifier(hidden)
        self.shape, self.optimizer = (batch, length, 64), torch.optim.Adam(self.model.parameters())

    def step(self) -> None:
        """One update on a random batch."""
        loss = nn.functional.cross_entropy(self.model(torch.randn(self.shape)), torch.randint(10, self.shape[:1]))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def _timed(action: Callable[[], None]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun
