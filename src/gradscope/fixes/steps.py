"""Elman steps with another path through time: cells that no module of torch.nn is."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from gradscope.models.rnn import PHI


class Leaky(nn.Module):
    """s' = (1 - a) s + a phi(W x + U s + b) (Jaeger et al. 2007)."""

    def __init__(self, weights: Mapping[str, Tensor], nonlinearity: str, leak: float) -> None:
        """Copy the weights of an Elman layer."""
        super().__init__()
        self.weights = nn.ParameterDict({key: nn.Parameter(value.clone()) for key, value in weights.items()})
        self.nonlinearity, self.leak = nonlinearity, leak

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """(batch, I), (batch, H) -> (batch, H)."""
        return s + self.leak * (PHI[self.nonlinearity](_driven(self.weights, x, s)) - s)


class Normed(nn.Module):
    """s' = phi(norm(W x + U s + b)), norm over the units (Ba et al. 2016)."""

    def __init__(self, weights: Mapping[str, Tensor], nonlinearity: str) -> None:
        """Copy the weights of an Elman layer; scale one, shift zero."""
        super().__init__()
        self.weights = nn.ParameterDict({key: nn.Parameter(value.clone()) for key, value in weights.items()})
        hidden = weights["weight_hh"].shape[0]
        self.norm = nn.LayerNorm(hidden).to(weights["weight_hh"])
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """(batch, I), (batch, H) -> (batch, H)."""
        return PHI[self.nonlinearity](self.norm(_driven(self.weights, x, s)))


def _driven(weights: nn.ParameterDict, x: Tensor, s: Tensor) -> Tensor:
    biases = [weights[name] for name in ("bias_ih", "bias_hh") if name in weights]
    driven: Tensor = x @ weights["weight_ih"].T + s @ weights["weight_hh"].T
    for bias in biases:
        driven = driven + bias
    return driven
