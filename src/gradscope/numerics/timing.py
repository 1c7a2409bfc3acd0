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

ROUNDS = 3
SHORTEST = 16
"""Steps the search for an affordable length starts from."""
AGREEMENT = 0.25
"""How far the slopes between T and 2T and between 2T and 4T may differ for an exponent to be stated."""


def training_step_growth(
    model: Model, length: int, batch: int, *, seconds: float = 10.0, seed: int = 0
) -> dict[str, Any]:
    """Wall time of forward and backward pass at T, 2T and 4T: the median of interleaved rounds after a warm-up.

    T is `length`, or less where `seconds` for everything together would be exceeded.

    Returns:
        `length`: the three lengths used; `seconds`: the median times; `exponent`: see `growth_exponent`. A user's
        module that does not run at these lengths has neither lengths nor times, and a `reason`.
    """
    try:
        return _growth(model, max(1, length), batch, seconds, seed)
    except Exception as error:
        if not isinstance(model, Direct) or isinstance(model.module, CausalAttention):
            raise
        reason = f"the module does not run at other lengths: {type(error).__name__}: {safe_text(error)}"
        return {"length": [], "seconds": [], "exponent": None, "reason": reason}


def _growth(model: Model, length: int, batch: int, seconds: float, seed: int) -> dict[str, Any]:
    if isinstance(model, Direct) and model.ids is not None and model.ids.longest is not None:
        length = max(1, min(length, model.ids.longest // 4))
    steps = _affordable(model, length, batch, seconds, seed)
    lengths = [steps, 2 * steps, 4 * steps]
    inputs = [_random(model, batch, n, seed) for n in lengths]
    rounds = [[_step_seconds(model, x) for x in inputs] for _ in range(ROUNDS)]
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    return {"length": lengths, "seconds": medians, "exponent": growth_exponent(lengths, medians)}


def growth_exponent(lengths: Sequence[int], seconds: Sequence[float]) -> float | None:
    """The p of seconds ~ length^p, the slope over three points in log-log; None where they determine none.

    Three points determine it when the slopes of their two segments agree within `AGREEMENT`.
    """
    if len(set(lengths)) != 3 or not all(0 < value < math.inf for value in seconds):
        return None
    x, y = [math.log(n) for n in lengths], [math.log(value) for value in seconds]
    slopes = [(y[i + 1] - y[i]) / (x[i + 1] - x[i]) for i in (0, 1)]
    if abs(slopes[1] - slopes[0]) > AGREEMENT:
        return None
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def _affordable(model: Model, length: int, batch: int, seconds: float, seed: int) -> int:
    """The largest T of 16, 32, ... `length` whose rounds are expected to fit; what is tried also warms up."""
    begun, steps = time.perf_counter(), min(length, SHORTEST)
    growth = 2 if isinstance(model, Recurrent) else 4
    while True:
        tried = _step_seconds(model, _random(model, batch, 4 * steps, seed))
        left = seconds - (time.perf_counter() - begun)
        # Twice the length takes `growth` times as long, once to try and then in every round, in which T and 2T add
        # at most 1/4 + 1/2 of 4T.
        if steps == length or growth * tried * (1 + 1.75 * ROUNDS) > left:
            return steps
        steps = min(2 * steps, length)


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
