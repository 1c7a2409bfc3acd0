"""Two ways to look at a layer's linear maps: with the whole state as its output, and with the gradient cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gradscope.models.cell import At, Cell, Linearization, Pulled, pull_steps


class Borrowed:
    """A layer whose linear maps are those of another, except where a subclass says otherwise."""

    def __init__(self, layer: Linearization) -> None:
        """Take the layer."""
        self.layer = layer
        self.cell: Cell = layer.cell
        self.states: Tensor = layer.states
        self.values: Mapping[str, Tensor] = layer.values

    @property
    def outputs(self) -> Tensor:
        """y_1 .. y_T."""
        return self.layer.outputs

    @property
    def sees_input(self) -> bool:
        """As the layer."""
        return self.layer.sees_input

    def push(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """Tangent of the new state."""
        return self.layer.push(at, ds, dx)

    def push_output(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """Tangent of the output."""
        return self.layer.push_output(at, ds, dx)

    def pull_output(self, at: At, dy: Tensor) -> tuple[Tensor, Tensor | None]:
        """Adjoint of the state (and of the input) from that of the output."""
        return self.layer.pull_output(at, dy)

    def pull(self, at: At, a: Tensor) -> tuple[Tensor, Tensor]:
        """Adjoint of the state before, and delta."""
        return self.layer.pull(at, a)

    def pull_along(self, at: slice, a: Tensor, seen: Tensor | None) -> Pulled:
        """A stretch, step by step."""
        return pull_steps(self, at, a, seen)

    def pull_input(self, at: At, delta: Tensor) -> Tensor:
        """Adjoint of the input."""
        return self.layer.pull_input(at, delta)

    def weight_norms(self, at: slice, delta: Tensor) -> Tensor | None:
        """Squared norms of the steps' contributions to dL/dW."""
        return self.layer.weight_norms(at, delta)

    def weight_gradient(self, at: slice, delta: Tensor) -> dict[str, Tensor]:
        """Summed contributions."""
        return self.layer.weight_gradient(at, delta)


class WholeState(Borrowed):
    """Its output is all of its state: for losses that read more of it than the layer passes on."""

    @property
    def sees_input(self) -> bool:
        """The state is all there is."""
        return False

    @property
    def outputs(self) -> Tensor:
        """s_1 .. s_T."""
        return self.states[1:]

    def push_output(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """The tangent itself."""
        return ds

    def pull_output(self, at: At, dy: Tensor) -> tuple[Tensor, None]:
        """The adjoint itself."""
        return dy, None


class Cut(Borrowed):
    """Its new state does not hear from the old one, as far as gradients go, at some of the steps (a detach)."""

    def __init__(self, layer: Linearization, steps: Sequence[int]) -> None:
        """Cut at `steps`, counted from 1."""
        super().__init__(layer)
        self.passes = torch.ones_like(layer.states[1:, :1, :1])
        self.passes[[step - 1 for step in steps]] = 0

    def push(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """Nothing of ds passes a cut."""
        return self.layer.push(at, self.passes[at] * ds, dx)

    def pull(self, at: At, a: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing returns through a cut."""
        before, delta = self.layer.pull(at, a)
        return self.passes[at] * before, delta
