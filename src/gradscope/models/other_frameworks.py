"""Cells of other frameworks that torch.nn has none like: other activations, peepholes, a GRU that resets first.

Gates stand as in torch.nn: LSTM i, f, g, o; GRU r, z, n. Formulas: the operators RNN, GRU and LSTM of ONNX, of which
the layers of Keras are cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradscope.models.cell import Linearization
from gradscope.models.cell_parts import HiddenOutput
from gradscope.models.user_step import CustomCell, CustomLinearization

FUNCTIONS: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {
    "tanh": lambda z, _a, _b: z.tanh(),
    "sigmoid": lambda z, _a, _b: z.sigmoid(),
    "relu": lambda z, _a, _b: z.relu(),
    "linear": lambda z, _a, _b: z,
    "affine": lambda z, a, b: a * z + b,
    "hard_sigmoid": lambda z, a, b: (a * z + b).clamp(0.0, 1.0),
    "leaky_relu": lambda z, a, _b: torch.where(z >= 0, z, a * z),
    "thresholded_relu": lambda z, a, _b: torch.where(z > a, z, torch.zeros_like(z)),
    "scaled_tanh": lambda z, a, b: a * (b * z).tanh(),
    "elu": lambda z, a, _b: torch.where(z > 0, z, a * torch.expm1(z.clamp_max(0.0))),
    "selu": lambda z, _a, _b: functional.selu(z),
    "softsign": lambda z, _a, _b: functional.softsign(z),
    "softplus": lambda z, _a, _b: torch.logaddexp(z, torch.zeros_like(z)),
}


@dataclass(frozen=True)
class Activation:
    """A function of one number, with its slope `alpha` and shift `beta` where it has any."""

    name: str
    alpha: float = 1.0
    beta: float = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        """Element by element."""
        return FUNCTIONS[self.name](z, self.alpha, self.beta)

    def __str__(self) -> str:
        """`tanh`, `hard_sigmoid (0.2 z + 0.5)`."""
        return f"{self.name} ({self.alpha:.3g} z + {self.beta:.3g})" if self.name == "hard_sigmoid" else self.name


TANH, SIGMOID = Activation("tanh"), Activation("sigmoid")


@dataclass(frozen=True)
class Formula:
    """What a cell computes beyond the numbers of its weights."""

    kind: str
    """`RNN`, `GRU` or `LSTM`."""
    gate: Activation = SIGMOID
    inner: Activation = TANH
    """Of the candidate; of an RNN, the only one."""
    outer: Activation = TANH
    """Of the cell state on its way out of an LSTM."""
    reset_first: bool = False
    """Whether a GRU resets h before it multiplies with it, not after."""
    coupled: bool = False
    """Whether the forget gate of an LSTM is 1 - i."""
    clip: float | None = None
    """Bound on what goes into the activations."""

    @property
    def of_torch(self) -> str | None:
        """The nonlinearity with which torch.nn computes the same; None where it cannot."""
        if self.clip is not None or self.reset_first or self.coupled:
            return None
        if self.kind == "RNN":
            return self.inner.name if self.inner.name in ("tanh", "relu") else None
        return "tanh" if (self.gate, self.inner, self.outer) == (SIGMOID, TANH, TANH) else None


class ForeignStep(nn.Module):
    """(x (batch, I), s (batch, S)) -> s: h, or h and c side by side."""

    def __init__(self, formula: Formula, weights: Mapping[str, Tensor]) -> None:
        """Take weights named and ordered as in torch.nn.

        Args:
            formula: what to compute.
            weights: weight_ih (kH, I), weight_hh (kH, H), and where there are any bias_ih and bias_hh (kH) and
                `peephole` (3, H) of i, f and o.
        """
        super().__init__()
        self.formula = formula
        self.hidden = weights["weight_hh"].shape[1]
        for name, value in weights.items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """The new state."""
        own = dict(self.named_parameters())
        given = functional.linear(x, own["weight_ih"], own.get("bias_ih"))
        kind = {"RNN": self._rnn, "GRU": self._gru, "LSTM": self._lstm}[self.formula.kind]
        return kind(given, s, own)

    def _clipped(self, z: Tensor) -> Tensor:
        bound = self.formula.clip
        return z if bound is None else z.clamp(-bound, bound)

    def _rnn(self, given: Tensor, h: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        z = given + functional.linear(h, own["weight_hh"], own.get("bias_hh"))
        return self.formula.inner(self._clipped(z))

    def _gru(self, given: Tensor, h: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """The reset acts on h before its product with W, (r * h) W, or after, r * (h W)."""
        both, f, bias = 2 * self.hidden, self.formula, own.get("bias_hh")
        first = None if bias is None else bias[:both]
        gates = f.gate(self._clipped(given[..., :both] + functional.linear(h, own["weight_hh"][:both], first)))
        r, z = gates.chunk(2, -1)
        last = None if bias is None else bias[both:]
        through = functional.linear(r * h if f.reset_first else h, own["weight_hh"][both:], last)
        n = f.inner(self._clipped(given[..., both:] + (through if f.reset_first else r * through)))
        return (1 - z) * n + z * h

    def _lstm(self, given: Tensor, s: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        (h, c), f = s.chunk(2, -1), self.formula
        zi, zf, zg, zo = (given + functional.linear(h, own["weight_hh"], own.get("bias_hh"))).chunk(4, -1)
        peep = own.get("peephole")
        if peep is not None:
            zi, zf = zi + peep[0] * c, zf + peep[1] * c
        i = f.gate(self._clipped(zi))
        keep = 1 - i if f.coupled else f.gate(self._clipped(zf))
        new = keep * c + i * f.inner(self._clipped(zg))
        out = f.gate(self._clipped(zo if peep is None else zo + peep[2] * new))
        return torch.cat([out * f.outer(new), new], -1)


class ForeignCell(CustomCell):
    """A layer of another framework; its output is h alone."""

    def __init__(self, name: str, formula: Formula, weights: Mapping[str, Tensor]) -> None:
        """Take weights as `ForeignStep` does."""
        step = ForeignStep(formula, weights)
        size = step.hidden * (2 if formula.kind == "LSTM" else 1)
        start = weights["weight_hh"].new_zeros(size)
        super().__init__(name, step, start, weights["weight_ih"].shape[1])
        self.output_size = step.hidden

    def output(self, x: Tensor, s: Tensor) -> Tensor:
        """h_t."""
        return s[..., : self.output_size]

    def linearize(self, x: Tensor, s0: Tensor) -> Linearization:  # type: ignore[override]
        """Run over x (T, batch, I)."""
        found = super().linearize(x, s0)
        return ForeignLinearization(self, x, found.states)


class ForeignLinearization(HiddenOutput, CustomLinearization):
    """Dense Jacobians of the step; of the state only h is seen from above."""

    def __init__(self, cell: ForeignCell, x: Tensor, states: Tensor) -> None:
        """Keep inputs (T, batch, I) and states (T + 1, batch, S)."""
        CustomLinearization.__init__(self, cell, x, states)
        self.hidden, self.width = cell.output_size, cell.state_size
        self.outputs = states[1:, ..., : self.hidden]
