"""`adding`: the sum of two marked numbers (Hochreiter & Schmidhuber 1997, experiment 4)."""

from __future__ import annotations

import torch

from gradscope.sequences.tasks.task import Kind, Samples, Task


def draw(generator: torch.Generator, batch: int, lag: int, kind: Kind) -> Samples:
    """X (batch, lag + 1, 2): uniform numbers in [0, 1), and marks: at the ends, or at two random places."""
    steps = lag + 1
    numbers = torch.rand(batch, steps, generator=generator)
    marks = torch.zeros(batch, steps)
    if kind == "fixed":
        marks[:, [0, -1]] = 1
    else:
        marks.scatter_(1, torch.rand(batch, steps, generator=generator).topk(2, 1).indices, 1.0)
    return Samples(torch.stack([numbers, marks], -1), (numbers * marks).sum(1, keepdim=True))


TASK = Task(
    "adding",
    "add the two marked numbers",
    features=2,
    outputs=1,
    kinds=("fixed", "spread"),
    draw=draw,
    goal=0.01,
    # The variance of a sum of two uniform numbers.
    chance=1 / 6,
    values=True,
    symbols=False,
)
