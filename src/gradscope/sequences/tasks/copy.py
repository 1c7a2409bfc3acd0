"""`copy`: say a short word again, each of its symbols exactly `lag` steps after it was shown."""

from __future__ import annotations

import torch

from gradscope.sequences.tasks.task import Kind, Samples, Task, one_hot

SYMBOLS, WORD = 4, 3


def draw(generator: torch.Generator, batch: int, lag: int, kind: Kind) -> Samples:
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


TASK = Task(
    "copy",
    "say a word of three symbols again",
    features=SYMBOLS + 2,
    outputs=SYMBOLS,
    kinds=("fixed", "spread"),
    draw=draw,
    goal=0.1,
    chance=1 - 1 / SYMBOLS,
    answers=WORD,
    shortest=WORD,
)
