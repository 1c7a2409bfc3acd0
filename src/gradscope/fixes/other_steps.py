"""Remedies that exchange the step of an Elman layer: a leaky state, a norm inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from gradscope.fixes.other_family import other_step
from gradscope.fixes.remedy import Remedy, RemedyInput, RemedyResult
from gradscope.models.cell import Cell
from gradscope.models.family import Model
from gradscope.models.rnn import PHI, RNNCell
from gradscope.models.stack import Recurrent
from gradscope.models.user_step import CustomCell


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


def exchanged(model: Model, step: Callable[[dict[str, Tensor], str], nn.Module]) -> Recurrent | None:
    """A copy whose layers take `step(weights, nonlinearity)`; None where a layer is no Elman layer."""
    if not isinstance(model, Recurrent) or not all(isinstance(cell, RNNCell) for cell in model.cells):
        return None
    cells: list[Cell] = []
    for cell in model.cells:
        assert isinstance(cell, RNNCell)
        start = cell.initial_state(1)[0]
        cells.append(CustomCell(cell.name, step(cell.parameters, cell.nonlinearity), start, cell.input_size))
    return Recurrent(model.name, cells, start=model.start, cuts=model.cuts)


def leaky_state(patient: RemedyInput) -> RemedyResult | None:
    """A leaky state (Jaeger et al. 2007): h' = (1 - a) h + a phi(...), with a for a half-life of the needed lag.

    (1 - a)^K = 1/2.
    """
    leak = 1 - 0.5 ** (1 / max(patient.lag, 1))
    model = exchanged(patient.model, lambda weights, phi: Leaky(weights, phi, leak))
    if model is None:
        return None
    assert isinstance(patient.model, Recurrent)
    what = f"h + {leak:.4g} (phi(W x + U h + b) - h) (Jaeger et al. 2007)."
    code, weights = other_step(patient.model, "Leaky", what, f"h + {leak!r} * ({{phi(sum)}} - h)")
    return RemedyResult(f"h + {leak:.2g} (φ - h)", model, code, weights)


LEAKY_STATE = Remedy("leaky state", "a straight path that keeps half of the state over the needed lag", leaky_state)


def layer_norm(patient: RemedyInput) -> RemedyResult | None:
    """Layer normalisation inside the recurrence (Ba, Kiros & Hinton 2016).

    phi(norm(W x + U h + b)).
    """
    model = exchanged(patient.model, Normed)
    if model is None:
        return None
    assert isinstance(patient.model, Recurrent)
    what = "phi(norm(W x + U h + b)) (Ba, Kiros and Hinton 2016)."
    norm = "        self.norm = nn.LayerNorm(hidden)\n"
    code, weights = other_step(patient.model, "Normed", what, "{phi(norm)}", norm)
    for place, cell in enumerate(patient.model.cells):
        like = cell.parameters["weight_hh"]
        weights |= {
            f"{place}.norm.weight": like.new_ones(cell.output_size),
            f"{place}.norm.bias": like.new_zeros(cell.output_size),
        }
    return RemedyResult("φ(norm(·))", model, code, weights)


LAYER_NORM = Remedy("layer norm", "keeps units out of saturation, where slopes are small", layer_norm)
