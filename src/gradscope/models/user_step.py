"""Any other cell: `step(x, state) -> state`, its linear maps through torch.func with no code from its author."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.chain import step_jacobians
from gradscope.errors import UsageError
from gradscope.models.cell import At, SweptSteps, pull_steps
from gradscope.models.tolerances import tolerance
from gradscope.text import safe_text

Step = Callable[[Tensor, Tensor], Any]
CHUNK_NUMBERS = 2**22
LOOKED = 8
"""Steps, and sequences, at which a sequence is run by itself to see whether it depends on the others."""


class CustomCell:
    """A cell that is a function (or module) from (x (batch, I), s (batch, S)) to the new s (batch, S)."""

    def __init__(
        self,
        name: str,
        step: Step,
        initial: Tensor,
        input_size: int,
        starts: Callable[[int], Tensor] | None = None,
    ) -> None:
        """Take the step; an nn.Module's parameters are its own.

        Args:
            name: what it is called.
            step: the function.
            initial: s_0 of every sequence (S), or (batch, S) with one for each.
            input_size: I.
            starts: s_0 of as many sequences as it is asked for, (batch, S) or one for all; None for `initial`.
        """
        self.name, self.function, self.initial, self.input_size = name, step, initial, input_size
        self.starts, self._rows = starts, dict[int, Tensor]()
        self.state_size = self.output_size = initial.shape[-1]
        self.module = step if isinstance(step, nn.Module) else None
        self.parameters = {k: p.detach() for k, p in step.named_parameters()} if isinstance(step, nn.Module) else {}

    def initial_state(self, batch: int) -> Tensor:
        """s_0 for every sequence; asked again for as many, the same one.

        Raises:
            UsageError: there are states for another number of sequences.
        """
        if batch not in self._rows:
            rows = self.initial if self.starts is None else self.starts(batch)
            if rows.ndim > 2 or rows.shape[-1] != self.state_size or (rows.ndim == 2 and len(rows) not in (1, batch)):
                wanted = f"({self.state_size},) or ({batch}, {self.state_size}) for {batch} sequences"
                shape = tuple(rows.shape)
                raise UsageError(f"the initial state of {safe_text(self.name)} has shape {shape}; expected {wanted}")
            self._rows[batch] = rows.detach().expand(batch, -1)
        return self._rows[batch].to(self.initial, copy=True)

    def step(self, x: Tensor, s: Tensor) -> Tensor:
        """s_t.

        Raises:
            UsageError: the user's function fails, or does not return a state of the same shape.
        """
        try:
            new = self.function(x, s)
        except Exception as error:
            what = f"{type(error).__name__}: {safe_text(error)}"
            raise UsageError(f"the step of {safe_text(self.name)} fails on x {tuple(x.shape)}: {what}") from error
        if not isinstance(new, Tensor) or new.shape != s.shape:
            got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise UsageError(f"the step of {safe_text(self.name)} returns {got}; expected a state {tuple(s.shape)}")
        if new.dtype != s.dtype:
            got, wanted = str(new.dtype)[6:], str(s.dtype)[6:]
            raise UsageError(f"the step of {safe_text(self.name)} returns a state of {got}; expected {wanted}")
        return new

    def output(self, x: Tensor, s: Tensor) -> Tensor:
        """The whole state."""
        return s

    def linearize(self, x: Tensor, s0: Tensor) -> CustomLinearization:
        """Run over x (T, batch, I): each sequence by itself where it would be another one among the others."""
        states = self._walked(x, s0)
        self._require_repeatable(x, states)
        if self._depend(x, states):
            states = torch.cat([self._walked(x[:, b : b + 1], s0[b : b + 1]) for b in range(len(s0))], 1)
        return CustomLinearization(self, x, states)

    def _walked(self, x: Tensor, s0: Tensor) -> Tensor:
        states = s0.new_empty(len(x) + 1, *s0.shape)
        states[0] = s0
        for t in range(len(x)):
            states[t + 1] = self.step(x[t], states[t])
        return states

    def _depend(self, x: Tensor, states: Tensor) -> bool:
        """Whether a sequence's step depends on the others: on their numbers, or by a branch on those of all."""
        near, (steps, batch) = tolerance((states.dtype,)).outputs, x.shape[:2]
        places = sorted({int(t) for t in torch.linspace(0, steps - 1, LOOKED).round()})
        for t, b in itertools.product(places, range(min(batch, LOOKED)) if batch > 1 else ()):
            row = slice(b, b + 1)
            alone, among = self.step(x[t, row], states[t, row]), states[t + 1, row]
            size = float(among.nan_to_num(0, 0, 0).abs().max())
            if not torch.allclose(alone, among, rtol=near, atol=near * size, equal_nan=True):
                return True
        return False

    def _require_repeatable(self, x: Tensor, states: Tensor) -> None:
        """Refuse a step that draws random numbers or remembers its calls: its derivatives would be another one's."""
        for t in sorted({0, len(x) // 2, len(x) - 1}):
            again = self.step(x[t], states[t])
            if not torch.allclose(again, states[t + 1], rtol=1e-6, atol=1e-12, equal_nan=True):
                raise UsageError(
                    f"the step of {safe_text(self.name)} returns another state when it is called again with the same "
                    "input and state; take out what is random in it (dropout: eval mode) or kept between calls"
                )


class CustomLinearization:
    """Dense Jacobians of a step, computed a stretch of steps at a time as they are asked for."""

    sees_input = False

    def __init__(self, cell: CustomCell, x: Tensor, states: Tensor) -> None:
        """Keep inputs (T, batch, I) and states (T + 1, batch, S)."""
        self.cell, self.x, self.states, self.outputs = cell, x, states, states[1:]
        self.values = {"state": states[1:]}
        per_step = x.shape[1] * cell.state_size * (cell.state_size + cell.input_size)
        self.stretch = max(1, CHUNK_NUMBERS // max(1, per_step))
        self.kept: tuple[int, Tensor, Tensor | None] | None = None

    def _jacobians(self, at: At) -> tuple[Tensor, Tensor | None]:
        """ds'/ds (..., batch, S, S) and ds'/dx (..., batch, S, I) of the steps `at`."""
        if isinstance(at, slice):
            return self._compute(at)
        start = at - at % self.stretch
        if self.kept is None or self.kept[0] != start:
            self.kept = (start, *self._compute(slice(start, start + self.stretch)))
        _, state, given = self.kept
        return state[at - start], None if given is None else given[at - start]

    def _compute(self, at: slice) -> tuple[Tensor, Tensor | None]:
        x, s = self.x[at], self.states[:-1][at]
        try:
            return step_jacobians(self.cell.function, x, s)
        except Exception:
            # Steps that vmap cannot follow (in-place writes, branches on values) are differentiated one by one.
            return _one_by_one(self.cell.step, x, s)

    def push(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """J_t ds + (ds_t/dx_t) dx."""
        state, given = self._jacobians(at)
        new = _times(state, ds)
        return new if dx is None or given is None else new + _times(given, dx)

    def push_output(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """The tangent itself."""
        return ds

    def pull_output(self, at: At, dy: Tensor) -> tuple[Tensor, None]:
        """The adjoint itself."""
        return dy, None

    def pull(self, at: At, a: Tensor) -> tuple[Tensor, Tensor]:
        """J_t^T a; delta is the adjoint of s_t itself."""
        state, _ = self._jacobians(at)
        return _times(state.mT, a), a

    def pull_along(self, at: slice, a: Tensor, seen: Tensor | None) -> SweptSteps:
        """A stretch, step by step."""
        return pull_steps(self, at, a, seen)

    def pull_input(self, at: At, delta: Tensor) -> Tensor:
        """(ds_t/dx_t)^T delta."""
        _, given = self._jacobians(at)
        return delta[..., :0] if given is None else _times(given.mT, delta)

    def _per_step_gradients(self, at: slice, delta: Tensor) -> dict[str, Tensor]:
        """Each (step, sequence)'s own contribution, by parameter: (n * batch, ...)."""
        module, parameters = self.cell.module, self.cell.parameters
        assert module is not None

        def contribution(x: Tensor, s: Tensor, a: Tensor) -> dict[str, Tensor]:
            def action(weights: dict[str, Tensor]) -> Tensor:
                new: Tensor = torch.func.functional_call(module, weights, (x[None], s[None]))[0]
                return (new * a).sum()

            gradient: dict[str, Tensor] = torch.func.grad(action)(parameters)
            return gradient

        flat = self.x[at].flatten(0, 1), self.states[:-1][at].flatten(0, 1), delta.flatten(0, 1).to(self.states.dtype)
        try:
            found: dict[str, Tensor] = torch.func.vmap(contribution)(*flat)
        except Exception:
            # As for the Jacobians: a step that vmap cannot follow is differentiated once for each row.
            rows = [contribution(*row) for row in zip(*flat, strict=True)]
            found = {name: torch.stack([row[name] for row in rows]) for name in parameters}
        return found

    def weight_norms(self, at: slice, delta: Tensor) -> Tensor | None:
        """Squared norms of the steps' contributions; None for a cell without parameters."""
        if not self.cell.parameters:
            return None
        parts = self._per_step_gradients(at, delta).values()
        squares = torch.stack([part.double().flatten(1).square().sum(-1) for part in parts]).sum(0)
        return squares.reshape(delta.shape[:2])

    def weight_gradient(self, at: slice, delta: Tensor) -> dict[str, Tensor]:
        """Summed contributions."""
        return {name: part.sum(0) for name, part in self._per_step_gradients(at, delta).items()}


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Matrix times vector; vectors that share a matrix, along a first axis of their own, become one product."""
    if vectors.ndim == matrices.ndim:
        return (matrices @ vectors.movedim(0, -1)).movedim(-1, 0)
    return (matrices @ vectors[..., None])[..., 0]


def _one_by_one(step: Step, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor | None]:
    n, batch, size = s.shape
    state, given = s.new_empty(n, batch, size, size), s.new_empty(n, batch, size, x.shape[-1])
    for i in range(n):
        for b in range(batch):
            with torch.enable_grad():
                inputs = (x[i, b], s[i, b])
                dx, ds = torch.autograd.functional.jacobian(lambda u, v: step(u[None], v[None])[0], inputs)
            state[i, b] = ds
            given[i, b] = dx
    return state, given if x.shape[-1] else None
