"""Linear recurrent unit (Orvieto et al. 2023), the state-space family: a diagonal complex linear recurrence.

h_t = lambda h_{t-1} + gamma (B x_t), y_t = Re(C h_t) + D x_t, with lambda = exp(-exp(nu) + i exp(theta)) and
gamma = sqrt(1 - |lambda|^2). The state holds (Re h, Im h) side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.models.cell import At, SweptSteps, pull_steps
from gradscope.models.family import Draw, Family, StackOptions, stack


@dataclass(frozen=True)
class Options(StackOptions):
    """Options of `lru`; `hidden` counts complex units."""

    r_min: float = 0.9
    """|lambda| is drawn from the ring r_min .. r_max, uniform in area."""
    r_max: float = 0.999
    max_phase: float = 2 * math.pi

    def __post_init__(self) -> None:
        """Refuse a ring outside the open unit disc."""
        super().__post_init__()
        if not 0 < self.r_min <= self.r_max < 1:
            raise UsageError(f"lru needs 0 < r_min <= r_max < 1, not r_min={self.r_min:g}, r_max={self.r_max:g}")


class LRUCell:
    """One layer with parameters nu, theta (H), b (2H, I), c (O, 2H), d (O, I); 2H real numbers of state.

    `b` stacks the real and imaginary parts of B, `c` those of C with the imaginary part negated (so y = c s + d x).
    """

    def __init__(self, name: str, weights: dict[str, Tensor]) -> None:
        """Take the parameters."""
        self.name, self.parameters = name, weights
        self.state_size, self.input_size = weights["b"].shape
        self.output_size = weights["c"].shape[0]

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Re lambda, Im lambda, gamma, each (H)."""
        decay, phase = self.parameters["nu"].exp(), self.parameters["theta"].exp()
        # gamma^2 = 1 - exp(-2 decay), without cancellation when the decay is small.
        return (-decay).exp() * phase.cos(), (-decay).exp() * phase.sin(), (-torch.expm1(-2 * decay)).sqrt()

    def initial_state(self, batch: int) -> Tensor:
        """Zeros."""
        return self.parameters["b"].new_zeros(batch, self.state_size)

    def step(self, x: Tensor, s: Tensor) -> Tensor:
        """(Re h_t, Im h_t)."""
        re, im, gamma = self.coefficients()
        p, q = s.chunk(2, -1)
        driven = (x @ self.parameters["b"].T) * torch.cat([gamma, gamma])
        return torch.cat([re * p - im * q, im * p + re * q], -1) + driven

    def output(self, x: Tensor, s: Tensor) -> Tensor:
        """y_t."""
        return s @ self.parameters["c"].T + x @ self.parameters["d"].T

    def linearize(self, x: Tensor, s0: Tensor) -> LRULinearization:
        """Run over x (T, batch, I)."""
        re, im, gamma = self.coefficients()
        undriven = x @ self.parameters["b"].T
        driven = torch.view_as_complex(
            torch.stack((undriven * torch.cat([gamma, gamma])).chunk(2, -1), -1).contiguous()
        )
        h, turn = torch.complex(*s0.chunk(2, -1)), torch.complex(re, im)
        found = [h]
        for drive in driven:
            h = turn * h + drive
            found.append(h)
        states = torch.stack(found)
        return LRULinearization(self, x, undriven, torch.cat([states.real, states.imag], -1), (re, im, gamma))


