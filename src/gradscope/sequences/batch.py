"""What a model is run on."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    is_turned: bool = False
    """Whether step 1 is the last one of the data, as a layer takes them that reads from the end."""

    def turned(self) -> Batch:
        """The same for a layer that reads every sequence from its end."""
        ids, tokens = self.token_ids, self.tokens
        return replace(
            self,
            x=self.x.flip(1),
            tokens=None if tokens is None else tokens[::-1],
            token_ids=None if ids is None else ids.flip(1),
            is_turned=not self.is_turned,
        )

    def in_order(self, targets: Tensor, *, by_step: bool) -> Tensor:
        """Targets as a file holds them, step by step or one a sequence, in the order of the steps of `x`."""
        return targets.flip(1) if self.is_turned and by_step else targets
