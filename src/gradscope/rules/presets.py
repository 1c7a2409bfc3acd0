"""Published rules of other tools, evaluated on the same run: what a look at parameter norms alone would have said."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from gradscope.records import ParameterGradient

SMDEBUG_MEAN = 1e-7
"""SageMaker Debugger, rule VanishingGradient: mean absolute gradient at and below which a tensor vanishes."""
AUTOTRAINER_FIRST, AUTOTRAINER_RATIO, AUTOTRAINER_LARGE = 1e-4, 1e-3, 70.0
"""AutoTrainer (Zhang et al. 2021): norm of the first layer's gradient, its ratio to the last's, and a large norm."""


def smdebug(gradients: Sequence[ParameterGradient]) -> str:
    """VanishingGradient and ExplodingTensor."""
    non_finite = [gradient.name for gradient in gradients if not math.isfinite(gradient.norm)]
    if non_finite:
        return f"finds ExplodingTensor in {non_finite[0]}"
    smallest = min(gradients, key=lambda gradient: gradient.mean_abs)
    if smallest.mean_abs <= SMDEBUG_MEAN:
        return f"finds VanishingGradient in {smallest.name} (mean |g| {smallest.mean_abs:.1e}, limit 1e-07)"
    return f"finds nothing (least mean |g| {smallest.mean_abs:.1e} in {smallest.name}, limit 1e-07)"


def autotrainer(gradients: Sequence[ParameterGradient]) -> str:
    """Gradient vanish and gradient explode, from the norms of the first and the last weight matrix."""
    first, last = gradients[0], gradients[-1]
    largest = max(gradient.norm for gradient in gradients)
    ratio = first.norm / last.norm if last.norm else math.inf
    if not math.isfinite(largest) or largest > AUTOTRAINER_LARGE:
        return f"finds exploding gradients (a norm of {largest:.3g}, limit 70)"
    numbers = f"first {first.norm:.1e}, ratio to the last {ratio:.1e}, limits 1e-04 and 1e-03"
    if ratio < AUTOTRAINER_RATIO and first.norm < AUTOTRAINER_FIRST:
        return f"finds vanishing gradients ({numbers})"
    return f"finds nothing ({numbers})"


PRESETS: Mapping[str, Callable[[Sequence[ParameterGradient]], str]] = {"smdebug": smdebug, "autotrainer": autotrainer}


def other_tools_say(presets: Sequence[str], gradients: Sequence[ParameterGradient] | None) -> tuple[str, ...]:
    """`smdebug, which looks at parameters alone, finds nothing (...)`, a sentence for each preset."""
    if not gradients:
        return tuple(f"{name} has no parameters to look at" for name in presets)
    return tuple(f"{name}, which looks at parameters alone, {PRESETS[name](gradients)}" for name in presets)
