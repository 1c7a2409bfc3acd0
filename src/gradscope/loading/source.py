"""Where a model comes from: what it is called, what it demands, and how to get it for a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gradscope.chain import ArrayChain
from gradscope.isolation.user_code import Project
from gradscope.models.family import Model
from gradscope.models.token_models import TokenIds
from gradscope.records import BUILT, Loaded

Make = Callable[[int, int], Model | ArrayChain]


@dataclass(frozen=True)
class Source:
    """A model not yet built."""

    name: str
    make: Make
    """(input_size, seed) -> model."""
    input_size: int | None
    """Features per step it demands; None when it is built to fit the sequence."""
    loaded: Loaded
    ids: TokenIds | None = None
    """What is known of the token ids it takes in place of features."""
    is_chain: bool = False
    """Whether it is bare Jacobians, which bring their own length and sequences."""
    is_backwards: bool = False
    """Whether it reads a sequence from its end, so that step 1 is the last one of the data."""
    code: Project = field(default_factory=lambda: Project([]))
    """What its code imports from; active while it is run."""

    @property
    def fresh(self) -> bool:
        """Whether the weights are drawn here, for every seed anew."""
        return self.loaded.source == BUILT
