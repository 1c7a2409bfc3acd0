"""What a remedy is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from zlib import crc32

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.models.family import Model

Found = TypeVar("Found")


def of_first_steps(use: Callable[[Tensor], Found], x: Tensor, steps: int) -> Found:
    """What `use` makes of the first steps of x (batch, T, ...), or of all where a module takes no other length."""
    try:
        return use(x[:, :steps])
    except UsageError:
        return use(x)


@dataclass(frozen=True)
class Patient:
    """A model that something is to be done about."""

    model: Model
    name: str
    lag: int
    """The needed lag."""
    x: Tensor
    """Its input, (batch, T, features)."""
    seed: int
    loss: Callable[[Tensor], Tensor]
    """Of its output, summed over sequences."""

    def stream(self, purpose: str) -> torch.Generator:
        """Random numbers of a remedy's own: the same at every run of a seed."""
        # Of a seed torch uses 32 bits.
        return torch.Generator().manual_seed(crc32(f"{self.seed} {purpose}".encode()))


@dataclass(frozen=True)
class Treated:
    """A changed copy."""

    change: str
    """What was changed, with its numbers: `forget bias 5.3`."""
    model: Model
    code: str
    """Lines of PyTorch that do the same to a module of torch.nn, or make the same model."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """The new weights, named as in torch.nn where the model is a stack of its layers."""
    another: bool = False
    """Whether it is another family, and not the model changed."""
    of_training: bool = False
    """Whether the model stays as it is, and only its training changes: what is measured is as before."""


@dataclass(frozen=True)
class Remedy:
    """One remedy."""

    name: str
    what: str
    """Why it should help, in a sentence."""
    apply: Callable[[Patient], Treated | None]
    """None where it does not suit the model."""
