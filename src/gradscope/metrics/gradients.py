"""Gradients of states, inputs and weights: their norms, the steps they come from, and what receives none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradscope.metrics.collect import Track, Tracks, numbers, over_sequences
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.influence import by_lag
from gradscope.numerics.logscale import log10_sum
from gradscope.numerics.parameter_gradients import loss_value
from gradscope.numerics.trace import Unavailable
from gradscope.records import ParameterGradient


def state_gradients(analysis: Analysis) -> Tracks:
    """log10 ||dL/ds_t||, t = 0 .. T, all layers together; None before the first full state."""
    found = over_sequences(torch.cat([adjoint.state.T for adjoint in analysis.adjoints]))
    return {"log10_grad_state": found.since(analysis.trace.begins)}


def input_gradients(analysis: Analysis) -> Tracks:
    """log10 ||dL/dx_t||, t = 1 .. T."""
    if analysis.trace.of_state:
        raise Unavailable("the model has no input")
    return {"log10_grad_input": over_sequences(analysis.input_gradient)}


def weight_gradient(analysis: Analysis) -> float:
    """||dL/dW||, the weights of the recurrence together, without embeddings and heads: what parameter monitors watch.

    log10 of the norm, of the first run's whole loss.
    """
    analysis.require_finite()
    found = analysis.adjoints[0].weight_gradient
    if found is None:
        raise Unavailable("the cell has no parameters")
    return found


def shares(logs: Tensor) -> Tensor:
    """log10 of every step's share, (T, batch), from log10 norms of the contributions."""
    total = log10_sum(logs, 0)
    return torch.where(total == -math.inf, total, logs - total)


def weight_share(analysis: Analysis) -> Tracks:
    """Weight share: each step's part in the sum of the norms of the per-step contributions to dL/dW.

    Shares of steps 1 .. T, and their log10, which does not underflow.
    """
    found = [shares(adjoint.weight).T for adjoint in analysis.adjoints if adjoint.weight is not None]
    if not found:
        raise Unavailable("the cell has no parameters")
    logs = over_sequences(torch.cat(found))
    linear = torch.pow(10.0, torch.tensor(logs.values, dtype=torch.float64))
    return {"weight_share": Track(numbers(linear)), "log10_weight_share": logs}


def parameter_gradients(analysis: Analysis) -> tuple[ParameterGradient, ...] | None:
    """Gradients by parameter, as monitors of parameters see them; measured where a preset asks.

    Mean magnitude and norm of dL/dW for each parameter, the loss averaged over sequences; None unless asked for.
    """
    run = analysis.runs[0]
    if not analysis.spec.preset or not isinstance(run.model, Recurrent | WholeModule):
        return None
    by_name, _ = analysis.by_parameter
    found = [(name, grad.double() / len(run.x)) for name, grad in by_name.items() if grad is not None]
    return tuple(ParameterGradient(name, float(g.abs().mean()), float(g.norm())) for name, g in found)


def parameter_sensitivity(analysis: Analysis) -> float:
    """How much larger the gradient of the weights is than what the newest step alone contributes to it.

    log10 of rms_b ||dl_b/dW|| / rms_b ||contribution of the newest step the loss reads||, of the first run.

    For h_t = lambda h_{t-1} + x_t with white input and a loss at the last step, its square tends to
    (1 + lambda^2) / (1 - lambda^2)^2: E (dh/dlambda)^2 = (1 + lambda^2)/(1 - lambda^2)^3 (Zucchet & Orvieto 2024) over
    E h^2 = 1/(1 - lambda^2). The sum over sequences is taken to be sqrt(B) times the root mean square of one.

    Raises:
        Unavailable: no recurrent weights.
    """
    analysis.require_finite()
    adjoint = analysis.adjoints[0]
    if adjoint.weight is None or adjoint.weight_gradient is None or not analysis.anchors:
        raise Unavailable("the recurrence has no weights of its own")
    newest = by_lag(adjoint.weight.T, analysis.newest[0], analysis.anchor)[:, 0]
    if not bool((newest > -math.inf).any()):
        raise Unavailable("the newest step contributes nothing to the gradient of the weights")
    rms = float((2 * newest * math.log(10)).logsumexp(0) - math.log(len(newest))) / 2 / math.log(10)
    return adjoint.weight_gradient - math.log10(len(newest)) / 2 - rms


MOST_SILENT = 6
"""How many are named."""


