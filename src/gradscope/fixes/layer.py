"""One recurrent layer as a remedy sees it: weights to be written into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["rnn", "lstm", "gru", "found"]


@dataclass(frozen=True)
class Layer:
    """One layer, one direction."""

    kind: Kind
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
