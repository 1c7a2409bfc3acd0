"""What a recurrent layer is to gradscope: a step, and the linear map of that step along a trajectory.

Tensors inside this room are time-major with features last: `(T, batch, features)`. Tangents and adjoints may carry
any leading dimensions, `(..., batch, features)`, so that one matrix product serves one vector or a whole basis.
`at` picks steps: an int t-1 for one step, a slice for many at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

At = int | slice


@dataclass(frozen=True)
class SweptSteps:
    """A stretch of n steps, swept."""

    a: Tensor
    """What goes back to the step before, (batch, state_size)."""
    adjoints: Tensor
    """dL/ds of each step, (n, batch, state_size)."""
    returned: Tensor
    """The same without what the step's own output adds."""
    deltas: Tensor
    """(n, batch, ...)."""


class Layer(Protocol):
    """What is known of one layer along one trajectory, whoever ran it."""

    @property
    def states(self) -> Tensor:
        """s_0 .. s_T, (T + 1, batch, state_size)."""
        ...

    @property
    def outputs(self) -> Tensor:
        """y_1 .. y_T, (T, batch, output_size)."""
        ...

    @property
    def values(self) -> Mapping[str, Tensor]:
        """Inner quantities by name (`gate.forget`, `candidate`), each (T, batch, hidden), in order of computation."""
        ...


@runtime_checkable
class Linearization(Layer, Protocol):
    """One layer along one trajectory: its values, and s_t = step(x_t, s_{t-1}) to first order."""

    @property
    def cell(self) -> Cell:
        """The layer that was run."""
        ...

    @property
    def sees_input(self) -> bool:
        """Whether the output depends on the input of the same step other than through the state."""
        ...

    def push(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """Tangent of the new state: J_t ds + (ds_t/dx_t) dx."""
        ...

    def push_output(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """Tangent of the output y_t from those of the *new* state and of the input."""
        ...

    def pull_output(self, at: At, dy: Tensor) -> tuple[Tensor, Tensor | None]:
        """Adjoints of s_t and (None when there is no direct path) of x_t from that of y_t."""
        ...

    def pull(self, at: At, a: Tensor) -> tuple[Tensor, Tensor]:
        """Adjoint of s_{t-1}, and the local adjoint `delta` that inputs and weights are served from."""
        ...

    def pull_along(self, at: slice, a: Tensor, seen: Tensor | None) -> SweptSteps:
        """`pull` over a stretch of steps, from the newest to the oldest, without a scale to watch.

        Args:
            at: the steps.
            a: what comes back from the step after them, (batch, state_size).
            seen: what the outputs add to each adjoint, (n, batch, state_size); None for nothing.
        """
        ...

    def pull_input(self, at: At, delta: Tensor) -> Tensor:
        """Adjoint of x_t from `delta`."""
        ...

    def weight_norms(self, at: slice, delta: Tensor) -> Tensor | None:
        """Squared norm of each step's own contribution to dL/dW, (n, batch); None without parameters."""
        ...

    def weight_gradient(self, at: slice, delta: Tensor) -> dict[str, Tensor]:
        """These steps' summed contributions to dL/dW, by parameter name."""
        ...


def pull_steps(layer: Linearization, at: slice, a: Tensor, seen: Tensor | None) -> SweptSteps:
    """`pull_along` of any layer, by its `pull`."""
    adjoints, returned, deltas = [], [], []
    for place in reversed(range(at.stop - at.start)):
        returned.append(a)
        adjoints.append(a if seen is None else a + seen[place])
        a, delta = layer.pull(at.start + place, adjoints[-1])
        deltas.append(delta)
    return SweptSteps(a, *(torch.stack(parts[::-1]) for parts in (adjoints, returned, deltas)))


@runtime_checkable
class ClosedForm(Protocol):
    """What a linearization may offer besides: its Jacobian as a matrix, for whole bases at a time."""

    def apply(self, at: int, q: Tensor) -> Tensor:
        """J_t Q, (batch, size, k)."""
        ...

    def apply_transposed(self, at: int, q: Tensor) -> Tensor:
        """J_t^T Q, (batch, size, k)."""
        ...

    def jacobians(self, at: slice) -> Tensor:
        """J_t, (batch, n, size, size)."""
        ...


@runtime_checkable
class Volume(Protocol):
    """A linearization that knows its determinants however badly conditioned the Jacobians are."""

    def log_volume(self, at: slice) -> Tensor:
        """Ln |det J_t|, float64, (n, batch)."""
        ...


class Cell(Protocol):
    """One recurrent layer."""

    name: str
    input_size: int
    state_size: int
    output_size: int
    parameters: dict[str, Tensor]

    def initial_state(self, batch: int) -> Tensor:
        """s_0, (batch, state_size)."""
        ...

    def step(self, x: Tensor, s: Tensor) -> Tensor:
        """s_t from x_t and s_{t-1} in plain differentiable operations."""
        ...

    def output(self, x: Tensor, s: Tensor) -> Tensor:
        """y_t from x_t and the new state s_t."""
        ...

    def linearize(self, x: Tensor, s0: Tensor) -> Linearization:
        """Run the layer over x (T, batch, input_size) from s0 and keep what its linear maps need."""
        ...