class LRULinearization:
    """J_t is the same at every step: a rotation and shrinking of each (Re, Im) pair."""

    sees_input = True

    def __init__(
        self, cell: LRUCell, x: Tensor, undriven: Tensor, states: Tensor, coefficients: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        """Keep inputs, B x (T, batch, 2H) and states (T + 1, batch, 2H)."""
        self.cell, self.x, self.undriven, self.states = cell, x, undriven, states
        self.re, self.im, self.gamma = coefficients
        self.outputs = cell.output(x, states[1:])
        self.values = {"state": states[1:], "output": self.outputs}

    def push(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """Lambda ds + gamma B dx."""
        p, q = ds.chunk(2, -1)
        new = torch.cat([self.re * p - self.im * q, self.im * p + self.re * q], -1)
        if isinstance(at, slice) and ds.shape[-3:-1] == (1, 1):
            steps, batch = self.states[1:][at].shape[:2]
            new = new.expand(*new.shape[:-3], steps, batch, new.shape[-1])
        if dx is None:
            return new
        return new + (dx @ self.cell.parameters["b"].T) * torch.cat([self.gamma, self.gamma])

    def push_output(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """C ds + D dx."""
        dy = ds @ self.cell.parameters["c"].T
        return dy if dx is None else dy + dx @ self.cell.parameters["d"].T

    def pull_output(self, at: At, dy: Tensor) -> tuple[Tensor, Tensor]:
        """C^T dy and D^T dy."""
        return dy @ self.cell.parameters["c"], dy @ self.cell.parameters["d"]

    def pull(self, at: At, a: Tensor) -> tuple[Tensor, Tensor]:
        """Lambda^T a; delta is the adjoint of s_t itself."""
        p, q = a.chunk(2, -1)
        return torch.cat([self.re * p + self.im * q, self.re * q - self.im * p], -1), a

    def pull_along(self, at: slice, a: Tensor, seen: Tensor | None) -> SweptSteps:
        """A stretch, step by step."""
        return pull_steps(self, at, a, seen)

    def pull_input(self, at: At, delta: Tensor) -> Tensor:
        """(gamma B)^T delta."""
        return (delta * torch.cat([self.gamma, self.gamma])) @ self.cell.parameters["b"]

    def _local(self, at: slice, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adjoints of nu and theta, (n, batch, H), and of B x, (n, batch, 2H), for each step."""
        (p, q), (a, b) = self.states[:-1][at].chunk(2, -1), delta.chunk(2, -1)
        turned = (self.re * p - self.im * q, self.im * p + self.re * q)
        decay, phase = self.cell.parameters["nu"].exp(), self.cell.parameters["theta"].exp()
        gamma_slope = decay * torch.exp(-2 * decay) / self.gamma  # d gamma / d nu
        drive = sum(part * x for part, x in zip((a, b), self.undriven[at].chunk(2, -1), strict=True))
        d_nu = -decay * (a * turned[0] + b * turned[1]) + gamma_slope * drive
        d_theta = phase * (b * turned[0] - a * turned[1])
        return d_nu, d_theta, delta * torch.cat([self.gamma, self.gamma])

    def weight_norms(self, at: slice, delta: Tensor) -> Tensor:
        """Squared norms of the steps' contributions to nu, theta and B (C and D are the readout)."""
        d_nu, d_theta, d_b = self._local(at, delta)
        outer = d_b.square().sum(-1) * self.x[at].square().sum(-1)
        return d_nu.square().sum(-1) + d_theta.square().sum(-1) + outer

    def weight_gradient(self, at: slice, delta: Tensor) -> dict[str, Tensor]:
        """Summed contributions."""
        d_nu, d_theta, d_b = self._local(at, delta)
        b = d_b.flatten(0, 1).T @ self.x[at].flatten(0, 1)
        return {"nu": d_nu.sum((0, 1)), "theta": d_theta.sum((0, 1)), "b": b}


def make_cell(options: Options, name: str, input_size: int, draw: Draw) -> LRUCell:
    """One layer; as many outputs as complex units."""
    hidden = options.hidden
    low, high = options.r_min**2, options.r_max**2
    radius_squared = draw.uniform(hidden, bound=0.5).add(0.5).mul(high - low).add(low)
    phase = draw.uniform(hidden, bound=0.5).add(0.5).mul(options.max_phase)
    weights = {
        "nu": (-0.5 * radius_squared.log()).log(),
        "theta": phase.clamp_min(1e-12).log(),
        "b": draw.normal(2 * hidden, input_size, deviation=(2 * max(input_size, 1)) ** -0.5),
        "c": draw.normal(hidden, 2 * hidden, deviation=hidden**-0.5),
        "d": draw.normal(hidden, input_size, deviation=max(input_size, 1) ** -0.5),
    }
    return LRUCell(name, weights)


FAMILY = Family("lru", Options, stack(make_cell), "linear recurrent unit: a diagonal state-space model")
