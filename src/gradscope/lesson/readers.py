"""A verb agrees with a subject that stands a relative clause away: the sentences, the three readers, their training.

"The cat, which was sitting on the mat and looking quite comfortable, was hungry": at the second verb a blank is given,
and the model has to say *was* or *were*. In half of the sentences the clause has a subject of its own ("The cat, which
the dogs were watching ..."), whose number is drawn apart: there the nearest verb says nothing about the right answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn

from gradscope.isolation.caller_state import own_random_numbers

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


KINDS = ("rnn", "lstm", "attention")
HIDDEN = 32
HEADS = 2


class Reader(nn.Module):
    """Embedding, one layer of the kind, and a head that tells the two verbs apart."""

    def __init__(self, kind: str, words: int, hidden: int = HIDDEN) -> None:
        """Build an untrained reader; weights are drawn as torch draws them.

        Args:
            kind: `rnn`, `lstm` or `attention`.
            words: size of the vocabulary.
            hidden: size of embeddings and state.
        """
        super().__init__()
        self.kind = kind
        self.embed = nn.Embedding(words, hidden)
        recurrences = {"rnn": nn.RNN, "lstm": nn.LSTM}
        self.body = (
            recurrences[kind](hidden, hidden, batch_first=True)
            if kind in recurrences
            else nn.MultiheadAttention(hidden, HEADS, batch_first=True)
        )
        self.head = nn.Linear(hidden, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, T) -> (batch, T, 2)."""
        x = self.embed(ids)
        if self.kind != "attention":
            output: Tensor = self.head(self.body(x)[0])
            return output
        length = ids.shape[1]
        x = x + positions(length, x.shape[-1]).to(x)
        ahead = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        attended, _ = self.body(x, x, x, attn_mask=ahead, need_weights=False)
        answer: Tensor = self.head(attended)
        return answer


def positions(length: int, size: int) -> Tensor:
    """Sines and cosines of the step (Vaswani et al. 2017), (T, size)."""
    step = torch.arange(length, dtype=torch.float64)[:, None]
    wave = torch.exp(torch.arange(0, size, 2, dtype=torch.float64) * (-math.log(10_000.0) / size))
    return torch.stack([torch.sin(step * wave), torch.cos(step * wave)], -1).flatten(1)


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
        reader_loss(reader, batch).backward()
        nn.utils.clip_grad_norm_(reader.parameters(), CLIP)
        optimizer.step()
    return Trained(reader, steps, accuracy(reader, drawn(TESTED, length, source)))


def reader_loss(reader: Reader, batch: Sentences) -> torch.Tensor:
    """Cross-entropy at the blank, the last step."""
    return nn.functional.cross_entropy(reader(batch.ids)[:, -1], batch.plural)


def accuracy(reader: Reader, batch: Sentences) -> float:
    """Share of the sentences whose verb is right."""
    with torch.no_grad():
        said = torch.cat([reader(ids)[:, -1].argmax(-1) for ids in batch.ids.split(50)])
    return float((said == batch.plural).double().mean())
