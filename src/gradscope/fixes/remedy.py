"""What a remedy is: given a model and its data, a changed copy, and the lines of code that make the same change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar
from zlib import crc32

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.models.family import Model
from gradscope.rules.advice import lag_in_own_steps

LayerKind = Literal["rnn", "lstm", "gru", "found"]


@dataclass(frozen=True)
class Layer:
    """One layer, one direction."""

    kind: LayerKind
    weights: dict[str, Tensor]
    """Copies, to be written into: `weight_ih`, `weight_hh`, and `bias_ih`, `bias_hh` where it has biases."""
    hidden: int
    part: str = ""
    """The submodule that it is a layer of; none of a stack."""
    nonlinearity: str = "tanh"
    """Of an Elman layer."""
    backwards: bool = False
    """Whether it goes through the sequence from its end."""
    is_plain: bool = True
    """Whether its weights are parameters themselves, and not made of others by a parametrization."""

    @property
    def is_gated(self) -> bool:
        """Whether a gate with a bias keeps its state."""
        return self.kind != "rnn" and "bias_ih" in self.weights

    def scale(self, gain: float) -> bool:
        """Multiply the recurrent matrix; False where there is none, as for all that follows."""
        self.weights["weight_hh"].mul_(gain)
        return True

    def orthogonalise(self, stream: torch.Generator) -> bool:
        """Put an orthogonal matrix in each (H, H) block of the recurrent one."""
        for block in self.weights["weight_hh"].split(self.hidden):
            block.copy_(orthogonal(self.hidden, stream))
        return True

    def keep(self, values: Tensor | float, code: str) -> bool:
        """Give the gate that keeps the old state these biases; `code` is what makes them, as `bias`, of `H` units."""
        # Forget is the second gate of i, f, g, o, update the second of r, z, n.
        if not self.is_gated:
            return False
        self.set_bias(1, values)
        return True

    def set_bias(self, gate: int, values: Tensor | float) -> None:
        """B_ih + b_hh of a gate, all of it in b_ih."""
        at = slice(gate * self.hidden, (gate + 1) * self.hidden)
        self.weights["bias_ih"][at] = values
        self.weights["bias_hh"][at] = 0.0


def orthogonal(size: int, stream: torch.Generator) -> Tensor:
    """By the QR decomposition of a Gaussian matrix, signs fixed (Mezzadri 2007), float64."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=stream, dtype=torch.float64))
    found: Tensor = q * r.diagonal().sign()
    return found


Change = Callable[[Layer], bool]
"""Writes into a layer's weights; False where it has nothing to do there."""


Found = TypeVar("Found")


def of_first_steps(use: Callable[[Tensor], Found], x: Tensor, steps: int) -> Found:
    """What `use` makes of the first steps of x (batch, T, ...), or of all where a module takes no other length."""
    try:
        return use(x[:, :steps])
    except UsageError:
        return use(x)


@dataclass(frozen=True)
class RemedyInput:
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
    pace: float | None = None
    """Steps that its recurrence takes for one of the input; None where that is not known."""

    @property
    def own_lag(self) -> int:
        """The needed lag in steps of the recurrence."""
        return lag_in_own_steps(self.lag, self.pace)

    def stream(self, purpose: str) -> torch.Generator:
        """Random numbers of a remedy's own: the same at every run of a seed."""
        # Of a seed torch uses 32 bits.
        return torch.Generator().manual_seed(crc32(f"{self.seed} {purpose}".encode()))


@dataclass(frozen=True)
class RemedyResult:
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
    apply: Callable[[RemedyInput], RemedyResult | None]
    """None where it does not suit the model."""
