"""Backpropagation through time in log scale: dL/ds_t, dL/dx_t and each step's part in dL/dW, at any length.

The adjoint a_t = dL/ds_t follows a_{t-1} = J_t^T (a_t + C^T v_t), where v_t = dL/dy_t and y_t = C s_t (Werbos 1990).
Layers are swept one after the other, each with a scale of its own per sequence, so that a quiet layer is not lost
beside a loud one. One step costs what the cell's `pull` costs: a matrix product and some element-wise work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.models.cell import Linearization
from gradscope.models.stack import StackRun
from gradscope.numerics.logscale import LOG10_2, add, log10_hypot, log10_norm, normalise, power_of_two

STRIDE = 32
"""Steps between two moves of the scale into the exponent, where the range of the type allows it."""
REACH = {torch.float64: 300, torch.float32: 30, torch.bfloat16: 30, torch.float16: 3}
"""Powers of two that what enters in a stretch may lie apart from what is already there."""
CHUNK_NUMBERS = 2**17
"""Adjoints kept at a time, in numbers: few enough to be in the cache still when their norms are taken."""


@dataclass(frozen=True)
class Scaled:
    """m * 2^e: `m` (T, batch, features), `e` (T, batch)."""

    m: Tensor
    e: Tensor


@dataclass(frozen=True)
class LayerAdjoint:
    """What one layer receives; all log10 of norms."""

    state: Tensor
    """dL/ds_t for t = 0..T, (T + 1, batch): all that this layer's state acts on, the layers above at step t too."""
    joint: Tensor
    """The same as a coordinate of the joint state, without what passes through other layers' states at step t."""
    input: Tensor
    """dL/dx_t for t = 1..T, (T, batch), where x is this layer's own input."""
    weight: Tensor | None
    """Norm of each step's contribution to dL/dW, (T, batch); None without parameters."""
    weight_gradient: float | None
    """log10 of the norm of dL/dW itself, summed over steps and batch; None where it was not asked for."""
    start: Scaled | None
    """dL/ds_0 itself, m (batch, size); None where only its norm is known."""


@dataclass(frozen=True)
class Adjoint:
    """One backward pass through a stack, layers from the bottom up."""

    layers: tuple[LayerAdjoint, ...]
    below: Scaled
    """dL/dx_t itself, m (T, batch, features), x being the stack's input."""

    @property
    def state(self) -> Tensor:
        """log10 ||dL/ds_t|| of the joint state, (T + 1, batch).

        The layers' states at step t are coordinates of one state, so what a lower one does to those above it at the
        same step does not count twice: this is the adjoint for which dL/ds_0 = P_0^T dL/ds_T holds.
        """
        return log10_hypot(torch.stack([layer.joint for layer in self.layers]))

    @property
    def input(self) -> Tensor:
        """log10 ||dL/dx_t|| of the stack's input, (T, batch)."""
        return self.layers[0].input

    @property
    def weight(self) -> Tensor | None:
        """log10 of each step's contribution to dL/dW, all layers together, (T, batch)."""
        parts = [layer.weight for layer in self.layers if layer.weight is not None]
        return log10_hypot(torch.stack(parts)) if parts else None

    @property
    def has_totals(self) -> bool:
        """Whether all of dL/dW that there is was summed."""
        return all(layer.weight is None or layer.weight_gradient is not None for layer in self.layers)

    @property
    def weight_gradient(self) -> float | None:
        """log10 of the norm of dL/dW, all layers together."""
        parts = [layer.weight_gradient for layer in self.layers if layer.weight_gradient is not None]
        return float(log10_hypot(torch.tensor(parts, dtype=torch.float64))) if parts else None


