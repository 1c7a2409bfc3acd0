"""Singular values, exponents and norms of the state's Jacobians and of their products."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from gradscope.metrics.collect import Track, Tracks, mean_interval, numbers
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.lyapunov import STRETCHES
from gradscope.numerics.trace import Unavailable
from gradscope.profile import Profile
from gradscope.records import Values


def jacobian_norm(analysis: Analysis) -> Tracks:
    """Norms of the single Jacobians.

    log10 ||J_t||, t = 1 .. T; None up to the first full state.
    """
    norms = numbers(analysis.jacobian_sigma[:, 0] / math.log(10))
    return {"log10_jacobian_norm": Track((*[None] * analysis.chain.begins, *norms))}


def product_norm(analysis: Analysis) -> Tracks:
    """log10 of the largest singular value of P_0 .. P_a; at log-spaced lags only for large states.

    None before the first full state.
    """
    if analysis.full:
        lags = reversed(range(analysis.past.length + 1))
        every = zip(lags, analysis.products.log10_norm.tolist(), strict=True)
        return {"log10_product_norm": Track(_by_step(analysis, every))}
    leading = analysis.leading
    found = zip(leading.lag, (leading.ln_sigma[:, 0] / math.log(10)).tolist(), strict=True)
    return {"log10_product_norm": Track(_by_step(analysis, found))}


def product_min(analysis: Analysis) -> Tracks:
    """log10 of the smallest singular value of P_0 .. P_a at log-spaced lags; None elsewhere and where unresolved."""
    spectra = zip(*analysis.spectra, strict=True)
    found = ((lag, float(one.ln_sigma[-1]) / math.log(10)) for lag, one in spectra if bool(one.resolved[-1]))
    return {"log10_product_min": Track(_by_step(analysis, found))}


def _by_step(analysis: Analysis, by_lag: Iterable[tuple[int, float]]) -> Values:
    """Values of some lags at steps 0 .. T; P_a is the identity, and there is no product after the anchor."""
    past, found = analysis.past, dict[int, float]()
    profile = Profile(past.begins + past.length)
    for lag, value in ((0, 0.0), *by_lag):
        found[profile.step_of(lag)] = value
    return tuple(found.get(step) for step in range(analysis.length + 1))


def directions(analysis: Analysis) -> int:
    """Directions: singular values of the product over the needed lag that are at least 1 % of the largest.

    How many directions of the state survive the needed lag; 0 where the product is exactly zero.
    """
    if analysis.needed_lag > analysis.past.length:
        analysis.require_lag()
    if analysis.full:
        found = analysis.products.directions
        assert found is not None
        return found
    leading = analysis.leading
    ln = leading.ln_sigma[leading.lag.index(min(analysis.needed_lag, analysis.past.length))]
    if float(ln[0]) == -math.inf:
        return 0
    kept = int((ln >= ln[0] + math.log(0.01)).sum())
    if kept == len(ln) < analysis.chain.size:
        raise Unavailable(f"at least {kept} directions survive, and only the leading {kept} are measured")
    return kept


def condition(analysis: Analysis) -> float:
    """Condition: log10 sigma_1 / sigma_n of the product up to the anchor; never judged: healthy LSTMs have 10^200.

    log10 of the condition number; inf for a singular product.
    """
    spectrum = analysis.spectra[1][-1]
    if float(spectrum.ln_sigma[0]) == -math.inf:
        raise Unavailable("the product of the Jacobians is exactly zero")
    if not bool(spectrum.resolved[-1]) and float(spectrum.ln_sigma[-1]) > -math.inf:
        raise Unavailable("the smallest singular value is below what double precision determines")
    return float(spectrum.ln_sigma[0] - spectrum.ln_sigma[-1]) / math.log(10)


def lyapunov_exponents(analysis: Analysis) -> Values:
    """Lyapunov exponents of the trajectory, nats per step, by QR (Benettin et al. 1980).

    Exponents, largest first; all of them, or the leading ones of a large state. None where rounding decides.
    """
    found = analysis.exponents
    pairs = zip(found.mean.tolist(), found.resolved[found.order].tolist(), strict=True)
    return tuple(float(value) if resolved or value == -math.inf else None for value, resolved in pairs)


def lyapunov_interval(analysis: Analysis) -> tuple[float, float]:
    """95 % t-interval of the leading exponent from the means of ten successive stretches of the trajectory."""
    exponents = analysis.exponents
    leading = exponents.log_growth[:, int(exponents.order[0])]
    if len(leading) < 2 * STRETCHES:
        raise Unavailable(f"{len(leading)} steps are too few for an interval; it takes {2 * STRETCHES}")
    if not bool(leading.isfinite().all()):
        raise Unavailable("the leading direction is lost on the way, so there is no interval")
    found = mean_interval([float(block.mean()) for block in torch.tensor_split(leading, STRETCHES)])
    assert found is not None
    return found


def finite_time_exponents(analysis: Analysis) -> Values:
    """Finite-time exponents ln sigma_i(P_0) / a, a the anchor: the growth that the steps up to it really had.

    In nats per step, largest first; all of them, or the leading ones of a large state. None where unresolved.
    """
    if analysis.full:
        spectrum = analysis.spectra[1][-1]
        pairs = zip(numbers(spectrum.ln_sigma / analysis.past.length), spectrum.resolved.tolist(), strict=True)
        return tuple(value if resolved or value == -math.inf else None for value, resolved in pairs)
    return numbers(analysis.leading.ln_sigma[-1] / analysis.past.length)


def rank_lost_at(analysis: Analysis) -> int | None:
    """Rank loss: the first step whose Jacobian kills a direction of the state.

    Step t of the first singular J_t up to the anchor; None where all are regular in double precision.
    """
    analysis.require_full()
    lost = analysis.exponents.rank_lost_at
    return None if lost is None else analysis.chain.begins + lost


def chain_rule_residual(analysis: Analysis) -> float:
    """The chain rule held against torch, as a number; a chain that does not keep it has none, and no other either.

    ||dL/ds_0 - P_0^T dL/ds_T|| / ||dL/ds_0||, s_0 being the first full state.
    """
    analysis.chain  # noqa: B018 - one that does not keep the rule raises
    return analysis.chain_rule_residual
