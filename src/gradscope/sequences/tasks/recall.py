"""`recall`: name the marked symbol among random ones, `lag` steps after it was shown."""

from __future__ import annotations

import torch

from gradscope.sequences.tasks.task import Kind, Samples, Task, one_hot, place

SYMBOLS = 4


def draw(generator: torch.Generator, batch: int, lag: int, kind: Kind) -> Samples:
    """X (batch, lag + 1, SYMBOLS + 1): a symbol a step, and a mark beside the one to remember."""
    shown = torch.randint(SYMBOLS, (batch, lag + 1), generator=generator)
    where = place(generator, batch, lag, kind)
    mark = one_hot(where, lag + 1)[..., None]
    return Samples(torch.cat([one_hot(shown, SYMBOLS), mark], -1), shown.gather(1, where[:, None]))


TASK = Task(
    "recall",
    "name the marked symbol among random ones",
    features=SYMBOLS + 1,
    outputs=SYMBOLS,
    kinds=("fixed", "spread"),
    draw=draw,
    goal=0.1,
    chance=1 - 1 / SYMBOLS,
)
