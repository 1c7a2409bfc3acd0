"""The tasks that come with the program: recall, copy, adding, xor, parity, digits."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.sequences.tasks import LagKind, Samples, Task, one_hot, place

SYMBOLS = 4


def draw_recall(generator: torch.Generator, batch: int, lag: int, kind: LagKind) -> Samples:
    """X (batch, lag + 1, SYMBOLS + 1): a symbol a step, and a mark beside the one to remember."""
    shown = torch.randint(SYMBOLS, (batch, lag + 1), generator=generator)
    where = place(generator, batch, lag, kind)
    mark = one_hot(where, lag + 1)[..., None]
    return Samples(torch.cat([one_hot(shown, SYMBOLS), mark], -1), shown.gather(1, where[:, None]))


RECALL = Task(
    "recall",
    "name the marked symbol among random ones",
    features=SYMBOLS + 1,
    outputs=SYMBOLS,
    kinds=("fixed", "spread"),
    draw=draw_recall,
    goal=0.1,
    chance=1 - 1 / SYMBOLS,
)
"""`recall`: name the marked symbol among random ones, `lag` steps after it was shown."""


WORD = 3
"""How many of the symbols the word to copy has."""


def draw_copy(generator: torch.Generator, batch: int, lag: int, kind: LagKind) -> Samples:
    """X (batch, lag + WORD, SYMBOLS + 2): the word, blanks, and a mark at the steps that answer.

    With spread lags the word comes so late that a delay drawn for each sample separates it from its repetition; the
    steps before it are blank.
    """
    word = torch.randint(SYMBOLS, (batch, WORD), generator=generator)
    steps, blank = lag + WORD, SYMBOLS
    first = torch.zeros(batch, dtype=torch.int64)
    if kind == "spread":
        first = torch.randint(max(1, lag - WORD + 1), (batch,), generator=generator)
    shown = torch.full((batch, steps), blank)
    shown.scatter_(1, first[:, None] + torch.arange(WORD), word)
    go = torch.zeros(batch, steps, 1)
    go[:, lag:] = 1
    return Samples(torch.cat([one_hot(shown, SYMBOLS + 1), go], -1), word)


COPY = Task(
    "copy",
    "say a word of three symbols again",
    features=SYMBOLS + 2,
    outputs=SYMBOLS,
    kinds=("fixed", "spread"),
    draw=draw_copy,
    goal=0.1,
    chance=1 - 1 / SYMBOLS,
    answers=WORD,
    shortest=WORD,
)
"""`copy`: say a short word again, each of its symbols exactly `lag` steps after it was shown."""


def draw_adding(generator: torch.Generator, batch: int, lag: int, kind: LagKind) -> Samples:
    """X (batch, lag + 1, 2): uniform numbers in [0, 1), and marks: at the ends, or at two random places."""
    steps = lag + 1
    numbers = torch.rand(batch, steps, generator=generator)
    marks = torch.zeros(batch, steps)
    if kind == "fixed":
        marks[:, [0, -1]] = 1
    else:
        marks.scatter_(1, torch.rand(batch, steps, generator=generator).topk(2, 1).indices, 1.0)
    return Samples(torch.stack([numbers, marks], -1), (numbers * marks).sum(1, keepdim=True))


ADDING = Task(
    "adding",
    "add the two marked numbers",
    features=2,
    outputs=1,
    kinds=("fixed", "spread"),
    draw=draw_adding,
    goal=0.01,
    # The variance of a sum of two uniform numbers.
    chance=1 / 6,
    values=True,
    symbols=False,
)
"""`adding`: the sum of two marked numbers (Hochreiter & Schmidhuber 1997, experiment 4)."""


def draw_xor(generator: torch.Generator, batch: int, lag: int, kind: LagKind) -> Samples:
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


XOR = Task(
    "xor",
    "say whether the two marked bits differ",
    features=3,
    outputs=2,
    kinds=("fixed", "spread"),
    draw=draw_xor,
    goal=0.1,
    chance=0.5,
)
"""`xor`: whether two marked bits differ; neither says anything without the other."""


def draw_parity(generator: torch.Generator, batch: int, lag: int, kind: LagKind) -> Samples:
    """X (batch, lag + 1, 2): a bit a step, one-hot."""
    bits = torch.randint(2, (batch, lag + 1), generator=generator)
    return Samples(one_hot(bits, 2), bits.sum(1, keepdim=True) % 2)


PARITY = Task(
    "parity",
    "say whether the number of ones is odd",
    features=2,
    outputs=2,
    kinds=("fixed",),
    draw=draw_parity,
    goal=0.1,
    chance=0.5,
)
"""`parity`: of all bits. Every step matters, so failing it is not a matter of gradients alone: a control."""


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


def draw_digits(generator: torch.Generator, batch: int, lag: int, kind: LagKind) -> Samples:
    """X (batch, lag + 1, 1)."""
    pixels, classes = _digits()
    chosen = torch.randint(len(pixels), (batch,), generator=generator)
    x = torch.zeros(batch, lag + 1, 1)
    x[:, :PIXELS, 0] = pixels[chosen]
    return Samples(x, classes[chosen, None])


DIGITS = Task(
    "digits",
    "name a handwritten digit read pixel by pixel",
    features=1,
    outputs=10,
    kinds=("spread",),
    draw=draw_digits,
    goal=0.1,
    chance=0.9,
    symbols=False,
    shortest=PIXELS - 1,
)
"""`digits`: handwritten digits of 8 x 8 pixels, one pixel a step, then blank steps until `lag` after the first."""
