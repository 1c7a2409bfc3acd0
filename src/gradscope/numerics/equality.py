"""Is the analysed chain the user's model? Outputs and gradients of both, on the very sequence that is analysed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from gradscope.models.cell import Layer
from gradscope.models.fused_call import gradients, is_known
from gradscope.models.fused_recurrence import OpenedPass, Recurrence, Unit, reordered
from gradscope.models.output_shape import leaves_of
from gradscope.models.stack import Recurrent
from gradscope.models.tolerances import coarsest, nudged, roundings, tolerance
from gradscope.numerics.adjoint import Adjoint, LayerAdjoint, Scaled
from gradscope.numerics.logscale import log10_hypot, log10_norm
from gradscope.records import EqualityCheck

WEIGHTS = {"weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh"}
MARGIN = 100
"""Roundings that may meet in the gradient of a step."""
FEW = 4
"""Steps over which rounding does not grow by much."""
NUMBERED = r"_l\d+(_reverse)?$"

Steps = Iterable[tuple[int, Tensor, Tensor, Tensor]]
"""Values (steps, batch, ...) and their first step: by the chain, by torch, and by the chain for a nudged input."""


def stack_against_reference(model: Recurrent, x: Tensor, v: Tensor, output: Tensor, adjoint: Adjoint) -> EqualityCheck:
    """Hold a stack against the torch.nn module with the same weights, run and differentiated by torch.

    Args:
        model: the stack, with its reference.
        x: (batch, T, features).
        v: dL/dy of the stack.
        output: y of the stack.
        adjoint: its backward pass for v.
    """
    module = model.reference
    assert module is not None
    weights = list(module.parameters())
    leaf = x.detach().requires_grad_()
    with torch.enable_grad(), wanted(weights):
        returned = module(leaf)
        y = returned[0] if isinstance(returned, tuple) else returned
        own, *of_weights = torch.autograd.grad(y, (leaf, *weights), v, allow_unused=True)
    differences = []
    if x.shape[-1]:
        flat = lambda: saturated(model.run(x).layers, (x.dtype,))  # noqa: E731
        differences.append(_of_input(number(adjoint.below).transpose(0, 1), own, (x.dtype,), flat))
    unheld = _unheld([own] if x.shape[-1] else [], of_weights)
    by_name = dict(zip((name for name, _ in module.named_parameters()), of_weights, strict=True))
    for index, layer in enumerate(adjoint.layers):
        own_names = [name for name in by_name if len(adjoint.layers) == 1 or name.endswith(f"_l{index}")]
        parts = [g for name in own_names if (g := by_name[name]) is not None]
        differences.append(_of_weights([] if layer.weight_gradient is None else [layer.weight_gradient], parts))
    against = str(getattr(module, "stands_for", f"torch.nn.{type(module).__name__}"))

    def nudge() -> Steps:
        own, theirs = output.transpose(0, 1), y.detach().transpose(0, 1)
        yield 1, own, theirs, model.run(nudged(x, x.dtype)).output.transpose(0, 1)

    return _check(_difference(output, y), differences, against, x.dtype, (), unheld, nudge)


def layers_against_torch(
    seen: Sequence[Recurrence],
    swept: Sequence[Sequence[LayerAdjoint]],
    gradient: Tensor,
    expected: tuple[Tensor, dict[nn.Module, list[Tensor]]],
    name: str,
    types: Collection[torch.dtype],
) -> EqualityCheck:
    """Hold the recurrences seen inside a module against that module, run and differentiated by torch as it stands.

    Args:
        seen: the recurrences.
        swept: what their units receive.
        gradient: dL/d(input) through the chains, and
        expected: the same by torch, with dL/dW of every recurrence's parameters by module.
        name: what the module is called.
        types: number types that took part inside.
    """
    outputs = [error for one in seen for error in _outputs(one)]
    of_input, of_weights = expected
    units = [unit.layer for one in seen for level in one.levels for unit in level]
    kinds = (gradient.dtype, *types)
    differences = [_of_input(gradient, of_input, kinds, lambda: saturated(units, kinds))]
    for one, layers in zip(seen, swept, strict=True):
        if one.module in of_weights:
            own = [layer.weight_gradient for layer in layers if layer.weight_gradient is not None]
            differences.append(_of_weights(own, of_weights[one.module]))
    unheld = _unheld([of_input], [g for own in of_weights.values() for g in own])
    kind = coarsest((gradient.dtype, *types))

    def nudge() -> Steps:
        for one in seen:
            if not one.one_way and len(one.levels) > 1:
                yield _first_steps(one, kind)
            moved = _values(one, one.walked(nudged(one.x.detach(), kind)))
            yield from ((*own, other[1]) for own, other in zip(_values(one, one.levels), moved, strict=True))

    return _check(max(outputs, default=0.0), differences, name, gradient.dtype, types, unheld, nudge)


def against_gradients(
    outputs: Iterable[tuple[Tensor, Tensor]],
    gradient: tuple[Tensor, Tensor],
    weights: Iterable[tuple[float, Tensor]],
    name: str,
    types: Collection[torch.dtype],
    nudge: Callable[[], Steps] | None = None,
) -> EqualityCheck:
    """Hold pairs of (own, torch's): outputs, dL/dx (T, batch, features), and log10 ||dL/dW|| with dL/dW.

    `types` are those that took part inside; `nudge` tells how far rounding errors grow.
    """
    off = [_difference(own, theirs) for own, theirs in outputs]
    own, theirs = gradient
    pairs = list(weights)
    differences = [_of_input(own, theirs, (theirs.dtype, *types)), *(_of_weights([log10], [g]) for log10, g in pairs)]
    unheld = _unheld([theirs], [g for _, g in pairs])
    return _check(max(off, default=0.0), differences, name, theirs.dtype, types, unheld, nudge)


def comparable_weights(seen: OpenedPass) -> dict[nn.Module, list[nn.Parameter]]:
    """Parameters by module, of the recurrences whose chains tell all there is to tell about the gradient of theirs.

    They were walked once, the parameters are the weights themselves (and not what weights are made from, as in weight
    normalization), and nothing else reads the same ones.
    """
    walks = Counter(one.module for one in seen.recurrences)
    held = Counter(id(parameter) for module in walks for parameter in module.parameters())
    found = {}
    for module, count in walks.items():
        names = {re.sub(NUMBERED, "", name) for name, _ in module.named_parameters()}
        own = list(module.parameters())
        alone = count == 1 and is_known(module) and names <= WEIGHTS and all(held[id(p)] == 1 for p in own)
        if alone and not _read_outside(seen, own):
            found[module] = own
    return found


def _read_outside(seen: OpenedPass, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether anything but the recurrences, at which the graph is open, reads some of the parameters."""
    ends = [end for end in leaves_of(seen.raw) if isinstance(end, Tensor)]
    ends += [tensor for one in seen.recurrences for tensor in (one.x, *one.start)]
    joined = [end for end in ends if end.requires_grad and end.numel()]
    asked = [parameter for parameter in parameters if parameter.requires_grad]
    if not joined or not asked:
        return False
    return any(g is not None for g in gradients(joined, asked, [torch.ones_like(end) for end in joined]))


def number(scaled: Scaled) -> Tensor:
    """M * 2^e as plain numbers, where they can be held."""
    return torch.ldexp(scaled.m, scaled.e.clamp(-2000, 2000).to(torch.int32)[..., None])


def _check(
    output: float,
    differences: Iterable[float],
    against: str,
    own: torch.dtype,
    types: Collection[torch.dtype],
    unheld: tuple[str, ...],
    nudge: Callable[[], Steps] | None = None,
) -> EqualityCheck:
    """Judged by the coarsest of the run's own type and of those that took part inside.

    Where the two differ by more, `nudge` tells whether the recurrence makes rounding errors grow as far.
    """
    worst, kind = [output, *differences], coarsest((own, *types))
    limit = tolerance((kind,)).gradients
    passed = all(error <= limit for error in worst)
    largest = max(worst[1:], key=lambda e: math.inf if math.isnan(e) else e, default=0.0)
    step = None if passed or nudge is None else _rounding_from(nudge(), largest, limit, roundings(kind))
    inside = None if kind == own else str(kind)[6:]
    return EqualityCheck(output, largest, against, passed or step is not None, inside, unheld, step)


def _rounding_from(values: Steps, gradient: float, limit: float, times: float) -> int | None:
    """The step from which rounding, grown on its way, parts chain and torch; None where it does not explain it all.

    It explains `times` as much as a nudge of the input moves the chain by that step.

    A chain that is not the model's differs at its first steps already, where a nudge has not grown yet. The gradient
    follows the states: once these share no digit, it need not share any.
    """
    found = []
    for first, own, theirs, moved in values:
        off, response = _by_step(own, theirs), _by_step(moved, own)
        found += [(first + at, *pair) for at, pair in enumerate(zip(off.tolist(), response.tolist(), strict=True))]
    found.sort()
    grown = 0.0
    for _, off, response in found:
        grown = max(grown, times * response)
        if not off <= max(limit, grown):
            return None
    if not (gradient <= max(limit, grown) or (grown >= 1 and math.isfinite(gradient))):
        return None
    return next((step for step, off, _ in found if off > limit), found[-1][0])


def _by_step(a: Tensor, b: Tensor) -> Tensor:
    """||a_t - b_t|| / ||b_t|| of every step, over the entries in which b is finite."""
    a, b = a.detach().double().flatten(1), b.detach().double().flatten(1)
    a, b = (torch.where(b.isfinite(), value, 0.0) for value in (a, b))
    top = torch.where((size := b.abs().amax(1, keepdim=True)) > 0, size, 1.0)
    size = (b / top).norm(dim=1)
    relative: Tensor = ((a - b) / top).norm(dim=1) / torch.where(size > 0, size, 1.0)
    return relative


def _unheld(of_input: Sequence[Tensor], of_weights: Iterable[Tensor | None]) -> tuple[str, ...]:
    """Which gradients of torch's own are not finite everywhere."""
    named = (("dL/dx", of_input), ("dL/dW", [g for g in of_weights if g is not None]))
    return tuple(name for name, gradients in named if not all(bool(g.isfinite().all()) for g in gradients))


def _outputs(one: Recurrence) -> list[float]:
    """By how much the chain's outputs and last states differ from what the module saw."""
    return [_difference(own, theirs) for _, own, theirs in _values(one, one.levels)]


def _values(one: Recurrence, levels: Sequence[Sequence[Unit]]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Outputs of every unit of the last level, and last states of every call, with their first step.

    Along `levels` and as the module saw them, in the unit's own order of steps.
    """
    start = 0
    for unit in levels[-1] if one.output is not None else ():
        mine, width = unit.layer.outputs, unit.layer.outputs.shape[-1]
        assert one.output is not None
        theirs = reordered(one.output[..., start : start + width], unit.order)
        start += width
        if one.lengths is not None:
            inside = torch.arange(len(mine))[:, None] < one.lengths.cpu()[None]
            mine = torch.where(inside.to(mine.device)[..., None], mine, torch.zeros_like(mine))
        yield 1, mine, theirs
    units = [unit for level in levels for unit in level]
    step = 0
    for reading in one.readings:
        step += len(reading.x)
        for unit, end in zip(units, reading.ends, strict=True):
            states = unit.layer.states
            last = states[step] if one.lengths is None else states[one.lengths, torch.arange(states.shape[1])]
            yield step, last[None], end[None]


def _first_steps(one: Recurrence, kind: torch.dtype) -> tuple[int, Tensor, Tensor, Tensor]:
    """Outputs for the first few inputs alone, before rounding has grown; ahead of all steps.

    The upper layers of a bidirectional recurrence read what has gone through all inputs at their first step already.
    """
    x = one.x[: FEW if one.lengths is None else min(FEW, int(one.lengths.min()))].detach()
    zeros = [torch.zeros_like(state) for state in one.start]
    own, moved = (
        torch.cat([reordered(unit.layer.outputs, unit.order) for unit in one.walked(read, zeros)[-1]], -1)
        for read in (x, nudged(x, kind))
    )
    first = bool(getattr(one.module, "batch_first", False))
    with torch.no_grad():
        theirs = one.module(x.transpose(0, 1) if first else x)[0]
    return 1 - len(x), own, theirs.transpose(0, 1) if first else theirs, moved


def _of_weights(log10: Sequence[float], gradients: Sequence[Tensor]) -> float:
    """By how much the norm of dL/dW, given as log10 by layer, differs from that of torch's gradients, if these hold.

    Where torch's are not finite nothing can be compared, but NaN of one's own is wrong unless torch's is NaN too: a sum
    that carries its scale does not overflow.
    """
    own = log10_hypot(torch.tensor([-math.inf, *log10], dtype=torch.float64))
    if not all(bool(g.isfinite().all()) for g in gradients):
        return math.nan if bool(own.isnan()) and not any(bool(g.isnan().any()) for g in gradients) else 0.0
    theirs = (
        log10_hypot(torch.stack([log10_norm(g.flatten()) for g in gradients]))
        if gradients
        else own.new_tensor(-math.inf)
    )
    if bool(theirs == -math.inf):
        # torch's slopes, 1 - tanh^2, are exactly zero where gradscope's 1/cosh^2 are merely tiny.
        return float(10.0 ** own.clamp_max(300.0))
    return 0.0 if bool(own == theirs) else abs(math.expm1(min(float(own - theirs) * math.log(10), 700.0)))


def _difference(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b|| over the entries in which torch's own numbers, b, are finite; 0 where none is."""
    a, b = a.detach().double(), b.detach().double()
    held = b.isfinite()
    a, b = a[held], b[held]
    top = float(b.abs().max()) if b.numel() else 0.0
    if top == 0:
        return float(a.abs().max()) if a.numel() else 0.0
    return float(((a - b) / top).norm() / (b / top).norm())


def _of_input(a: Tensor, b: Tensor, types: Collection[torch.dtype], flat: Callable[[], bool] = lambda: False) -> float:
    """The difference of two gradients (..., features); where a quiet step is plainly wrong beside loud ones, that one.

    A norm over all steps sees the loud ones only. Rounding may cost a quiet step some digits, but not four: unless the
    slopes are `flat`, for then torch's own gradient of a quiet step is what rounding has left of louder ones.
    """
    over_all = _difference(a, b)
    limits = tolerance(types)
    a, b = a.detach().double(), b.detach().double()
    size = b.norm(dim=-1)
    held = size.isfinite() & (size > limits.quiet)

    def by_step(held: Tensor) -> float:
        if not bool(held.any()):
            return 0.0
        return float(((a[held] - b[held]) / size[held][..., None]).norm(dim=-1).max())

    worst = by_step(held)
    if worst < limits.one_step:
        return over_all
    loud = held & (size > digits_left(types) * size[size.isfinite()].max())
    return over_all if flat() and by_step(loud) < limits.one_step else worst


def saturated(layers: Iterable[Layer], types: Collection[torch.dtype]) -> bool:
    """Whether a tanh or an open gate is so near one that torch's slope of it, 1 - y^2 or y (1 - y), is mere rounding.

    The cells' own slopes are taken of what goes in and keep their digits.
    """
    limit = 1 - digits_left(types)

    def ends(layer: Layer) -> Iterator[Tensor]:
        for name, value in layer.values.items():
            if name in ("activation.tanh", "candidate") or name.startswith("gate."):
                yield value
            elif name == "cell":
                yield value.tanh()

    return any(bool((value.double().abs() > limit).any()) for layer in layers for value in ends(layer))


def digits_left(types: Collection[torch.dtype]) -> float:
    """Size beside one, of a slope or of what it lets through, at which rounding may be all that a limit allows."""
    return MARGIN * torch.finfo(coarsest(types)).eps / tolerance(types).one_step


class wanted:  # noqa: N801 - used like a function
    """Weights that want gradients, for a while."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.frozen = [w for w in weights if not w.requires_grad]

    def __enter__(self) -> None:
        for weight in self.frozen:
            weight.requires_grad_()

    def __exit__(self, *_: object) -> None:
        for weight in self.frozen:
            weight.requires_grad_(False)
