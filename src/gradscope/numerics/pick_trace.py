"""Which trace follows a user's module, torch.nn's kernels or the loops found in it, and whether it reads the future."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.forward.autograd_graph import Graph
from gradscope.forward.loop_extractor import LoopExtractor, levels
from gradscope.forward.loop_jacobians import MASKS
from gradscope.forward.step_labels import StepLabels
from gradscope.forward.time_index import TimeIndex
from gradscope.forward.traced_pass import TracedPass, trace_pass
from gradscope.models.attention import CausalAttention
from gradscope.models.fused_recurrence import OpenedPass, Recurrence
from gradscope.models.output_shape import reals
from gradscope.models.tolerances import coarsest
from gradscope.models.user_modules import alike
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.loop_trace import LoopTrace
from gradscope.numerics.module_trace import ModuleTrace
from gradscope.numerics.trace import Trace, Unavailable


def choose_module_trace(model: WholeModule, x: Tensor) -> ModuleTrace:
    """A model along x (batch, T, features), or token ids (batch, T)."""
    whole = ModuleTrace(model, x)
    if model.kind != "module" or model.closed or isinstance(model.module, torch.jit.ScriptModule):
        return whole
    several = len(whole.seen.recurrences) > 1
    masked = whole.followed and not several and _is_masked(whole.seen.recurrences[0])
    if whole.followed and not several and not masked and not loops_beside(whole.seen, model.laid_out(x)):
        return whole
    first = first_opened(model, x)
    if first is None:
        return whole
    if why := _not_opened(first):
        whole.why = "" if masked else why
        return whole
    lifted = LoopTrace(model, x, first)
    if masked and not (lifted.has_joint and lifted.size == whole.size and not lifted.sequence_passes.differ()):
        return whole
    if why := lifted.sequence_passes.differ():
        # Its gradients by input are what autograd says of the batch as it is.
        return ModuleTrace(model, x, why=why)
    if not several or not whole.followed or _joins(lifted, whole):
        return lifted
    if model.key is None and lifted.has_joint and lifted.size == whole.size and _is_one_state(lifted, whole):
        whole.stack = lifted
    whole.apart = lifted.unjoined
    return whole


def _is_masked(one: Recurrence) -> bool:
    """Whether the module multiplies the state between steps, be it by 1 at all of these: then so it does at the first.

    What is done to the first state belongs to step 1, and a recurrence in closed form begins behind it.
    """
    given = [part for reading in one.readings[1:] for part in reading.given]
    left = {id(leaf) for reading in one.readings for leaf in reading.leaves}
    graph = Graph.of(given)
    ours = [index for index, leaf in enumerate(graph.is_leaf) if leaf and id(graph.nodes[index].variable) in left]
    stack, seen = list(ours), set(ours)
    while stack:
        for user, _ in graph.users[stack.pop()]:
            if graph.names[user] in MASKS:
                return True
            if user not in seen:
                seen.add(user)
                stack.append(user)
    return False


def _joins(lifted: LoopTrace, whole: ModuleTrace) -> bool:
    """Whether what looks like several recurrences is fewer that start anew now and then."""
    recurrences = whole.seen.recurrences
    layers = {one.module: one for one in recurrences}
    fewer = len(layers) < len(recurrences) and all(one.one_way for one in recurrences)
    sizes = {0}
    for module, layer in layers.items():
        # One module may be several layers, each of which starts anew.
        own, count = sum(state.shape[-1] for state in layer.start), sum(one.module is module for one in recurrences)
        sizes = {size + own * times for size in sizes for times in range(1, count + 1)}
    return fewer and lifted.has_joint and lifted.size in sizes - {max(sizes)}


def _is_one_state(lifted: LoopTrace, whole: ModuleTrace) -> bool:
    """Whether what the loops go through is one state of all recurrences.

    Of two that walk parts of the sequence one after the other, the first one's end is a state beside the second that
    every later step hands on; where that was not found, the last step alone seems to have a state.
    """
    return lifted.begins < whole.length - 1 or all(len(one.x) == whole.length for one in whole.seen.recurrences)


def first_opened(model: WholeModule, x: Tensor) -> TracedPass | None:
    """The first sequence of x, opened; time is the second axis, or the first where only so there is a recurrence."""
    plain: Any = None
    for time_first in (False, True) if model.time_first is None else (model.time_first,):
        one = x[:1].transpose(0, 1) if time_first else x[:1]
        try:
            found = trace_pass(model, one, axis=0 if time_first else 1)
        except UsageError:
            if model.time_first is not None:
                raise
            continue
        if not found.walks:
            plain = found.recording.raw
            continue
        if model.time_first is None and time_first:
            if not model.fits(found.recording.raw, x[:1], time_first=True):
                return None
            model.turn(guessed=plain is not None and model.fits(plain, x[:1], time_first=False))
        model.time_first = time_first
        return found
    return None


def _not_opened(first: TracedPass) -> str:
    """Why a pass is not what the module does every time; empty where it is."""
    if first.recording.hooked:
        return "the module hangs hooks of its own on gradients, which are then not those of its operations"
    if not alike(first.recording.raw, first.look.raw, first.types):
        return "the module returns something else when it is run again, so it cannot be followed"
    states = (
        value for walk in first.walks if walk.steps for state in walk.states for value in state if value is not None
    )
    if any(first.graph.form(value)[1].is_complex for value in states):
        return (
            "its state is complex, and Jacobians are those of real states: its gradients by input are measured; a loop "
            "that keeps real and imaginary part as two real tensors has them"
        )
    return ""


def loops_beside(seen: OpenedPass, x: Tensor) -> bool:
    """Whether something walks along time beside the recurrences that were followed in closed form."""
    ends = [*reals(seen.raw), *(tensor for one in seen.recurrences for tensor in (one.x, *one.start))]
    graph = Graph.of(ends)
    leaf = None if seen.given is None else graph.value(seen.given)
    wholes = [place[0] for one in seen.recurrences for own in one.leaves if (place := graph.value(own)) is not None]
    picks = TimeIndex(None if leaf is None else leaf[0], 1, x.shape[1])
    labels = StepLabels(graph, None if leaf is None else leaf[0], (), picks, wholes=wholes)
    return any(LoopExtractor(graph, labels, level, lambda value: 0).walk(False) is not None for level in levels(labels))


SEEN = 32
"""Steps of the attention maps that are looked at where the output has no steps."""
NOISE = 1e4
"""Times the rounding of the type that a gradient from the future must be above: causal convolutions by FFT leave
noise there."""


def look_ahead(trace: Trace) -> str:
    """How y_t depends on x_t', t' > t, in words; empty where it does not, or where it cannot be told.

    By one backward pass from the middle step; a bidirectional recurrence reads the future whatever is made of it.
    """
    if not isinstance(trace, ModuleTrace) or isinstance(trace.model.module, CausalAttention):
        return ""
    for one in trace.seen.recurrences:
        if not one.one_way:
            return f"reads the future: {one.name} is bidirectional"
    try:
        return _by_gradient(trace)
    except Unavailable:
        return _by_attention(trace)


def _by_gradient(trace: ModuleTrace) -> str:
    """From ||d<u, y_t>/dx_t'|| for a seeded u.

    Raises:
        Unavailable: the output has no steps, or nothing to differentiate by.
    """
    output, step, steps = trace.output, max(1, trace.length // 2), trace.length
    if output.ndim != 3 or output.shape[1] != trace.length or not output.is_floating_point():
        raise Unavailable("the output has no steps")
    drawn = torch.randn(output.shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kind = coarsest((output.dtype, *(kind for kind in trace.types if kind == torch.float32)))

    def heard_by(one: int) -> list[int]:
        asked = torch.zeros_like(output)
        asked[:, one - 1] = drawn.to(output)
        logs = trace.input_gradient(trace.of_first(asked)).amax(0)
        floor = float(logs.max()) + math.log10(NOISE * torch.finfo(kind).eps)
        return [int(place) + 1 for place in (logs > floor).nonzero().flatten()]

    later = [place for place in heard_by(step) if place > step]
    if not later:
        return ""
    inputs = f"input {later[0]}" if len(later) == 1 else f"inputs {later[0]} to {later[-1]}"
    told = f"reads the future: output {step} depends on {inputs}"
    newest = max(heard_by(steps), default=steps)
    if newest == steps or max(heard_by(1), default=0) < steps:
        return told
    return f"{told}, and output {steps} on none after input {newest} (are they in reverse order?)"


def _by_attention(trace: ModuleTrace) -> str:
    if trace.model.weights is None:
        return ""
    try:
        with torch.no_grad():
            layers: list[Tensor] = trace.model.weights(trace.x[:1, :SEEN])
    except UsageError:
        return ""
    ahead = any(bool((weights.triu(1) > 0).any()) for weights in layers)
    return "reads the future: its attention looks ahead" if ahead else ""
