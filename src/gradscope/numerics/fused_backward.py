"""Backpropagation through a user's module: autograd between its recurrences, log-scaled sweeps inside them.

Gradients that pass through ordinary operations without losing their scale.
Autograd works in one range of numbers; the gradient of a long recurrence does not fit in it. It is cut into bands of
steps of similar size, each is brought to order one and pulled through by itself, and the results are added up with
their scale in an exponent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.forward.autograd_graph import Graph
from gradscope.models.fused_call import gradients
from gradscope.models.fused_recurrence import OpenedPass, Recurrence, Unit, reordered
from gradscope.models.stack import WithStateAsOutput
from gradscope.numerics.adjoint import LayerAdjoint, Scaled, sweep
from gradscope.numerics.logscale import add, normalise, power_of_two

BAND = {torch.float64: 600, torch.float32: 60, torch.bfloat16: 60, torch.float16: 6}
"""Powers of two between the largest and the smallest step of a band: what is left of the range is for the way."""


def pull_through(
    outputs: Sequence[Tensor], cotangents: Sequence[Scaled], inputs: Sequence[Tensor]
) -> Iterator[tuple[tuple[Tensor | None, ...], int]]:
    """Gradients of sum <cotangent, output> with respect to `inputs`, as parts g * 2^e that add up.

    Args:
        outputs: (T, batch, features) each, joined to a graph.
        cotangents: one for each output.
        inputs: what to differentiate with respect to.
    """
    joined = [(y, v) for y, v in zip(outputs, cotangents, strict=True) if y.requires_grad and y.numel()]
    if not joined or not inputs:
        return
    types = {*Graph.of([y for y, _ in joined]).types, *(v.m.dtype for _, v in joined)}
    width = min(BAND[kind] for kind in types if kind in BAND)
    left = [(v.m != 0).any(-1) for _, v in joined]
    while True:
        tops = [int(v.e[seen].max()) for (_, v), seen in zip(joined, left, strict=True) if bool(seen.any())]
        if not tops:
            return
        top, pulled = max(tops), []
        for place, (_, v) in enumerate(joined):
            band = left[place] & (v.e > top - width)
            left[place] = left[place] & ~band
            factor = power_of_two((v.e - top).clamp_min(-1000), v.m.dtype)
            scale = torch.where(band, factor, torch.zeros_like(factor))
            pulled.append(v.m * scale[..., None])
        yield gradients([y for y, _ in joined], inputs, pulled), top


Pull = tuple[dict[int, Tensor], int]
"""Gradients by identity of the tensor, and the power of two they are to be multiplied with."""


@dataclass(frozen=True)
class Flow:
    """One backward pass."""

    given: Scaled
    """dL/d(given), m (T, batch, features)."""
    layers: tuple[tuple[LayerAdjoint, ...], ...]
    """What every unit receives, by recurrence."""
    below: tuple[Scaled, ...]
    """dL/dx of every recurrence, m (T, batch, features)."""


def feeds(seen: OpenedPass) -> list[set[int]]:
    """For every recurrence, which of them (by place) its input or first state depends on."""
    leaves = [(place, leaf) for place, one in enumerate(seen.recurrences) for leaf in one.leaves]
    found: list[set[int]] = []
    for one in seen.recurrences:
        read = [tensor for tensor in (one.x, *one.start) if tensor.requires_grad and tensor.numel()]
        if not read or not leaves:
            found.append(set())
            continue
        ones = [torch.ones_like(tensor) for tensor in read]
        pulled = gradients(read, [leaf for _, leaf in leaves], ones)
        found.append({place for (place, _), g in zip(leaves, pulled, strict=True) if g is not None})
    return found


def last_first(needs: Sequence[set[int]]) -> list[int] | None:
    """Places so that each stands before all that it reads; None where they go in a circle."""
    left, order = dict(enumerate(needs)), []
    while left:
        free = [place for place in left if not any(place in read for read in left.values())]
        if not free:
            return None
        order += free
        left = {place: read for place, read in left.items() if place not in free}
    return order


def flow_back(seen: OpenedPass, order: Sequence[int], outputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Flow:
    """Gradients of sum <cotangent, output> all the way to what the module was given.

    Args:
        seen: the forward pass.
        order: of its recurrences, from `last_first`.
        outputs: tensors that the module returned.
        cotangents: one for each.
    """
    assert seen.given is not None
    leaves = [seen.given, *(leaf for one in seen.recurrences for leaf in one.leaves)]
    pulls: list[Pull] = [(_direct(outputs, cotangents, leaves), 0)]
    layers: dict[int, tuple[LayerAdjoint, ...]] = {}
    below: dict[int, Scaled] = {}
    for place in order:
        one = seen.recurrences[place]
        layers[place], below[place], starts = _sweep(one, pulls)
        down = (below[place], *starts)
        given = (one.x, *(state[None] for state in one.start))
        for pulled, e in pull_through(given, down, leaves):
            pulls.append(({id(leaf): g for leaf, g in zip(leaves, pulled, strict=True) if g is not None}, e))
    total = _sum([(pulled[id(seen.given)], e) for pulled, e in pulls if id(seen.given) in pulled])
    places = range(len(seen.recurrences))
    return Flow(total or _nothing(seen.given), tuple(layers[p] for p in places), tuple(below[p] for p in places))


def _direct(outputs: Sequence[Tensor], cotangents: Sequence[Tensor], leaves: Sequence[Tensor]) -> dict[int, Tensor]:
    """What reaches the leaves without passing a recurrence."""
    joined = [(y, v) for y, v in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not joined:
        return {}
    ys, vs = zip(*joined, strict=True)
    found = gradients(ys, leaves, vs)
    return {id(leaf): g for leaf, g in zip(leaves, found, strict=True) if g is not None}


def _sweep(one: Recurrence, pulls: Sequence[Pull]) -> tuple[tuple[LayerAdjoint, ...], Scaled, tuple[Scaled, ...]]:
    """Sweep a recurrence from the top; its layers, dL/dx, and dL/ds_0 of every unit as (1, batch, size)."""
    spreads = [(*one.spread(pulled), e) for pulled, e in pulls]
    v = _sum([(output, e) for output, _, e in spreads if output is not None])
    count = len(one.start)
    ends = [_sum([(own[u], e) for _, own, e in spreads if own[u] is not None]) for u in range(count)]
    found: list[LayerAdjoint] = []
    first = count
    for level in reversed(one.levels):
        first -= len(level)
        top = first + len(level) == count
        swept = [_unit(unit, _part(v, unit, way), ends[first + way], top) for way, unit in enumerate(level)]
        found = [adjoint for adjoint, _ in swept] + found
        v = swept[0][1]
        for _, more in swept[1:]:
            v = Scaled(*add(v.m, v.e, more.m, more.e))
    assert v is not None
    return tuple(found), v, tuple(Scaled(a.start.m[None], a.start.e[None]) for a in found if a.start is not None)


def _part(v: Scaled | None, unit: Unit, way: int) -> Scaled | None:
    """The unit's own features of an output cotangent, in its own order of steps."""
    if v is None:
        return None
    width = unit.layer.outputs.shape[-1]
    m = v.m[..., way * width : (way + 1) * width]
    return Scaled(reordered(m, unit.order), reordered(v.e, unit.order))


