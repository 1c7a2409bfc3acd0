"""What a model costs: memory, threads, the time of a training step, and how many operations join two steps.

How many operations join the first input to the last output, counted on the autograd graph of an unrolled copy.
Path length is the shortest chain (what a gradient has to survive: O(n) for a recurrence, O(1) for attention; the
maximum path length of Vaswani et al. 2017, table 1); sequential steps are the longest (what cannot be done at once).
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from gradscope.chain import ArrayChain
from gradscope.errors import UsageError
from gradscope.memory import MARGIN, available_bytes
from gradscope.models.attention import CausalAttention
from gradscope.models.family import Model
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.trace import Unavailable
from gradscope.records import Growth
from gradscope.text import safe_text
from gradscope.torch_private import leaf_of, sources


def needed_bytes(model: Any, sequences: int, length: int) -> int:
    """Bytes that the forward and backward passes keep, from the sizes alone; spectra are bounded elsewhere."""
    if isinstance(model, ArrayChain):
        return 0
    size, features = int(getattr(model, "state_size", 0)), int(model.input_size)
    weights = sum(int(parameter.numel()) for parameter in model.parameters().values())
    if isinstance(model, WholeModule):
        # The user's module may call anything so.
        depth = next((n for n in [getattr(model.module, "depth", 1)] if isinstance(n, int)), 1)
        heads = max(
            (n for part in model.module.modules() if isinstance(n := getattr(part, "heads", 1), int)), default=1
        )
        # Kept for the backward pass: scores and weights of every head and layer, and some forty rows of each step.
        kept = 2 * depth * heads * length**2 + 40 * depth * length * max(features, 64)
        return 8 * (sequences * kept + 3 * weights)
    # States, gates and their slopes are kept for every step: about ten numbers per number of state.
    return 8 * (sequences * length * (10 * size + 2 * features) + 3 * weights)


def require_memory(model: Any, sequences: int, length: int, seeds: int = 1) -> None:
    """Refuse what does not fit. The forward passes of all seeds are kept, for the backward passes after them.

    Raises:
        UsageError: with the bytes needed, those there are, and the length that fits.
    """
    needed, there = needed_bytes(model, seeds * sequences, length), available_bytes()
    if there is None or needed <= MARGIN * there:
        return
    fits = length
    while fits > 2 and needed_bytes(model, seeds * sequences, fits) > MARGIN * there:
        fits //= 2
    have = f"about {needed / 2**30:.1f} GiB and {there / 2**30:.1f} GiB are free"
    remedy = f"--length {fits} fits, and so does a smaller --batch" + (" or fewer --seeds" if seeds > 1 else "")
    times = f"{seeds} seeds x " if seeds > 1 else ""
    raise UsageError(f"{times}{sequences} sequences of {length} steps need {have}; {remedy}")


SMALL = 256


@contextmanager
def threads_for(size: int) -> Iterator[None]:
    """One thread for states up to `SMALL` numbers, torch's own choice beyond; what was set comes back afterwards.

    A step of a small recurrence takes microseconds: handing it to several threads costs more than it gains, and on a
    busy machine their waiting for each other was seen to take a hundred times longer than the work.
    """
    before = torch.get_num_threads()
    if size <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


FEWEST, MOST = 3, 9
"""Rounds over the three lengths; as many between as the time allows."""
LONG_ENOUGH = 0.01
"""Seconds that one measurement takes at least: shorter passes are repeated within it, for the clock's sake."""
SHORTEST = 16
"""Steps the search for an affordable length starts from."""
UNDETERMINED = 0.5
"""Spread of an exponent from which on it says nothing: linear and quadratic would be told apart no more."""


def training_step_growth(
    model: Model, length: int, batch: int, *, seconds: float = 6.0, seed: int = 0
) -> dict[str, Any]:
    """Wall time of forward and backward pass at T, 2T and 4T: the best of interleaved rounds after a warm-up.

    T is `length`, or less where `seconds` for everything together would be exceeded.

    Returns:
        `length`: the three lengths used; `seconds`: the best times, which other work on the machine disturbs least;
        `exponent` and `spread`: see `growth_exponent`. A user's module that does not run at these lengths has neither
        lengths nor times, and a `reason`.
    """
    try:
        return _growth(model, max(1, length), batch, seconds, seed)
    except Exception as error:
        if not isinstance(model, WholeModule) or isinstance(model.module, CausalAttention):
            raise
        reason = f"the module does not run at other lengths: {type(error).__name__}: {safe_text(error)}"
        return {"length": [], "seconds": [], "exponent": None, "spread": None, "reason": reason}


