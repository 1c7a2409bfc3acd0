"""A report of gradscope held against the truth: every difference in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import gradscope
from benchmarks.oracle.modules import VOCABULARY, Recipe, Written
from benchmarks.oracle.truth import Truth, geometric_mean
from gradscope.records import ModelResult

NEAR = 1e-7
"""Largest difference of a number, relative to its size or 1."""
NEAR_SINGLE = 2e-4
"""The same where a part of the module computes in float32."""
RESOLVED = math.log(1e8)
"""Singular values that are smaller than the largest by more than this (ln) are not compared."""
LN10 = math.log(10)


def differences(recipe: Recipe) -> list[str]:
    """What gradscope says of a module that is not so; [] for nothing."""
    torch.manual_seed(recipe.seed + 1)
    module = Written(recipe)
    x = torch.randn(recipe.batch, recipe.steps, recipe.features, dtype=torch.float64)
    given = x
    if recipe.ids:
        given = torch.randint(VOCABULARY, (recipe.batch, recipe.steps))
        x = module.table(given).detach()
    v = cotangent(module, x)
    settings: dict[str, Any] = {"layout": "time-first"} if recipe.output == "time first" else {}
    report = gradscope.analyze(module, given, lambda raw: loss(recipe, v, raw), needs_lag=recipe.needs_lag, **settings)
    result, truth = report.models[0], Truth(module, x, v)
    if recipe.extra == "both" and recipe.output in ("steps", "pair", "named", "time first"):
        return list(_of_both(result, truth))
    return list(_of_constant(result) if truth.is_constant else _compare(result, truth))


def cotangent(module: Written, x: Tensor) -> Tensor:
    """V (batch, T, outputs), zero where the loss reads nothing."""
    recipe, width = module.recipe, module.read(module.first_state(x), x[:, 0]).shape[-1]
    v = torch.randn(recipe.batch, recipe.steps, width, dtype=torch.float64)
    if recipe.output == "scalar":
        v = torch.ones_like(v)
    if recipe.reads != "every":
        kept = torch.zeros_like(v)
        kept[:, recipe.anchor - 1] = v[:, recipe.anchor - 1]
        v = kept
    if recipe.sequence is not None:
        v[[b for b in range(len(v)) if b != recipe.sequence]] = 0.0
    return v


def loss(recipe: Recipe, v: Tensor, raw: Any) -> Tensor:
    """Sum <v, y> of whatever the module returned."""
    y = pytree.tree_leaves(raw)[0]
    if recipe.output == "time first":
        y = y.transpose(0, 1)
    if recipe.output == "scalar":
        return y
    if recipe.output in ("last", "value"):
        return (y.reshape(len(v), -1) * v[:, -1]).sum()
    return (y * v).sum()


def _of_constant(result: ModelResult) -> Iterator[str]:
    """What must be said where the gradient is exactly zero, and torch's own nothing but rounding."""
    said, influence = result.skipped.get("zero_lags", ""), result.series.values.get("log10_influence", (0.0,))
    if not (result.status == "inconclusive" and "rounding" in said) and max(influence) > -math.inf:
        yield f"a constant loss: {result.status}, {said}, {_short(influence)}"
    if (found := next(verdict for verdict in result.verdicts if verdict.code == "GS405")).status == "fail":
        yield f"a constant loss: {found.message}"


def _of_both(result: ModelResult, truth: Truth) -> Iterator[str]:
    """What must be said of a module that reads its input from both ends: no lags, and the gradients all the same."""
    said = result.skipped.get("reach", "no reason")
    if result.summary.reach is not None or "reads the future" not in said:
        yield f"reads both ways: {result.summary.reach}, {said}"
    own, true = result.series.values.get("log10_grad_input"), geometric_mean(truth.gradients[1]) / LN10
    if own is None or not _same(own, true, NEAR):
        yield f"log10_grad_input: {_short(own or ())}; it is {_short(true)}"


def _compare(result: ModelResult, truth: Truth) -> Iterator[str]:
    recipe, summary, skipped = truth.recipe, result.summary, result.skipped
    near = NEAR_SINGLE if recipe.single_gate else NEAR

    def held(name: str, own: Any, true: Any, *, far: float = near) -> Iterator[str]:
        if own is None and true is not None:
            yield f"{name}: not measured ({skipped.get(name, 'no reason')}); it is {true}"
        elif own is not None and true is None:
            yield f"{name}: {own}; there is none"
        elif own is not None and not _same(own, true, far):
            yield f"{name}: {_short(own)}; it is {_short(true)}"

    yield from held("rate", summary.rate, truth.rate)
    yield from held("rate_ci", summary.rate_ci, truth.interval)
    for name in ("reach", "coverage", "temporal_range", "zero_lags"):
        yield from held(name, getattr(summary, name), getattr(truth, name))
    yield from held("gradient_share", summary.gradient_share, truth.share)
    yield from held("needed_lag", summary.needed_lag, truth.needed_lag)
    by_state, by_input = truth.gradients
    series = result.series.values
    yield from held("log10_influence", series.get("log10_influence"), truth.profile / LN10)
    yield from held("log10_grad_input", series.get("log10_grad_input"), geometric_mean(by_input) / LN10)
    check = result.loaded.equality_check
    if check is None or not check.passed:
        yield f"equality check: {check}"
    if not recipe.extra:
        yield from _of_state(result, truth, held, by_state)
    if summary.rate is not None and summary.rate > 0 and result.status == "vanishing":
        yield f"vanishing, at a rate of {summary.rate}"
    if recipe.extra:
        return
    yield from held("made_anew", summary.made_anew or (), truth.made_anew)
    yield from held("cut", summary.cut or 0, truth.cut)
    if recipe.own_mask and recipe.detach:
        return
    stops = truth.stop > truth.anchor - truth.needed_lag
    found = next(verdict.status for verdict in result.verdicts if verdict.code == "GS401")
    if (found == "fail") != stops or (stops and result.status in ("healthy", "inconclusive")):
        yield f"GS401: {found}, {result.status}; made anew at {truth.made_anew}, cut at {truth.cut}"


