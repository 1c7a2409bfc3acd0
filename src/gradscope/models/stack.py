"""A stack of recurrent layers, and the chain of its joint Jacobians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from gradscope.models.cell import At, Cell, ClosedForm, Linearization, SweptSteps, pull_steps


class DelegatingLayer:
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

    def pull_along(self, at: slice, a: Tensor, seen: Tensor | None) -> SweptSteps:
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


class WithStateAsOutput(DelegatingLayer):
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


class WithDetachedSteps(DelegatingLayer):
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


WIDE = 1 / 32
"""Share of the state's size from which on a basis is multiplied by the Jacobian itself, not by its parts."""


class Recurrent:
    """Layers on top of each other: the output of one is the input of the next."""

    kind: Literal["recurrent"] = "recurrent"
    reference: nn.Module | None = None
    """The same recurrence run by its own framework, x (batch, T, features) -> outputs (or a tuple that begins so)."""

    def __init__(
        self,
        name: str,
        cells: Sequence[Cell],
        *,
        reference: nn.Module | None = None,
        start: Sequence[Tensor] | None = None,
        cuts: Sequence[int] = (),
    ) -> None:
        """Take the layers from the bottom up.

        Args:
            name: what the user called it.
            cells: the layers.
            reference: the torch.nn module with the same weights, batch first, that it must agree with.
            start: s_0 of every layer, each (size), or (batch, size) with one for each sequence; the cells' own when
                absent.
            cuts: steps (from 1) whose state does not hear from the one before, as far as gradients go.
        """
        self.name, self.cells = name, tuple(cells)
        self.reference, self.start, self.cuts = reference, start, tuple(cuts)
        self.input_size, self.output_size = cells[0].input_size, cells[-1].output_size
        self.state_size = sum(cell.state_size for cell in cells)

    def parameters(self) -> dict[str, Tensor]:
        """All weights, `l0.weight_hh` and so on."""
        return {f"{cell.name}.{key}": value for cell in self.cells for key, value in cell.parameters.items()}

    def run(self, x: Tensor) -> StackRun:
        """Run over x (batch, T, input_size) without autograd and keep the linear maps of every layer."""
        flow, layers = x.transpose(0, 1), []
        with torch.no_grad():
            for cell, state in zip(self.cells, self.initial_states(x.shape[0]), strict=True):
                layer = cell.linearize(flow, state)
                layers.append(WithDetachedSteps(layer, self.cuts) if self.cuts else layer)
                flow = layer.outputs
        return StackRun(tuple(layers), tuple(cell.name for cell in self.cells))

    def initial_states(self, batch: int) -> list[Tensor]:
        """s_0 of every layer."""
        if self.start is not None:
            return [state.expand(batch, -1).clone() for state in self.start]
        return [cell.initial_state(batch) for cell in self.cells]

    def of_sequence(self, item: int, batch: int) -> Recurrent:
        """The model for one sequence of a batch, from the state that this one starts with."""
        if self.start is None:
            states = self.initial_states(batch)
            if all(bool((state == state[:1]).all()) for state in states):
                return self
        elif all(state.ndim < 2 or state.shape[0] == 1 for state in self.start):
            return self
        else:
            states = list(self.start)
        start = [state[item : item + 1] if state.ndim > 1 else state for state in states]
        return Recurrent(self.name, self.cells, start=start, cuts=self.cuts)

    def unroll(self, steps: Sequence[Tensor], states: list[Tensor]) -> list[Tensor]:
        """Outputs y_1 .. y_T in plain differentiable operations, for autograd to walk through.

        Args:
            steps: x_1 .. x_T, each (batch, input_size).
            states: s_0 of every layer.
        """
        outputs, states = [], list(states)
        for t, x in enumerate(steps, 1):
            flow = x
            if t in self.cuts:
                states = [state.detach() for state in states]
            for index, cell in enumerate(self.cells):
                states[index] = cell.step(flow, states[index])
                flow = cell.output(flow, states[index])
            outputs.append(flow)
        return outputs

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (batch, T, output_size) of x (batch, T, input_size), differentiable."""
        return torch.stack(self.unroll(x.unbind(1), self.initial_states(x.shape[0])), 1)


@dataclass(frozen=True)
class StackRun:
    """The layers of a stack along one batch of sequences; itself the chain of the joint state, all layers together."""

    layers: tuple[Linearization, ...]
    names: tuple[str, ...]
    begins = 0

    @property
    def output(self) -> Tensor:
        """y_1 .. y_T of the top layer, (batch, T, output_size)."""
        return self.layers[-1].outputs.transpose(0, 1)

    @property
    def batch(self) -> int:
        """Sequences."""
        return self.layers[0].states.shape[1]

    @property
    def length(self) -> int:
        """Steps T."""
        return self.layers[0].states.shape[0] - 1

    @property
    def size(self) -> int:
        """Numbers in the joint state."""
        return sum(layer.states.shape[-1] for layer in self.layers)

    @property
    def like(self) -> Tensor:
        """An empty tensor of the type and on the device of the states."""
        return self.layers[0].states.new_empty(0)

    def _slices(self) -> list[slice]:
        ends = (0, *accumulate(layer.states.shape[-1] for layer in self.layers))
        return [slice(*ends_of) for ends_of in pairwise(ends)]

    def _closed(self, columns: int) -> ClosedForm | None:
        """The layer, if it is the only one and a matrix pays for this many columns."""
        layer = self.layers[0]
        if len(self.layers) > 1 or not isinstance(layer, ClosedForm) or columns < WIDE * self.size:
            return None
        return layer

    def _push(self, at: At, ds: Tensor) -> Tensor:
        flow, new = None, []
        for layer, part in zip(self.layers, self._slices(), strict=True):
            new.append(layer.push(at, ds[..., part], flow))
            flow = layer.push_output(at, new[-1], flow)
        return _join(new)

    def _pull(self, at: int, a: Tensor) -> Tensor:
        below, found, lowest = None, [], self.layers[0]
        for layer, part in zip(reversed(self.layers), reversed(self._slices()), strict=True):
            own, direct = a[..., part], None
            if below is not None:
                seen, direct = layer.pull_output(at, below)
                own = own + seen
            before, delta = layer.pull(at, own)
            found.append(before)
            if layer is not lowest:
                below = layer.pull_input(at, delta)
                below = below if direct is None else below + direct
        return torch.cat(found[::-1], -1)

    def matmat(self, t: int, q: Tensor) -> Tensor:
        """J_t Q, (batch, size, k)."""
        if closed := self._closed(q.shape[-1]):
            return closed.apply(t - 1, q)
        return self._push(t - 1, q.permute(2, 0, 1)).permute(1, 2, 0)

    def rmatmat(self, t: int, q: Tensor) -> Tensor:
        """J_t^T Q, (batch, size, k)."""
        if closed := self._closed(q.shape[-1]):
            return closed.apply_transposed(t - 1, q)
        return self._pull(t - 1, q.permute(2, 0, 1)).permute(1, 2, 0)

    def dense(self, start: int, stop: int) -> Tensor:
        """J_{start+1} .. J_stop, (batch, stop - start, size, size)."""
        if closed := self._closed(self.size):
            return closed.jacobians(slice(start, stop))
        states = self.layers[0].states
        basis = torch.eye(self.size, dtype=states.dtype, device=states.device)[:, None, None, :]
        return self._push(slice(start, stop), basis).permute(2, 1, 3, 0)


def _join(parts: list[Tensor]) -> Tensor:
    # A basis that is the same at every step stays unexpanded until the layers meet here.
    if len(parts) == 1:
        return parts[0]
    shape = [max(sizes) for sizes in zip(*(part.shape[:-1] for part in parts), strict=True)]
    return torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], -1)