def _growth(model: Model, length: int, batch: int, seconds: float, seed: int) -> dict[str, Any]:
    if isinstance(model, WholeModule) and model.ids is not None and model.ids.longest is not None:
        length = max(1, min(length, model.ids.longest // 4))
    begun = time.perf_counter()
    steps = _affordable(model, length, batch, seconds / 2, seed)
    lengths = [steps, 2 * steps, 4 * steps]
    inputs = [_random(model, batch, n, seed) for n in lengths]
    _step_seconds(model, inputs[0])
    repeats = [math.ceil(LONG_ENOUGH / _step_seconds(model, x)) for x in inputs]
    rounds: list[list[float]] = []
    while len(rounds) < FEWEST or (len(rounds) < MOST and time.perf_counter() - begun < seconds):
        rounds.append([_mean_seconds(model, x, count) for x, count in zip(inputs, repeats, strict=True)])
    best = [min(times) for times in zip(*rounds, strict=True)]
    exponent, spread = growth_exponent(lengths, best, rounds)
    return {"length": lengths, "seconds": best, "exponent": exponent, "spread": spread}


def _mean_seconds(model: Model, x: Tensor, count: int) -> float:
    return math.fsum(_step_seconds(model, x) for _ in range(count)) / count


def growth_exponent(
    lengths: Sequence[int], seconds: Sequence[float], rounds: Sequence[Sequence[float]] = ()
) -> tuple[float | None, float | None]:
    """The p of seconds ~ length^p, the slope over three points in log-log, and its spread.

    The spread is the larger of half the difference between the slopes of the two segments (T to 2T, 2T to 4T: work
    that is part linear, part quadratic has no one exponent) and the standard error of the slopes of single rounds.

    Returns:
        Exponent and spread; no exponent where the spread is `UNDETERMINED` or more, and neither without three
        lengths and times.
    """
    if len(set(lengths)) != 3 or not all(0 < value < math.inf for value in seconds):
        return None, None
    x, y = [math.log(n) for n in lengths], [math.log(value) for value in seconds]
    first, second = [(y[i + 1] - y[i]) / (x[i + 1] - x[i]) for i in (0, 1)]
    single = [_slope(x, [math.log(value) for value in times]) for times in rounds]
    noise = statistics.stdev(single) / math.sqrt(len(single)) if len(single) > 1 else 0.0
    spread = max(abs(second - first) / 2, noise)
    return (None if spread >= UNDETERMINED else _slope(x, y)), spread


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least squares."""
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def _affordable(model: Model, length: int, batch: int, seconds: float, seed: int) -> int:
    """The largest T of 16, 32, ... `length` whose fewest rounds are expected to fit; what is tried also warms up."""
    begun, steps = time.perf_counter(), min(length, SHORTEST)
    power = 1 if isinstance(model, Recurrent) else 2
    while steps < length:
        tried = _step_seconds(model, _random(model, batch, 4 * steps, seed))
        longer = min(2 * steps, length)
        left = seconds - (time.perf_counter() - begun)
        # 4T once to try and once to warm up, then in every round, in which T and 2T add at most 1/4 + 1/2 of 4T.
        if tried * (longer / steps) ** power * (2 + 1.75 * FEWEST) > left:
            break
        steps = longer
    return steps


def _random(model: Model, batch: int, steps: int, seed: int) -> Tensor:
    like = model.initial_states(1)[0] if isinstance(model, Recurrent) else _like(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    if isinstance(model, WholeModule) and model.ids is not None:
        return torch.randint(model.ids.size, (batch, steps), generator=generator).to(like.device)
    x = torch.randn(batch, steps, model.input_size, dtype=torch.float64, generator=generator)
    return x.to(like.device, like.dtype)


def _like(parameters: dict[str, Tensor]) -> Tensor:
    return next((p for p in parameters.values() if p.is_floating_point()), torch.empty(0))


def _step_seconds(model: Model, x: Tensor) -> float:
    """One forward and backward pass of the sum of all outputs, with respect to weights, input and s_0."""
    x = x.detach().requires_grad_(x.is_floating_point())
    weights = [p for p in model.parameters().values() if p.is_floating_point()]
    frozen = [p for p in weights if not p.requires_grad]
    collecting = gc.isenabled()
    try:
        for p in frozen:
            p.requires_grad_()
        # A collection in the middle of a pass would be charged to it.
        gc.disable()
        with torch.enable_grad():
            _wait(x)
            begun = time.perf_counter()
            leaves, y = _forward(model, x)
            torch.autograd.grad(y.sum(), [*weights, *leaves], allow_unused=True)
            _wait(x)
            return time.perf_counter() - begun
    finally:
        for p in frozen:
            p.requires_grad_(False)
        if collecting:
            gc.enable()


def _forward(model: Model, x: Tensor) -> tuple[list[Tensor], Tensor]:
    if not isinstance(model, Recurrent):
        return [x] if x.requires_grad else [], model(x)
    states = [state.detach().requires_grad_() for state in model.initial_states(x.shape[0])]
    return [x, *states], torch.stack(model.unroll(x.unbind(1), states), 1)


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    elif x.device.type == "mps":
        torch.mps.synchronize()


LONGEST_UNROLLED = 1000
"""Steps T up to which a recurrence is unrolled; longer sequences are counted at this length."""
LONGEST_DIRECT = 256
"""The same for one layer of attention, which joins every step with all before it; less, with the square root of their
number, for several, so that the graph does not grow."""


def path_growth(
    model: Model, length: int, *, longest: int = LONGEST_UNROLLED, longest_direct: int = LONGEST_DIRECT
) -> tuple[Growth, Growth]:
    """Path length and sequential steps at T and 2T, one leaf per step, without fused operations.

    Paths run from x_1 (s_0 where there is no input) to y_T; weights are no start of a path. T is `length`, or the
    limit when that is lower; `Growth.length` says which.

    Raises:
        Unavailable: y_T does not depend on x_1, or the model is a module that takes a whole sequence at once, in whose
            graph one operation serves all steps, whether or not they depend on each other.
    """
    if isinstance(model, WholeModule) and isinstance(model.module, CausalAttention):
        longest = int(longest_direct / model.module.depth**0.5)
    steps = max(1, min(length, longest))
    lengths = (steps, 2 * steps)
    with torch.enable_grad():
        found = [_count(model, steps) for steps in lengths]
    shortest, sequential = (tuple(counts) for counts in zip(*found, strict=True))
    return Growth(lengths, shortest, order(shortest)), Growth(lengths, sequential, order(sequential))


def order(count: tuple[int, ...]) -> str:
    """`O(1)` when a count is the same at T and 2T, `O(n)` when it doubles within 10 %, else `unclear`."""
    first, second = count
    if first == second:
        return "O(1)"
    return "O(n)" if abs(second / first - 2) <= 0.2 else "unclear"


def _count(model: Model, steps: int) -> tuple[int, int]:
    """Shortest and longest path at one length."""
    output, leaves = _unroll(model, steps) if isinstance(model, Recurrent) else _unroll_attention(model, steps)
    paths = None if output.grad_fn is None else _paths(output, leaves)
    if paths is None:
        raise Unavailable("the last output does not depend on the first input")
    return paths


def _unroll(model: Recurrent, steps: int) -> tuple[Tensor, list[list[Tensor]]]:
    """y_T, and the leaves: a list per step."""
    states = model.initial_states(1)
    x = _leaves(states[0], model.input_size, steps)
    if model.input_size:
        return model.unroll(x, states)[-1], [[leaf] for leaf in x]
    states = [state.detach().requires_grad_() for state in states]
    return model.unroll(x, states)[-1], [states]


def _unroll_attention(model: WholeModule, steps: int) -> tuple[Tensor, list[list[Tensor]]]:
    if not isinstance(model.module, CausalAttention):
        raise Unavailable("the module takes the whole sequence at once, so its operations cannot be told apart by step")
    if not model.input_size:
        raise Unavailable("the model has no input")
    x = _leaves(next(model.module.parameters()), model.input_size, steps)
    return model.module.unroll(x), [[leaf] for leaf in x]


def _leaves(like: Tensor, input_size: int, steps: int) -> list[Tensor]:
    blank = torch.zeros(1, input_size, dtype=like.dtype, device=like.device)
    return [blank.clone().requires_grad_() for _ in range(steps)]


def _paths(output: Tensor, leaves: list[list[Tensor]]) -> tuple[int, int] | None:
    """Shortest path from `leaves[0]`, and the longest from any leaf, to `output`; None when there is no such path.

    A node counts as one operation. `output` stays referenced while its graph is walked: nodes are told apart by
    identity, and Python gives the identity of one that nobody holds to the next.
    """
    first, any_leaf = {id(leaf) for leaf in leaves[0]}, {id(leaf) for group in leaves for leaf in group}
    shortest: dict[Node, int] = {}
    longest: dict[Node, int] = {}
    for node in _inputs_first(output):
        variable = leaf_of(node)
        if id(variable) in any_leaf:
            longest[node] = 0
        if id(variable) in first:
            shortest[node] = 0
        before = [parent for parent, _ in sources(node) if parent is not None]
        # Weights are in neither table, so nothing is counted that leads to weights alone.
        if reached := [longest[parent] for parent in before if parent in longest]:
            longest[node] = 1 + max(reached)
        if near := [shortest[parent] for parent in before if parent in shortest]:
            shortest[node] = 1 + min(near)
    root = output.grad_fn
    return (shortest[root], longest[root]) if root is not None and root in shortest else None


def _inputs_first(output: Tensor) -> list[Node]:
    """All nodes of the graph of `output`, each after those it reads; a stack of its own, as graphs are deep."""
    assert output.grad_fn is not None
    order_of: list[Node] = []
    seen: set[Node] = {output.grad_fn}
    stack = [(output.grad_fn, iter(sources(output.grad_fn)))]
    while stack:
        node, rest = stack[-1]
        for parent, _ in rest:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append((parent, iter(sources(parent))))
                break
        else:
            order_of.append(node)
            stack.pop()
    return order_of