def backpropagate(trajectory: StackRun, cotangent: Tensor, *, totals: bool = True) -> Adjoint:
    """Sweep dL/dy back through a stack.

    Args:
        trajectory: the stack along its sequences.
        cotangent: v_t = dL/dy_t, (batch, T, output_size).
        totals: whether to sum dL/dW itself too, which takes a matrix product of its own.
    """
    v = Scaled(*normalise(cotangent.transpose(0, 1)))
    aside: Scaled | None = v
    found = []
    with torch.no_grad():
        for layer in reversed(trajectory.layers):
            adjoint, below = sweep(layer, v, aside, totals=totals)
            direct = layer.pull_output(slice(None), aside.m)[1] if aside is not None and layer.sees_input else None
            aside = None if direct is None or aside is None else Scaled(direct, aside.e)
            v = below
            found.append(adjoint)
    return Adjoint(tuple(found[::-1]), v)


def sweep(layer: Linearization, v: Scaled, aside: Scaled | None, *, totals: bool = True) -> tuple[LayerAdjoint, Scaled]:
    """Sweep one layer; returns its adjoint and dL/dx, the cotangent of the layer below.

    Args:
        layer: the layer.
        v: dL/dy_t of its output.
        aside: the part of v that has passed through no state of a layer above at step t; None for no part.
        totals: whether to sum dL/dW itself too.
    """
    steps, batch = layer.states.shape[0] - 1, layer.states.shape[1]
    width = max(1, layer.states.shape[-1] * batch)
    chunk = max(1, min(steps, CHUNK_NUMBERS // width))
    a, e = torch.zeros_like(layer.states[0]), v.e.new_zeros(batch)
    seen = (v.m != 0).flatten(1).any(1).tolist()
    state, joint, inputs, exponents, weights, total = [], [], [], [], [], _Total()
    for stop in range(steps, 0, -chunk):
        at = slice(max(0, stop - chunk), stop)
        piece = _sweep_chunk(layer, v, seen, a, e, at)
        a, e = piece.a, piece.e
        state.append(log10_norm(piece.adjoints, piece.scales))
        joint.append(state[-1] if aside is v else _joint(layer, piece, aside, at))
        delta, scale = normalise(piece.deltas, piece.scales)
        below = layer.pull_input(at, delta)
        direct = layer.pull_output(at, v.m[at])[1] if layer.sees_input else None
        x, ex = (below, scale) if direct is None else add(below, scale, direct, v.e[at])
        x, ex = normalise(x, ex) if x.shape[-1] else (x, ex)
        inputs.append(x)
        exponents.append(ex)
        squares = layer.weight_norms(at, delta)
        if squares is not None:
            weights.append(squares.log10() / 2 + scale.double() * LOG10_2)
            if totals:
                total.add(layer, at, delta, scale)
    first = log10_norm(a, e)[None]
    down = Scaled(torch.cat(inputs[::-1]), torch.cat(exponents[::-1]))
    weight = torch.cat(weights[::-1]) if weights else None
    norm = total.log10() if weights and totals else None
    kept, back = torch.cat([first, *state[::-1]]), torch.cat([first, *joint[::-1]])
    return LayerAdjoint(kept, back, log10_norm(down.m, down.e), weight, norm, Scaled(a, e)), down


def _joint(layer: Linearization, piece: _Piece, aside: Scaled | None, at: slice) -> Tensor:
    """log10 of the adjoints as coordinates of the joint state."""
    own, scale = piece.returned, piece.returned_scales
    if aside is not None:
        own, scale = add(own, scale, layer.pull_output(at, aside.m[at])[0], aside.e[at])
    return log10_norm(own, scale)


@dataclass(frozen=True)
class _Piece:
    a: Tensor
    e: Tensor
    adjoints: Tensor
    returned: Tensor
    returned_scales: Tensor
    deltas: Tensor
    scales: Tensor


def _sweep_chunk(layer: Linearization, v: Scaled, seen: list[bool], a: Tensor, e: Tensor, at: slice) -> _Piece:
    """Steps at.stop .. at.start + 1; `a`, `e` enter as what comes back from the step after, and leave likewise."""
    pieces: list[_Piece] = []
    for stop in range(at.stop, at.start, -STRIDE):
        a, e = normalise(a, e)
        steps = slice(max(at.start, stop - STRIDE), stop)
        piece = _stretch(layer, v, seen, a, e, steps) or _step_by_step(layer, v, seen, a, e, steps)
        pieces.append(piece)
        a, e = piece.a, piece.e
    if len(pieces) == 1:
        return piece
    parts = [(p.adjoints, p.returned, p.returned_scales, p.deltas, p.scales) for p in reversed(pieces)]
    return _Piece(a, e, *(torch.cat(part) for part in zip(*parts, strict=True)))


def _stretch(layer: Linearization, v: Scaled, seen: list[bool], a: Tensor, e: Tensor, at: slice) -> _Piece | None:
    """A stretch at one scale for each sequence; None where its range of numbers does not allow that."""
    added = None
    if any(seen[at]):
        # A sequence that nothing has reached yet takes the scale of what enters first.
        entering = torch.where((v.m[at] != 0).any(-1), v.e[at], torch.iinfo(v.e.dtype).min // 4)
        e = torch.where((a != 0).any(-1), e, torch.maximum(entering.amax(0), e.new_tensor(-(2**40))))
        apart = torch.where(entering > torch.iinfo(v.e.dtype).min // 8, entering - e, torch.zeros_like(entering))
        if not bool((apart.abs() <= REACH[a.dtype]).all()):
            return None
        scale = power_of_two(apart, a.dtype)
        added = layer.pull_output(at, v.m[at])[0] * scale[..., None]
    pulled = layer.pull_along(at, a, added)
    if not _in_range(pulled.adjoints):
        return None
    scales = e.expand(at.stop - at.start, -1)
    return _Piece(pulled.a, e, pulled.adjoints, pulled.returned, scales, pulled.deltas, scales)


def _step_by_step(layer: Linearization, v: Scaled, seen: list[bool], a: Tensor, e: Tensor, at: slice) -> _Piece:
    """The same with the scale moved into the exponent at every step."""
    adjoints, returned, before, deltas, scales = [], [], [], [], []
    for t in reversed(range(at.start, at.stop)):
        returned.append(a)
        before.append(e)
        if seen[t]:
            a, e = add(a, e, layer.pull_output(t, v.m[t])[0], v.e[t])
        a, e = normalise(a, e)
        adjoints.append(a)
        scales.append(e)
        a, delta = layer.pull(t, a)
        deltas.append(delta)
    kept = (adjoints, returned, before, deltas, scales)
    return _Piece(a, e, *(torch.stack(items[::-1]) for items in kept))


def _in_range(adjoints: Tensor) -> bool:
    """Whether no sequence left the middle of its type's range; one that nothing has reached yet has not."""
    top = adjoints.abs().amax(-1)
    bound = 2.0**400 if top.dtype == torch.float64 else 2.0**40 if top.dtype != torch.float16 else 2.0**4
    reached = (top != 0).flip(0).cumsum(0).flip(0) > 0
    return bool(((top < bound) & (top > 1 / bound) | ~reached).all())


class _Total:
    """Running sum of scaled weight gradients."""

    def __init__(self) -> None:
        self.parts: dict[str, Tensor] = {}
        self.exponent: int | None = None

    def add(self, layer: Linearization, at: slice, delta: Tensor, scale: Tensor) -> None:
        nonzero = (delta != 0).any(-1)
        if not bool(nonzero.any()):
            return
        top = int(scale[nonzero].max())
        if self.exponent is None:
            self.exponent = top
        floor = -1000 if delta.dtype == torch.float64 else -120
        # A sequence that has died keeps the large exponent it once had: its zeros are not to meet infinity.
        shifted = delta * power_of_two((scale - top).clamp(floor, 0), delta.dtype)[..., None]
        # What was added so far and what comes now meet at the larger of the two exponents.
        common = max(top, self.exponent)
        for name, part in layer.weight_gradient(at, shifted).items():
            before = self.parts.get(name)
            now = part.double() * 2.0 ** max(top - common, -1074)
            self.parts[name] = now if before is None else before * 2.0 ** max(self.exponent - common, -1074) + now
        self.exponent = common

    def log10(self) -> float:
        if self.exponent is None:
            return -math.inf
        flat = torch.cat([part.flatten() for part in self.parts.values()])
        return float(log10_norm(flat)) + self.exponent * LOG10_2
