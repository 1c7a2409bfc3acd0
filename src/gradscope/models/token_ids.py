"""What is known of the token ids that a model takes in place of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
