"""A brief training on the task of the lesson: Adam, new sentences at every step."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from torch import nn

from gradscope.isolation.state import own_random_numbers
from gradscope.lesson.readers import Reader
from gradscope.lesson.sentences import WORDS, Sentences, drawn

RATE, CLIP = 3e-3, 1.0
BATCH, LONG_BATCH, LONG = 32, 8, 200
"""Sentences of a step, and fewer of those that are longer than `LONG`."""
TESTED = 200
"""New sentences that the accuracy is counted on."""
LEARNED = 0.95
"""Accuracy from which the task counts as learned."""


@dataclass(frozen=True)
class Trained:
    """A reader after its training, and what came of it; at chance the accuracy is one half."""

    reader: Reader
    steps: int
    accuracy: float

    @property
    def learned(self) -> bool:
        """Whether it was learned within these steps."""
        return self.accuracy >= LEARNED


def fresh(kind: str, seed: int) -> Reader:
    """An untrained reader; nothing of the caller's random numbers is used up."""
    with own_random_numbers(seed):
        return Reader(kind, len(WORDS))


def train(kind: str, length: int, steps: int, seed: int) -> Trained:
    """Train one reader on sentences of one length, and count on new ones."""
    reader, source = fresh(kind, seed), Random(seed + 1)
    optimizer = torch.optim.Adam(reader.parameters(), lr=RATE)
    for _ in range(steps):
        batch = drawn(BATCH if length <= LONG else LONG_BATCH, length, source)
        optimizer.zero_grad()
        loss(reader, batch).backward()
        nn.utils.clip_grad_norm_(reader.parameters(), CLIP)
        optimizer.step()
    return Trained(reader, steps, accuracy(reader, drawn(TESTED, length, source)))


def loss(reader: Reader, batch: Sentences) -> torch.Tensor:
    """Cross-entropy at the blank, the last step."""
    return nn.functional.cross_entropy(reader(batch.ids)[:, -1], batch.plural)


def accuracy(reader: Reader, batch: Sentences) -> float:
    """Share of the sentences whose verb is right."""
    with torch.no_grad():
        said = torch.cat([reader(ids)[:, -1].argmax(-1) for ids in batch.ids.split(50)])
    return float((said == batch.plural).double().mean())
