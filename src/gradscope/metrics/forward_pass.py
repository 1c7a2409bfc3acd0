"""What the forward pass shows: gates, saturation, size of outputs, numbers carried, cuts, and sequences that mix."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from gradscope.chain import ArrayChain
from gradscope.metrics.collect import Track, Tracks, numbers
from gradscope.metrics.gradients import agree, nudge_of
from gradscope.models.cell import Layer
from gradscope.models.fused_call import gradients
from gradscope.models.fused_recurrence import reordered, run_opened
from gradscope.models.input_leaf import run_moved
from gradscope.models.stack import Recurrent
from gradscope.models.user_step import CustomCell
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.module_trace import ModuleTrace
from gradscope.numerics.trace import Unavailable


def gates(analysis: Analysis) -> Tracks:
    """Gates over time: the mean of every gate over units, sequences and layers; of a state that was found, its parts.

    `gate.<name>.mean`, and `state.<name>.rms` of a state found in a module; steps 1 .. T, of the first run.

    Layers that take other steps than the sequence has (a part of it, or the batch) have no place on this axis.
    """
    pairs = zip((layer for _, layer in analysis.trace.layers), analysis.trace.orders, strict=True)
    return gate_means([(layer, order) for layer, order in pairs if layer.states.shape[0] == analysis.length + 1])


def gate_means(layers: list[tuple[Layer, Tensor | None]]) -> Tracks:
    """Mean of every gate that the layers have, over those that have it.

    Args:
        layers: of one length, each with the own step (T, batch) at which it reads every input; None for the same.
    """
    found: dict[str, list[Tensor]] = {}
    for layer, order in layers:
        for name, value in layer.values.items():
            if name.startswith("gate."):
                found.setdefault(name, []).append(reordered(value, order).double().mean((1, 2)))
    gates = {f"{name}.mean": Track(numbers(torch.stack(values).mean(0))) for name, values in found.items()}
    return gates | _states([layer for layer, _ in layers])


def _states(layers: list[Layer]) -> Tracks:
    """Root mean square of every named part of a state, over units and sequences; NaN where a step has no value."""
    found: Tracks = {}
    for layer in layers:
        for name, value in layer.values.items():
            if name.startswith("state."):
                found.setdefault(f"{name}.rms", Track(numbers(value.double().square().mean((1, 2)).sqrt())))
    return found


def pace(analysis: Analysis) -> float:
    """Steps that the recurrence takes for one step of the input: 1, also where there is none.

    A convolution with a stride, or joined frames, give a layer fewer steps than the sequence has. Steps of the input
    that are not read at all (a window of the newest ones is) do not count.

    Raises:
        Unavailable: it takes other steps, and no gradient says which of the input it reads.
    """
    if isinstance(analysis.model, ArrayChain):
        return 1.0
    taken = max((layer.states.shape[0] - 1 for _, layer in analysis.trace.layers), default=analysis.length)
    if taken == analysis.length:
        return 1.0
    heard = (analysis.profile > -math.inf).nonzero().flatten()
    if not len(heard):
        raise Unavailable("no step of the input has any influence")
    return taken / (analysis.length - analysis.anchor + int(heard[-1]) + 1)


_BIAS = re.compile(r"(.*?)bias_ih(_l\d+)?")


def gate_bias(analysis: Analysis) -> tuple[float, ...]:
    """Mean bias of the gate that keeps the old state, by layer.

    Mean of b_ih + b_hh of the forget gate (LSTM) or update gate (GRU) of every one-way layer, bottom first.
    """
    if isinstance(analysis.model, ArrayChain):
        return ()
    weights, found = analysis.model.parameters(), []
    layers = _of_torch(analysis.model) if isinstance(analysis.model, WholeModule) else None
    for name in weights:
        known = _BIAS.fullmatch(name)
        if known is None or (layers is not None and known.group(1).rstrip(".") not in layers):
            continue
        before, after = known.group(1), known.group(2) or ""
        recurrent, other = (weights.get(f"{before}{part}{after}") for part in ("weight_hh", "bias_hh"))
        if recurrent is None or other is None:
            continue
        if recurrent.shape[0] not in (3 * recurrent.shape[1], 4 * recurrent.shape[1]):
            continue
        hidden = recurrent.shape[1]
        found.append(float((weights[name] + other)[hidden : 2 * hidden].detach().mean()))
    return tuple(found)


def _of_torch(model: WholeModule) -> set[str]:
    """Names of the layers whose gates lie in the order of torch.nn; those of other cells lie as their authors like."""
    kinds = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell)
    return {name for name, part in model.module.named_modules() if isinstance(part, kinds)}


EDGE = 0.99


def saturation(analysis: Analysis) -> dict[str, float]:
    """Saturation: the share of (unit, step) pairs whose activation or gate sits at an end of its range.

    By name: `activation` (|tanh| > 0.99), `activation.dead` (relu units that are zero at every step), and for every
    gate `gate.<name>.open` (> 0.99) and `gate.<name>.closed` (< 0.01). All layers and sequences of the first run.
    """
    analysis.require_finite()
    found: dict[str, list[Tensor]] = {}
    for _, layer in analysis.trace.layers:
        for name, value in layer.values.items():
            for kind, flags in _flags(name, value):
                found.setdefault(kind, []).append(flags.double().flatten())
    return {kind: float(torch.cat(flags).mean()) for kind, flags in found.items()}


def _flags(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    if name == "activation.tanh":
        yield "activation", value.abs() > EDGE
    elif name == "activation.relu":
        yield "activation.dead", (value == 0).flatten(0, 1).all(0)
    elif name.startswith("gate."):
        yield f"{name}.open", value > EDGE
        yield f"{name}.closed", value < 1 - EDGE


def output_scale(analysis: Analysis) -> float:
    """How large the outputs that the loss reads are.

    Root mean square of the output at each sequence's newest anchor, over features and those read in the first run.

    Raises:
        Unavailable: the output has no steps, or the loss reads none.
    """
    analysis.require_finite()
    output = analysis.trace.output
    if output.ndim != 3 or not analysis.anchors or analysis.anchor > output.shape[1]:
        raise Unavailable("the output that the loss reads has no steps")
    ends = analysis.newest[0]
    if ends is None:
        read = output[:, analysis.anchor - 1]
    else:
        read = output[torch.arange(len(output), device=output.device), ends - 1][ends > 0]
    # What a mask has set to -inf is read by no loss.
    return float(torch.sqrt(read[read.isfinite()].double().square().mean()))


def carried_floats(analysis: Analysis) -> int:
    """Carried floats: how many numbers a model takes from one step to the next.

    The state of a recurrence: the same at any length. For attention, keys and values of every step so far.
    """
    model = analysis.model
    if not isinstance(model, WholeModule):
        return analysis.trace.size
    analysis.require_causal()
    if (found := analysis.trace.carried) is not None:
        return found
    kept = None if model.carried is None else model.carried(analysis.length)
    if kept is not None:
        return kept
    if model.kind == "attention" and model.weights is not None:
        layers = model.weights(analysis.runs[0].x[:1, :2])
        return math.prod((2, len(layers), analysis.trace.size, analysis.length))
    raise Unavailable("what this module keeps between steps is not known")


def cut(analysis: Analysis) -> int | None:
    """The newest such step up to the anchor: what comes after it is on nobody's way."""
    analysis.require_full()
    return max((step for step in analysis.trace.cut_steps(analysis.spec.item) if step <= analysis.anchor), default=None)


