"""How the time of one training step grows with the length of the sequence."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.models.attention import CausalAttention
from gradscope.models.direct import Direct
from gradscope.models.family import Model
from gradscope.models.recurrent import Recurrent
from gradscope.text import safe_text

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
        if not isinstance(model, Direct) or isinstance(model.module, CausalAttention):
            raise
        reason = f"the module does not run at other lengths: {type(error).__name__}: {safe_text(error)}"
        return {"length": [], "seconds": [], "exponent": None, "spread": None, "reason": reason}


def _growth(model: Model, length: int, batch: int, seconds: float, seed: int) -> dict[str, Any]:
    if isinstance(model, Direct) and model.ids is not None and model.ids.longest is not None:
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
    if isinstance(model, Direct) and model.ids is not None:
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
