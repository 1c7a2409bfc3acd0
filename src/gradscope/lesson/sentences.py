"""The task of the lesson: a verb agrees with a subject that stands a relative clause away.

"The cat, which was sitting on the mat and looking quite comfortable, was hungry": at the second verb a blank is given,
and the model has to say *was* or *were*. In half of the sentences the clause has a subject of its own ("The cat, which
the dogs were watching ..."), whose number is drawn apart: there the nearest verb says nothing about the right answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

NOUNS = (
    *(("cat", "cats"), ("dog", "dogs"), ("bird", "birds"), ("girl", "girls")),
    *(("horse", "horses"), ("child", "children"), ("guest", "guests"), ("king", "kings")),
)
VERBS = ("was", "were")
DOING = ("sitting", "standing", "lying", "waiting")
WATCHING = ("watching", "chasing", "painting", "calling")
PLACES = ("mat", "roof", "rug", "bench")
ADVERBS = ("quite", "rather", "very")
ADJECTIVES = ("comfortable", "tired", "proud", "calm")
BLANK = "___"
Pick = Callable[[int], int]
SUBJECT = 2
"""Step of the subject, from 1."""
SHORTEST = 15
NEAREST = 0.75
"""Part of the sentences in which the verb nearest to the blank is the right one: the half without a subject of its own,
and by chance half of the others. Who has learned nothing of the subject can come to it."""
WORDS = (
    *("The", "the", ",", "which", "on", "and", "looking", "resting", "there", BLANK, *VERBS, *DOING, *WATCHING),
    *(*PLACES, *ADVERBS, *ADJECTIVES, *(form for noun in NOUNS for form in noun)),
)
IDS = {word: place for place, word in enumerate(WORDS)}


@dataclass(frozen=True)
class Sentences:
    """Sentences of one length: `ids` (batch, T), and `plural` (batch), 1 where the verb is *were*."""

    ids: Tensor
    plural: Tensor


def shown(length: int) -> list[str]:
    """The sentence that is measured, up to its second verb, `length` steps long.

    Its first 13 words are those of the original; what a longer one needs more stands before the second comma.
    """
    words = ["The", "cat", ",", "which", "was", "sitting", "on", "the", "mat"]
    return [*words, *_filled(length - len(words) - 2, lambda of: 0), ",", BLANK]


def drawn(count: int, length: int, source: Random) -> Sentences:
    """`count` random sentences of `length` steps, T >= 15."""
    sentences, plural = [], []
    for _ in range(count):
        words, many = _sentence(length, source.randrange)
        sentences.append([IDS[word] for word in words])
        plural.append(many)
    return Sentences(torch.tensor(sentences), torch.tensor(plural))


def measured(length: int) -> Sentences:
    """The shown sentence as a batch of one; its verb is *was*."""
    return Sentences(torch.tensor([[IDS[word] for word in shown(length)]]), torch.tensor([0]))


def _sentence(length: int, pick: Pick) -> tuple[list[str], int]:
    many = pick(2)
    words = ["The", NOUNS[pick(len(NOUNS))][many], ",", "which"]
    if pick(2):
        words += [VERBS[many], DOING[pick(len(DOING))]]
    else:
        others = pick(2)
        words += ["the", NOUNS[pick(len(NOUNS))][others], VERBS[others], WATCHING[pick(len(WATCHING))]]
    words += ["on", "the", PLACES[pick(len(PLACES))]]
    return [*words, *_filled(length - len(words) - 2, pick), ",", BLANK], many


def _filled(count: int, pick: Pick) -> list[str]:
    """Exactly so many words, none of which has a number."""
    words: list[str] = []
    while count - len(words) >= 4:
        words += ["and", "looking", ADVERBS[pick(len(ADVERBS))], ADJECTIVES[pick(len(ADJECTIVES))]]
    rest = {0: [], 1: ["there"], 2: ["and", "resting"], 3: ["and", "looking", ADJECTIVES[pick(len(ADJECTIVES))]]}
    return words + rest[count - len(words)]