def _unit(unit: Unit, v: Scaled | None, ends: Scaled | None, top: bool) -> tuple[LayerAdjoint, Scaled]:
    """Sweep one unit; returns what it receives, and dL/d(its input) in the order of the input's steps."""
    layer = unit.layer
    if ends is None and v is not None:
        adjoint, down = sweep(layer, v, v if top else None)
    else:
        whole = ends or _nothing(layer.states[1:])
        if v is not None:
            seen = layer.pull_output(slice(None), v.m)[0]
            whole = Scaled(*add(whole.m, whole.e, seen, v.e))
        adjoint, down = sweep(WithStateAsOutput(layer), whole, whole if top else ends)
    return adjoint, Scaled(reordered(down.m, unit.order), reordered(down.e, unit.order))


def _sum(parts: Sequence[tuple[Tensor | None, int]]) -> Scaled | None:
    """Add up parts g * 2^e; None for none."""
    total: Scaled | None = None
    for g, e in parts:
        if g is None:
            continue
        m, own = normalise(g)
        own = own + e
        total = Scaled(m, own) if total is None else Scaled(*add(total.m, total.e, m, own))
    return total


def _nothing(like: Tensor) -> Scaled:
    return Scaled(torch.zeros_like(like), torch.zeros(like.shape[:-1], dtype=torch.int64, device=like.device))
