"""Elman RNN: h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), as torch.nn.RNN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradscope.models.cell import At, SweptSteps
from gradscope.models.cell_parts import (
    HiddenOutput,
    OuterWeights,
    Stretch,
    driven,
    input_part,
    log_determinant,
    pieces,
    state_part,
)
from gradscope.models.family import Draw, Family, Init, StackOptions, input_matrix, recurrent_matrix, stack

PHI: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu, "linear": lambda z: z}
PHI_OUT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda z, out: torch.tanh(z, out=out),
    "relu": lambda z, out: torch.clamp_min(z, 0.0, out=out),
    "linear": lambda z, out: out.copy_(z),
}
"""The same, written where the new state belongs."""
SLOPE: dict[str, Callable[[Tensor], Tensor]] = {
    # 1/cosh^2 of the pre-activation: 1 - tanh^2 is exactly zero beyond |z| of about 19.
    "tanh": lambda z: torch.cosh(z).reciprocal_().square_(),
    "relu": lambda z: (z > 0).to(z.dtype),
    "linear": torch.ones_like,
}


@dataclass(frozen=True)
class Options(StackOptions):
    """Options of `rnn`."""

    nonlinearity: Literal["tanh", "relu", "linear"] = "tanh"
    init: Init = "uniform"
    """Scheme of the recurrent matrix. uniform: as torch.nn; normal: deviation 1/sqrt(hidden), the input's weights too;
    orthogonal; identity."""
    gain: float = 1.0
    """Factor on the recurrent matrix."""
    bias: bool = True


class RNNCell:
    """One Elman layer; the state is h."""

    def __init__(self, name: str, weights: dict[str, Tensor], nonlinearity: str = "tanh") -> None:
        """Take weight_ih (H, I), weight_hh (H, H) and, together or not at all, bias_ih and bias_hh (H)."""
        self.name, self.parameters, self.nonlinearity = name, weights, nonlinearity
        self.state_size, self.input_size = weights["weight_ih"].shape
        self.output_size = self.state_size

    def initial_state(self, batch: int) -> Tensor:
        """Zeros, as torch.nn.RNN."""
        return self.parameters["weight_hh"].new_zeros(batch, self.state_size)

    def step(self, x: Tensor, s: Tensor) -> Tensor:
        """h_t."""
        return PHI[self.nonlinearity](input_part(x, self.parameters) + state_part(s, self.parameters))

    def output(self, x: Tensor, s: Tensor) -> Tensor:
        """h_t itself."""
        return s

    def linearize(self, x: Tensor, s0: Tensor) -> RNNLinearization:
        """Run over x (T, batch, I)."""
        z = driven(x, self.parameters)
        states, u = z.new_empty(len(z) + 1, *s0.shape), self.parameters["weight_hh"].T
        states[0], phi = s0, PHI_OUT[self.nonlinearity]
        for at in pieces(z):
            # Views by step, made at once but not for all steps: a million of them weigh more than the numbers.
            rows = (z[at], states[:-1][at], states[1:][at])
            for pre, old, new in zip(*(row.unbind(0) for row in rows), strict=True):
                phi(pre.addmm_(old, u), new)
        return RNNLinearization(self, x, z, states)


class RNNLinearization(HiddenOutput):
    """J_t = diag(phi'(z_t)) W_hh."""

    def __init__(self, cell: RNNCell, x: Tensor, z: Tensor, states: Tensor) -> None:
        """Keep pre-activations z (T, batch, H) and states (T + 1, batch, H)."""
        self.cell, self.states, self.outputs = cell, states, states[1:]
        self.hidden = self.width = cell.state_size
        self.slope = SLOPE[cell.nonlinearity](z)
        self.values = {"pre-activation": z, f"activation.{cell.nonlinearity}": states[1:]}
        self.outer = OuterWeights(cell.parameters, x, states[:-1], slice(None), (slice(None),))

    def push(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """diag(phi') (W_hh ds + W_ih dx)."""
        dz = ds @ self.cell.parameters["weight_hh"].T
        if dx is not None:
            dz = dz + dx @ self.cell.parameters["weight_ih"].T
        return self.slope[at] * dz

    def pull(self, at: At, a: Tensor) -> tuple[Tensor, Tensor]:
        """Delta = phi' a; W_hh^T delta."""
        delta = self.slope[at] * a
        return delta @ self.cell.parameters["weight_hh"], delta

    def pull_along(self, at: slice, a: Tensor, seen: Tensor | None) -> SweptSteps:
        """A stretch: an element-wise product and a matrix product a step."""
        found, u = Stretch(a, seen, at.stop - at.start, self.hidden), self.cell.parameters["weight_hh"]
        for adjoint, slope, delta, before in found.steps(found.adjoints, self.slope[at], found.deltas, found.back[:-1]):
            torch.mul(slope, adjoint, out=delta)
            torch.mm(delta, u, out=before)
        return found.pulled()

    def apply(self, at: int, q: Tensor) -> Tensor:
        """diag(phi') W_hh Q."""
        return (self.cell.parameters["weight_hh"] @ q).mul_(self.slope[at][..., None])

    def apply_transposed(self, at: int, q: Tensor) -> Tensor:
        """W_hh^T diag(phi') Q."""
        return self.cell.parameters["weight_hh"].T @ (self.slope[at][..., None] * q)

    def jacobians(self, at: slice) -> Tensor:
        """diag(phi') W_hh."""
        return self.slope[at].transpose(0, 1)[..., None] * self.cell.parameters["weight_hh"]

    def log_volume(self, at: slice) -> Tensor:
        """Ln |det W_hh| + sum ln phi'."""
        return log_determinant(self.cell.parameters["weight_hh"]) + self.slope[at].double().log().sum(-1)

    def pull_input(self, at: At, delta: Tensor) -> Tensor:
        """W_ih^T delta."""
        return delta @ self.cell.parameters["weight_ih"]

    def weight_norms(self, at: slice, delta: Tensor) -> Tensor:
        """Squared norms of the steps' contributions."""
        return self.outer.norms(at, delta)

    def weight_gradient(self, at: slice, delta: Tensor) -> dict[str, Tensor]:
        """Summed contributions."""
        return self.outer.gradient(at, delta)


def make_cell(options: Options, name: str, input_size: int, draw: Draw) -> RNNCell:
    """One layer with fresh weights."""
    hidden = options.hidden
    bound = hidden**-0.5
    weights = {
        "weight_ih": input_matrix(options.init, hidden, input_size, draw),
        "weight_hh": recurrent_matrix(options.init, options.gain, hidden, draw),
    }
    if options.bias:
        weights |= {"bias_ih": draw.uniform(hidden, bound=bound), "bias_hh": draw.uniform(hidden, bound=bound)}
    return RNNCell(name, weights, options.nonlinearity)


FAMILY = Family("rnn", Options, stack(make_cell), "Elman RNN (tanh, relu or linear)")