def _of_state(result: ModelResult, truth: Truth, held: Any, by_state: np.ndarray) -> Iterator[str]:
    """The numbers of the chain."""
    recipe, summary, series = truth.recipe, result.summary, result.series.values
    yield from held("size", result.size, recipe.size)
    first = min(_begun(series.get("log10_jacobian_norm")), _first_full(recipe))
    norms = [float(np.linalg.svd(j)[1][0]) for j in truth.jacobians]
    own = _from(series.get("log10_jacobian_norm"), first - 1)
    yield from held("log10_jacobian_norm", own, _logs(norms[first - 1 :]))
    if recipe.anchor == recipe.steps:
        own = _from(series.get("log10_product_norm"), first)
        yield from held("log10_product_norm", own, _logs(truth.product_norms[first:]))
        yield from held(
            "log10_grad_state", _from(series.get("log10_grad_state"), first), geometric_mean(by_state)[first:] / LN10
        )
    if recipe.anchor - truth.needed_lag >= first - 1:
        yield from held("directions", summary.directions, truth.directions)
    if truth.product_norms[first - 1] > 0 and recipe.anchor == recipe.steps:
        yield from _exponents(result, truth, held, first)
    if summary.chain_rule_residual is not None and summary.chain_rule_residual > (1e-3 if recipe.single_gate else 1e-9):
        yield f"chain_rule_residual: {summary.chain_rule_residual}"


def _exponents(result: ModelResult, truth: Truth, held: Any, first: int) -> Iterator[str]:
    """Those of the steps from `first` on."""
    sigma = np.linalg.svd(truth.product(first - 1, truth.length))[1]
    kept = int((np.log(np.maximum(sigma, 1e-300)) > math.log(sigma[0]) - RESOLVED).sum())
    own = result.summary.finite_time_exponents
    yield from held(
        "finite_time_exponents", own and own[:kept], np.log(sigma[:kept]) / (truth.length - first + 1), far=1e-6
    )
    if kept == len(sigma):
        yield from held("lyapunov", result.summary.lyapunov, _exponents_in_some_order(result, truth, first), far=1e-6)


def _exponents_in_some_order(result: ModelResult, truth: Truth, first: int) -> np.ndarray:
    """Lyapunov exponents by QR: over few steps they depend on the order of the state's parts, which is free."""
    own, plain = result.summary.lyapunov, truth.exponents(first)
    if own is None or _same(own, plain, 1e-6):
        return plain
    others = (truth.exponents(first, order) for order in permutations(range(truth.recipe.layers * truth.recipe.parts)))
    return next((other for other in others if _same(own, other, 1e-6)), plain)


def _begun(values: Sequence[Any] | None) -> int:
    """The first step whose Jacobian is told."""
    return next((t for t, value in enumerate(values or (), 1) if value is not None), 1)


def _first_full(recipe: Recipe) -> int:
    """The first step whose Jacobian must be told: that of the first full state."""
    if recipe.delay:
        return recipe.delay + 1
    return 2 if recipe.begin == "number" or (recipe.begin == "shared" and recipe.layers * recipe.parts > 1) else 1


def _from(values: Sequence[Any] | None, start: int) -> Sequence[Any] | None:
    return None if values is None else values[start:]


def _logs(values: Sequence[float]) -> list[float]:
    return [math.log10(value) if value > 0 else -math.inf for value in values]


def _same(own: Any, true: Any, near: float) -> bool:
    if np.ndim(own) == 0 and np.ndim(true) == 0:
        return _near(own, true, near)
    return len(own) == len(true) and all(_near(a, b, near) for a, b in zip(own, true, strict=True))


def _near(own: Any, true: Any, near: float) -> bool:
    if own is None:
        return False
    if not math.isfinite(true):
        return bool(own == true) or (true == -math.inf and own < -14)
    if own == -math.inf:
        return bool(true < -14)
    return abs(own - true) <= near * max(1.0, abs(true))


def _short(value: Any) -> str:
    if np.ndim(value) == 0:
        return f"{value:.9g}" if isinstance(value, float) else str(value)
    return "[" + ", ".join("none" if v is None else f"{v:.6g}" for v in value) + "]"
