"""A character LSTM on tinyshakespeare, the next character at every step."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn

import gradscope

LENGTH, HIDDEN, BATCH, NEEDED = 128, 128, 16, 50


class Writer(nn.Module):
    """Embedding, LSTM, readout."""

    def __init__(self, characters: int) -> None:
        """Weights as torch draws them."""
        super().__init__()
        self.embed, self.lstm = nn.Embedding(characters, 64), nn.LSTM(64, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, characters)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, T, characters)."""
        return self.head(self.lstm(self.embed(ids))[0])


def run(log: Path, text: Path, minutes: float = 10.0) -> None:
    """Adam 3e-3, clip 1, for as many minutes."""
    content = text.read_text(encoding="utf-8")
    known = {character: place for place, character in enumerate(sorted(set(content)))}
    ids = torch.tensor([known[character] for character in content])
    torch.manual_seed(0)
    model = Writer(len(known))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    end = time.monotonic() + 60 * minutes
    with gradscope.Monitor(model, every=50, needs_lag=NEEDED, log=log, name="LSTM on tinyshakespeare") as flow:
        while time.monotonic() < end:
            starts = torch.randint(len(ids) - LENGTH - 1, (BATCH,))
            chosen = torch.stack([ids[start : start + LENGTH + 1] for start in starts])
            logits = model(chosen[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), chosen[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            flow.step(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
