"""`xor`: whether two marked bits differ; neither says anything without the other."""

from __future__ import annotations

import torch

from gradscope.sequences.tasks.task import Kind, Samples, Task, one_hot


def draw(generator: torch.Generator, batch: int, lag: int, kind: Kind) -> Samples:
    """X (batch, lag + 1, 3): a bit a step, one-hot, and marks: at the ends, or at two random places."""
    steps = lag + 1
    bits = torch.randint(2, (batch, steps), generator=generator)
    marks = torch.zeros(batch, steps)
    if kind == "fixed":
        marks[:, [0, -1]] = 1
    else:
        marks.scatter_(1, torch.rand(batch, steps, generator=generator).topk(2, 1).indices, 1.0)
    both = (bits * marks.long()).sum(1, keepdim=True) % 2
    return Samples(torch.cat([one_hot(bits, 2), marks[..., None]], -1), both)


TASK = Task(
    "xor",
    "say whether the two marked bits differ",
    features=3,
    outputs=2,
    kinds=("fixed", "spread"),
    draw=draw,
    goal=0.1,
    chance=0.5,
)
