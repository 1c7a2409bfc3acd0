"""`digits`: handwritten digits of 8 x 8 pixels, one pixel a step, then blank steps until `lag` after the first."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.sequences.tasks.task import Kind, Samples, Task

PIXELS = 64


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Pixels (1797, 64) in [0, 1] and classes (1797,) of the set that scikit-learn brings."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError(
            "--task digits reads the digits of scikit-learn, which is not installed; pip install scikit-learn"
        ) from None
    found = load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)


def draw(generator: torch.Generator, batch: int, lag: int, kind: Kind) -> Samples:
    """X (batch, lag + 1, 1)."""
    pixels, classes = _digits()
    chosen = torch.randint(len(pixels), (batch,), generator=generator)
    x = torch.zeros(batch, lag + 1, 1)
    x[:, :PIXELS, 0] = pixels[chosen]
    return Samples(x, classes[chosen, None])


TASK = Task(
    "digits",
    "name a handwritten digit read pixel by pixel",
    features=1,
    outputs=10,
    kinds=("spread",),
    draw=draw,
    goal=0.1,
    chance=0.9,
    symbols=False,
    shortest=PIXELS - 1,
)
