"""Does a model read the future? Then no lag is the farthest that it can learn from, and reach means nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.models.agreement import coarsest
from gradscope.models.attention import CausalAttention
from gradscope.numerics.traces.module import ModuleTrace
from gradscope.numerics.traces.trace import Trace, Unavailable

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