def made_anew(analysis: Analysis) -> tuple[int, ...] | None:
    """Steps up to the anchor that take nothing over from the state before; None where operations do not tell."""
    found = _anew(analysis)
    return None if found is None else tuple(step for step in found if step <= analysis.anchor)


def zeroed(analysis: Analysis) -> tuple[int, ...] | None:
    """Those of them at which the state before is multiplied by exactly zero."""
    found = _anew(analysis) or {}
    return tuple(step for step, masked in found.items() if masked and step <= analysis.anchor) or None


def anew_by(analysis: Analysis) -> int | None:
    """The newest step at or after which every sequence that is read has begun anew, each at steps of its own."""
    newest: list[int] = []
    ends, heard = analysis.newest[0], (analysis.influence[: len(analysis.runs[0].x)] > -math.inf).any(1)
    for item in heard.nonzero().flatten().tolist():
        steps = [step for step in _anew(analysis, item) or {} if step <= analysis.anchor]
        if not steps or (ends is not None and int(ends[item]) != analysis.anchor):
            return None
        newest.append(max(steps))
    return min(newest, default=None)


def _anew(analysis: Analysis, item: int | None = None) -> Mapping[int, bool] | None:
    analysis.require_full()
    return analysis.trace.anew_steps(analysis.spec.item if item is None else item)


