"""What the torch-like cells share: weights named as in torch.nn, and gradients that are outer products."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradscope.models.cell import At, SweptSteps

NORM_PIECE = 2**19
"""Numbers widened at a time: more would leave the cache, and large fresh memory costs more than the arithmetic."""


def row_norms(values: Tensor) -> Tensor:
    """Norm over the last dimension, float64; squares of narrower types neither under- nor overflow there."""
    if values.dtype == torch.float64 or values.device.type != "cpu" or values.numel() <= NORM_PIECE:
        whole: Tensor = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64)
        return whole
    rows = values.flatten(0, -2)
    pieces = rows.split(max(1, NORM_PIECE // max(1, rows.shape[-1])))
    found = torch.cat([torch.linalg.vector_norm(piece.double(), dim=-1) for piece in pieces])
    return found.reshape(values.shape[:-1])


PIECE = 2**17
"""Numbers of a piece of a trajectory that is worked on at a time."""
FLAT = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""Weights of one layer in the order in which torch's kernels take them."""


class HiddenOutput:
    """The output of a layer is the first `hidden` numbers of its state, with no direct path from the input."""

    hidden: int
    width: int
    sees_input = False

    def push_output(self, at: At, ds: Tensor, dx: Tensor | None = None) -> Tensor:
        """The h part of the tangent."""
        return ds[..., : self.hidden]

    def pull_output(self, at: At, dy: Tensor) -> tuple[Tensor, None]:
        """The adjoint of y_t stands in the h part; the rest of the state is not seen."""
        return (dy if self.width == self.hidden else torch.nn.functional.pad(dy, (0, self.width - self.hidden))), None


class Stretch:
    """Room for a stretch of n steps, and views of it by step: nothing is allocated or sliced inside the loop."""

    def __init__(self, a: Tensor, seen: Tensor | None, steps: int, width: int) -> None:
        """Room for adjoints like `a` (batch, size) and deltas (batch, width)."""
        self.back = a.new_empty(steps + 1, *a.shape)
        self.back[steps] = a
        self.seen = seen
        self.adjoints = self.back[1:] if seen is None else torch.empty_like(seen)
        self.deltas = a.new_empty(steps, len(a), width)

    def steps(self, *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Each step's part of `rows`, (n, ...), newest first; what the outputs add to its adjoint is added by then."""
        parts = zip(*_backwards(*rows), strict=True)
        if self.seen is None:
            yield from parts
            return
        sums = zip(*_backwards(self.back[1:], self.seen, self.adjoints), strict=True)
        for own, (arrived, added, adjoint) in zip(parts, sums, strict=True):
            torch.add(arrived, added, out=adjoint)
            yield own

    def pulled(self) -> SweptSteps:
        """The whole, once every step is done."""
        return SweptSteps(self.back[0], self.adjoints, self.back[1:], self.deltas)


def _backwards(*rows: Tensor) -> list[Iterator[Tensor]]:
    return [reversed(row.unbind(0)) for row in rows]


@dataclass
class OuterWeights:
    """dL/dW of z = W_ih x + b_ih + W_hh h + b_hh: sums of outer products of `delta` with x_t and h_{t-1}.

    `through_x` and `through_h` are the columns of `delta` that belong to W_ih and to W_hh.
    """

    weights: Mapping[str, Tensor]
    x: Tensor
    h_before: Tensor
    through_x: slice
    through_h: tuple[slice, ...]

    def _parts(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        own = [delta[..., part] for part in self.through_h]
        return delta[..., self.through_x], own[0] if len(own) == 1 else torch.cat(own, -1)

    def norms(self, at: slice, delta: Tensor) -> Tensor:
        """Squared norm of each step's contribution: |delta|^2 (|x|^2 + 1) + |delta|^2 (|h|^2 + 1)."""
        x = _squares(self.x[at]) + float("bias_ih" in self.weights)
        h = _squares(self.h_before[at]) + float("bias_hh" in self.weights)
        if self.through_x == self.through_h[0] == slice(None):
            return _squares(delta) * (x + h)
        dx, dh = self._parts(delta)
        return _squares(dx) * x + _squares(dh) * h

    def gradient(self, at: slice, delta: Tensor) -> dict[str, Tensor]:
        """Sum of the contributions over steps and batch."""
        dx, dh = (part.flatten(0, 1) for part in self._parts(delta))
        found = {"weight_ih": dx.T @ self.x[at].flatten(0, 1), "weight_hh": dh.T @ self.h_before[at].flatten(0, 1)}
        sums = {"bias_ih": dx.sum(0), "bias_hh": dh.sum(0)}
        return found | {name: total for name, total in sums.items() if name in self.weights}


def _squares(values: Tensor) -> Tensor:
    """Squared norm of the last dimension, summed in float64."""
    return row_norms(values).square()


def log_determinant(matrix: Tensor) -> Tensor:
    """Ln |det|, float64, 0-dim."""
    found: Tensor = torch.linalg.slogdet(matrix.double()).logabsdet
    return found


def input_part(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """W_ih x + b_ih for all steps in one matrix product."""
    z = x @ weights["weight_ih"].T
    return z + weights["bias_ih"] if "bias_ih" in weights else z


def driven(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """W_ih x + b_ih + b_hh for all steps at once: all that does not depend on the state."""
    biases = [weights[name] for name in ("bias_ih", "bias_hh") if name in weights]
    return torch.nn.functional.linear(x, weights["weight_ih"], sum(biases[1:], biases[0]) if biases else None)


def torch_outputs(
    kernel: Callable[..., Any], x: Tensor, state: Sequence[Tensor], weights: Mapping[str, Tensor]
) -> Tensor:
    """h_1 .. h_T by torch's own kernel, which walks faster than any loop over steps.

    Args:
        kernel: `torch.lstm` or `torch.gru`.
        x: (T, batch, I).
        state: (h_0, c_0), or h_0 alone, each (batch, ...).
        weights: named as in torch.nn.
    """
    start, flat = [part[None].contiguous() for part in state], [weights[name] for name in FLAT if name in weights]
    with warnings.catch_warnings():
        # A GPU would rather have the weights side by side; copying them for one call is what it does, and cheap.
        warnings.filterwarnings("ignore", message=".*single contiguous chunk")
        found: Tensor = kernel(
            x, start if len(start) > 1 else start[0], flat, "bias_ih" in weights, 1, 0.0, False, False, False
        )[0]
    return found


def pieces(values: Tensor) -> Iterator[slice]:
    """Stretches of steps of (T, ...) so short that a few temporaries of theirs stay in the cache."""
    step = max(1, PIECE // max(1, values[0].numel())) if len(values) else 1
    return (slice(start, start + step) for start in range(0, len(values), step))


def state_part(h: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """W_hh h + b_hh."""
    z = h @ weights["weight_hh"].T
    return z + weights["bias_hh"] if "bias_hh" in weights else z
