"""`parity`: of all bits. Every step matters, so failing it is not a matter of gradients alone: a control."""

from __future__ import annotations

import torch

from gradscope.sequences.tasks.task import Kind, Samples, Task, one_hot


def draw(generator: torch.Generator, batch: int, lag: int, kind: Kind) -> Samples:
    """X (batch, lag + 1, 2): a bit a step, one-hot."""
    bits = torch.randint(2, (batch, lag + 1), generator=generator)
    return Samples(one_hot(bits, 2), bits.sum(1, keepdim=True) % 2)


TASK = Task(
    "parity",
    "say whether the number of ones is odd",
    features=2,
    outputs=2,
    kinds=("fixed",),
    draw=draw,
    goal=0.1,
    chance=0.5,
)
