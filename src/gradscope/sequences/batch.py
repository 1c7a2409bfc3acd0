"""What a model is run on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """B sequences of T steps, and where they came from."""

    x: Tensor
    """Input, (B, T, F), in the dtype and on the device of the run; token ids (B, T) for a model that takes ids."""
    tokens: tuple[str, ...] | None
    """The token of each step 1..T of sequence `spec.item`, in the form that is safe to show; None unless text."""
    token_ids: Tensor | None
    """Position of each token in `vocabulary`, (B, T) int64; None unless text."""
    vocabulary: tuple[str, ...] | None
    """The distinct tokens in order of first appearance, in the form that is safe to show."""
    notes: tuple[str, ...]
    """What was assumed or done to the data, one sentence each."""
    source: str
    """`random`, `zeros`, `impulse`, `sine`, `text` or the path of the file."""
    logits: int | None = None
    """Where x holds token ids: how many there are, if the model returns a logit for each; else None."""
    has_head: bool = False
    """Whether the outputs are what a user's module answers, and not states of a recurrence."""
    asked: Tensor | None = None
    """What a task asks of each sequence, (B, answers); None without a task."""
    consecutive: bool = False
    """Whether the sequences are stretches of one row, each beginning where the one before ends."""