def silent(analysis: Analysis) -> tuple[str, ...]:
    """What receives no gradient at all: parameters, and features of the input.

    Names of those that the loss does not depend on, `input feature 3` among them; () where all are heard.

    Raises:
        Unavailable: the model has no loss that could be differentiated.
    """
    analysis.require_finite()
    run = analysis.runs[0]
    if isinstance(run.model, Recurrent):
        found = _features(analysis.adjoints[0].below.m.transpose(0, 1)) if run.x.shape[-1] else []
        return _named(found)
    if not isinstance(run.model, WholeModule):
        raise Unavailable("a chain of Jacobians has neither input nor parameters")
    by_name, given = analysis.by_parameter
    if not by_name and given is None:
        raise Unavailable("nothing of the model can be differentiated")
    silent = [name for name, grad in by_name.items() if is_zero(grad)]
    return _named([*([] if given is None else _features(given)), *silent])


def is_zero(gradient: Tensor | None) -> bool:
    """Whether nothing at all arrives."""
    return gradient is None or not bool((gradient != 0).any())


def _features(gradient: Tensor) -> list[str]:
    """Features of (batch, T, features) that receive nothing at any step."""
    heard = (gradient != 0).flatten(0, 1).any(0)
    return [f"input feature {place}" for place in torch.nonzero(~heard).flatten().tolist()]


def _named(found: list[str]) -> tuple[str, ...]:
    return (*found[:MOST_SILENT], f"{len(found) - MOST_SILENT} more") if len(found) > MOST_SILENT else tuple(found)


MOST_UNHEARD = 6
"""How many are tried: each costs two forward passes."""
INPUT_NAME = "the input"
ROUNDINGS = 1e3
"""Size of an answer, beside what rounding alone answers."""
SMOOTH = 0.25
"""Part by which the answers to a nudge up and down may differ: at a kink or an extremum they differ by all of it."""


def unheard(analysis: Analysis) -> tuple[str, ...]:
    """What acts on the loss and receives no gradient all the same: it lies behind a detach.

    Names of learnable parameters, `the input` among them, with dL/dp = 0 although dL follows a nudge of p.

    L(p + e) - L(p) and L(p) - L(p - e) agree to first order, so that a gradient of zero is not the loss's own.

    Raises:
        Unavailable: the model has no loss that could be differentiated.
    """
    analysis.require_finite()
    run = analysis.runs[0]
    model = run.model
    if not isinstance(model, WholeModule):
        return ()
    by_name, given = analysis.by_parameter
    weights = model.parameters()
    silent = [name for name, grad in by_name.items() if weights[name].requires_grad and is_zero(grad)]
    tried: list[tuple[str, Tensor]] = [(name, weights[name]) for name in silent[:MOST_UNHEARD]]
    x = run.x.detach().clone()
    if x.is_floating_point() and x.shape[-1] and is_zero(given):
        tried.insert(0, (INPUT_NAME, x))

    def value() -> Tensor:
        return loss_value(model, x, run.loss).detach().double()

    before = value() if tried else None
    return tuple(name for name, p in tried if before is not None and _acts(p, before, value))


def _acts(p: Tensor, before: Tensor, value: Callable[[], Tensor]) -> bool:
    """Whether the loss follows a small change of p smoothly.

    It is changed through `data`: the graphs of the pass, which are read after this, hold it at its version.
    """
    kept = p.detach().clone()
    nudge = nudge_of(kept, p.shape)

    def moved(by: float) -> Tensor:
        p.data.copy_(kept + by * nudge)
        return value() - before

    try:
        with torch.no_grad():
            up, down = moved(1), -moved(-1)
            precision = torch.finfo(p.dtype).eps
            if not agree(up, down, ROUNDINGS * precision * float(before.abs())):
                return False
            # Rounding of the whole pass, summed in the loss, is no answer: it is as large for a few roundings of p.
            few = precision ** (2 / 3)
            return agree(up, down, ROUNDINGS * max(float(moved(times * few).abs()) for times in (1, 2, 3, -1, -2, -3)))
    finally:
        p.data.copy_(kept)


def nudge_of(values: Tensor, shape: Sequence[int]) -> Tensor:
    """A seeded change by the cube root of the rounding error of numbers like these."""
    drawn = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(values)
    size = float(values.square().mean().sqrt()) or 1.0
    return drawn.mul(torch.finfo(values.dtype).eps ** (1 / 3) * size)


def agree(up: Tensor, down: Tensor, noise: float) -> bool:
    """Whether f(p + e) - f(p) and f(p) - f(p - e) are alike, and more than noise."""
    size = max(float(up.norm()), float(down.norm()))
    return size > noise and float((up - down).norm()) < SMOOTH * size
