"""Models over token ids: what is known of the ids, and a transformers model as a map from ids to features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Encode = Callable[[str], tuple[list[int], list[str]]]
"""A text -> its ids, and the piece of the text that each stands for."""


@dataclass(frozen=True)
class TokenIds:
    """Ids 0 .. size - 1."""

    size: int
    width: int | None = None
    """Features that the model returns at every step: where there are `size` of them, they are its own logits."""
    longest: int | None = None
    """The most steps that the model takes; None where no limit is known."""
    encode: Encode | None = None
    """The model's own tokenizer."""


class Pretrained(nn.Module):
    """Ids (batch, T) -> the last hidden states, or the logits, (batch, T, features)."""

    def __init__(self, inner: Any, *, head: bool) -> None:
        """Take a model of the library in evaluation mode and run it once on two ids, to see what it returns.

        Args:
            inner: the model.
            head: whether to return logits in place of hidden states.
        """
        super().__init__()
        self.inner: nn.Module = inner.eval()
        self.head, self.config = head, inner.config
        self.config.use_cache = False
        self.embedding: nn.Embedding = inner.get_input_embeddings()
        self.depth = int(getattr(self.config, "num_hidden_layers", None) or 1)
        self.heads = int(getattr(self.config, "num_attention_heads", None) or 1)
        two = torch.zeros(1, 2, dtype=torch.int64)
        with torch.no_grad():
            self.width = int(self(two).shape[-1])
            self.attends = bool(self._readable(two))

    @property
    def closed(self) -> str:
        """What is said of a recurrent state."""
        if self.attends:
            return f"{type(self.inner).__name__} has no recurrent state: every output reads its inputs directly"
        return f"{type(self.inner).__name__} computes its recurrence inside its blocks, where it cannot be followed"

    @property
    def longest(self) -> int | None:
        """The most positions it knows."""
        limit = getattr(self.config, "max_position_embeddings", None)
        if not isinstance(limit, int) or limit < 2:
            return None
        # RoBERTa and its kin count positions from the one after the padding id.
        for part in self.inner.modules():
            if not isinstance(part, nn.Embedding) or part is self.embedding or part.num_embeddings != limit:
                continue
            if part.padding_idx is not None:
                return limit - part.padding_idx - 1
        return limit

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, T) -> (batch, T, features)."""
        found: Tensor = self._call(ids)["logits" if self.head else "last_hidden_state"]
        return found

    def weights(self, ids: Tensor) -> list[Tensor]:
        """Attention weights, each (batch, heads, T, T), of those layers that have any."""
        found, steps = self._call(ids, output_attentions=True).get("attentions") or (), ids.shape[1]
        return [one for one in found if isinstance(one, Tensor) and one.ndim == 4 and one.shape[-2:] == (steps, steps)]

    def carried(self, steps: int) -> int | None:
        """Numbers that the library caches for one sequence of so many steps; None where it caches none."""
        ids = torch.zeros(1, steps, dtype=torch.int64, device=self.embedding.weight.device)
        with torch.no_grad():
            found = self._call(ids, use_cache=True)
        kept = [found.get(name) for name in ("past_key_values", "cache_params", "state")]
        return sum(part.numel() for part in _tensors(kept, set())) or None

    def _readable(self, ids: Tensor) -> list[Tensor]:
        try:
            return self.weights(ids)
        except Exception:  # not every class of the library knows the question
            return []

    def _call(self, ids: Tensor, **settings: Any) -> Any:
        return self.inner(input_ids=ids, return_dict=True, **settings)


def _tensors(thing: Any, seen: set[int]) -> Iterable[Tensor]:
    """Every floating-point tensor in a cache of the library, whatever it is made of, once."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        if thing.is_floating_point():
            yield thing
    elif isinstance(thing, list | tuple | dict):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from _tensors(part, seen)
    elif type(thing).__module__.startswith("transformers."):
        yield from _tensors(vars(thing), seen)
