"""The three readers of the lesson: words in, *was* or *were* out, with a recurrence or attention in between."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

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