def input_cut(analysis: Analysis) -> int | None:
    """The newest step up to which no input receives a gradient, though the output at the anchor follows them.

    It is moved alike by a small nudge up and one down. What is not read at all, or by units that are dead, moves
    nothing; what is merely asked whether it is there (padding, a threshold) makes the output jump, both times alike.
    None where newer inputs receive none either: then the input is unheard as a whole.
    """
    run = analysis.runs[0]
    if isinstance(run.model, ArrayChain) or not run.x.shape[-1]:
        return None
    analysis.require_finite()
    heard = (analysis.influence > -math.inf).any(0).nonzero().flatten().tolist()
    lags, anchor = analysis.influence.shape[1], analysis.anchor
    if not heard or heard[-1] == lags - 1:
        return None
    unheard = anchor - heard[-1] - 1
    read = (analysis.influence[: len(run.x)] > -math.inf).any(1).to(run.x.device)
    with torch.no_grad():
        low, before, high = (_moved(run.model, run.x, unheard, sign, anchor) for sign in (-1, 0, 1))
    if before.ndim and len(before) == len(read):
        # What becomes of sequences that the loss does not read is no gradient that is missing.
        low, before, high = (one[read] for one in (low, before, high))
    noise = 8 * torch.finfo(before.dtype).eps * float(before.abs().max())
    return unheard if agree(high - before, before - low, noise) else None


def _moved(model: Recurrent | WholeModule, x: Tensor, steps: int, sign: int, anchor: int) -> Tensor:
    """The output with the first steps of its input nudged, or of what its embeddings make of ids, as far as finite."""

    def nudge_first(leaf: Tensor, weight: Tensor) -> Tensor:
        leaf[:, :steps] = sign * nudge_of(weight, leaf[:, :steps].shape)
        return leaf

    if isinstance(model, Recurrent) or x.is_floating_point():
        moved = x.clone()
        older = moved[:, :steps]
        # Zeros may be what is taken for padding; where there is nothing else, they are all there is to move.
        older += sign * nudge_of(x, older.shape) * ((older != 0) | ~(older != 0).any())
        output = model(moved)
    else:
        output = model.output(run_moved(model, x, nudge_first), x)
    if output.ndim == 3 and output.shape[1] >= anchor:
        # Earlier outputs hear of their own inputs, whatever becomes of the one that the anchor is about.
        output = output[:, anchor - 1]
    return output.nan_to_num(0, 0, 0)


NOISE = 1e3
"""Times the rounding of the type that a gradient from another sequence must be above, relative to its own."""


def mixed(analysis: Analysis) -> tuple[int, int] | None:
    """Do sequences of a batch influence each other?

    (source, target), from 1: the output of sequence `target` depends on the input of sequence `source`.

    None where none does; families and chains of Jacobians keep their sequences apart by the way they are made. A cell
    of the user's is asked at its middle step.

    Raises:
        Unavailable: a module with a single sequence, or with outputs that have no sequences.
    """
    model, x = analysis.model, analysis.runs[0].x
    if isinstance(model, Recurrent) and isinstance(model.cells[0], CustomCell):
        return _in_step(model.cells[0], analysis)
    if not isinstance(model, WholeModule) or model.kind != "module":
        return None
    if len(x) < 2:
        raise Unavailable("there is a single sequence")
    analysis.require_finite()
    seen = run_opened(model, x, search=False)
    output = model.output(seen.raw, x)
    if seen.given is None or not output.requires_grad or output.shape[:1] != x.shape[:1]:
        raise Unavailable("the first output has no sequences that could be told apart")
    target = len(x) - 1
    drawn = torch.randn(output[target].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    asked = torch.zeros_like(output)
    asked[target] = drawn.to(output)
    (found,) = gradients([output], [seen.given], [asked])
    return None if found is None else _pair(model.laid_out(found), target)


def axes_guessed(analysis: Analysis) -> bool | None:
    """Whether batch and time could be taken for each other and nobody said which is which; None of families."""
    model, trace = analysis.model, analysis.trace
    if not isinstance(model, WholeModule) or not isinstance(trace, ModuleTrace):
        return None
    return model.guessed or (not model.stated and bool(trace.output_shape and model.ambiguous))


def _in_step(cell: CustomCell, analysis: Analysis) -> tuple[int, int] | None:
    """The same of a single step of a cell, by what its new state does with the old ones."""
    x, target = analysis.runs[0].x, len(analysis.runs[0].x) - 1
    analysis.require_finite()
    if target < 1:
        return None
    (_, layer), *_ = analysis.trace.layers
    middle = (analysis.length - 1) // 2
    s = layer.states[middle].detach().requires_grad_()
    with torch.enable_grad():
        new = cell.step(x[:, middle], s)
        drawn = torch.randn(new[target].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        joined = (new[target] * drawn.to(new)).sum()
        found = torch.autograd.grad(joined, s, allow_unused=True)[0] if joined.requires_grad else None
    return None if found is None else _pair(found, target)


def _pair(gradient: Tensor, target: int) -> tuple[int, int] | None:
    """The sequence that receives most of what it should not."""
    norms = gradient.double().flatten(1).norm(dim=1)
    others = norms.clone()
    others[target] = 0
    floor = NOISE * torch.finfo(gradient.dtype).eps * float(norms.max())
    source = int(others.argmax())
    return (source + 1, target + 1) if float(others[source]) > floor else None
