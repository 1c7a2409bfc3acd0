"""Influence by lag, and the numbers read off it: rate, reach, coverage, share, lags without a number."""

from __future__ import annotations

import math
from statistics import stdev

import torch
from torch import Tensor

from gradscope.metrics.collect import Tracks, mean_interval, numbers, over_sequences
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.influence import geometric_mean
from gradscope.numerics.logscale import log10_sum
from gradscope.numerics.trace import Unavailable
from gradscope.profile import Profile
from gradscope.sequences.tasks import kind_of, task_of


def influence(analysis: Analysis) -> Tracks:
    """The influence profile, lags 0, 1, ...

    log10 I(k); each lag over the sequences that have it.
    """
    logs = analysis.influence
    own = torch.arange(logs.shape[1]) < analysis.own_lags[:, None]
    return {"log10_influence": over_sequences(logs, own.to(logs.device))}


def kind_of_lags(analysis: Analysis) -> str:
    """The kind of lags that the data have.

    `fixed` or `spread`: as asked for, else the task's own, else fixed.
    """
    spec = analysis.spec
    return kind_of(spec, task_of(spec)) if spec.task is not None else spec.lags or "fixed"


EQUAL_RATES = 1e-12
"""Spread of slopes, beside the largest of them, that is rounding."""


def slopes(logs: Tensor) -> list[float]:
    """Slope of every row of ln I over lags 1, 2, ...; rows with under two values are dropped.

    Exact zeros and what overflows are left out: neither has a logarithm that a line could pass through.

    Args:
        logs: ln I(k), (sequences, lags), column 0 being lag 1.
    """
    lags = torch.arange(1, logs.shape[1] + 1, dtype=torch.float64)
    weight = logs.isfinite().double()
    count = weight.sum(1)
    values = torch.where(weight > 0, logs, torch.zeros_like(logs))
    mid = (weight * lags).sum(1, keepdim=True) / count.clamp_min(1)[:, None]
    off = (lags - mid) * weight
    found = (off * values).sum(1) / off.square().sum(1)
    return [float(slope) for slope, n in zip(found, count, strict=True) if n >= 2]


def _by_seed(analysis: Analysis) -> list[list[float]]:
    """The slopes of every seed's sequences; at least one seed has one."""
    analysis.require_gradient()
    logs = analysis.influence[:, 1 : analysis.needed_lag + 1].cpu() * math.log(10)
    found = [own for rows in logs.tensor_split(len(analysis.runs)) if (own := slopes(rows))]
    if not found and bool((analysis.influence == math.inf).any()):
        # It overflows before there are two lags for a line.
        return [[math.inf]]
    if not found:
        raise Unavailable("fewer than two lags have any influence, so there is no slope")
    return found


def _means(seeds: list[list[float]]) -> list[float]:
    return [math.fsum(slopes) / len(slopes) for slopes in seeds]


def rate(analysis: Analysis) -> float:
    """Mean slope over the sequences of every seed, then over seeds; infinite where the gradient overflows at once."""
    found = _means(_by_seed(analysis))
    return math.fsum(found) / len(found)


def rate_interval(analysis: Analysis) -> tuple[float, float]:
    """95 % t-interval of the rate: over the means of several seeds, else over the sequences of one.

    Sequences of one seed share its weights, so that with several seeds they are no independent draws: counting each
    would make the interval narrower by the square root of their number, whatever the weights do.

    Raises:
        Unavailable: there is one slope alone, or all are equal; the reason says which.
    """
    seeds = _by_seed(analysis)
    for values in (_means(seeds), seeds[0]):
        if max(values) - min(values) > EQUAL_RATES * max(map(abs, values)):
            found = mean_interval(values)
            assert found is not None
            return found
    count = len(analysis.influence)
    if count == 1:
        raise Unavailable("one sequence and one seed, so there is no interval")
    if len(seeds) == len(seeds[0]) == 1:
        raise Unavailable(f"only one of {count} sequences has a slope, so there is no interval")
    known = sum(map(len, seeds))
    which = f"all {count} sequences" if known == count else f"all {known} of {count} sequences that have a slope"
    raise Unavailable(f"{which} have the same{' slope' if known == count else ''}, so there is no interval")


def gain(analysis: Analysis) -> float:
    """e^r: the factor on the gradient for each step back."""
    return math.exp(min(rate(analysis), 700.0))


def half_life(analysis: Analysis) -> float:
    """Ln 2 / |r| in steps: how far back until half is lost (or, growing, until it doubles)."""
    found = rate(analysis)
    return math.log(2) / abs(found) if found else math.inf


def reach(analysis: Analysis) -> int:
    """Reach: the largest lag whose influence is at least 1 % of that of lag 1.

    Reach in steps. Lag 1 is the reference because the direct path of lag 0 exists in attention alone.
    """
    analysis.require_gradient()
    analysis.require_causal()
    found = reach_of(analysis.profile)
    if found is None:
        raise Unavailable("the influence at lag 1 is exactly zero")
    return found


def reach_of(profile: Tensor) -> int | None:
    """The same of log10 I(k), lags 0, 1, ...; None where lag 1 has no influence."""
    return Profile(len(profile), numbers(profile)).reach


def coverage(analysis: Analysis) -> float:
    """Coverage: the share of lags >= 1 that have at least 1 % of the largest lagged influence.

    Coverage, 0..1.
    """
    analysis.require_range()
    found = coverage_of(analysis.profile)
    if found is None:
        raise Unavailable("no lagged step has any influence")
    return found


def coverage_of(profile: Tensor) -> float | None:
    """The same of log10 I(k), lags 0, 1, ...; None where no lagged step has any influence."""
    lagged = profile[1:]
    if not len(lagged) or float(lagged.max()) == -math.inf:
        return None
    return float((lagged >= lagged.max() - 2).double().mean())


def spread(analysis: Analysis) -> dict[str, float]:
    """How far reach and coverage would move by chance: their standard errors.

    Standard error of each over the seeds, whose weights differ; over its sequences where there is one seed.

    s / sqrt(n), s being the standard deviation over n profiles: the geometric mean of each seed, or each sequence over
    the lags that it has; one that the loss does not read has none.

    Raises:
        Unavailable: a single sequence and seed, or profiles of which nothing follows.
    """
    analysis.require_finite()
    influence, seeds = analysis.influence, len(analysis.runs)
    if seeds > 1:
        profiles = [geometric_mean(rows) for rows in influence.tensor_split(seeds)]
    else:
        profiles = [row[:own] for row, own in zip(influence, analysis.own_lags.tolist(), strict=True) if own]
    if len(profiles) < 2:
        raise Unavailable("one sequence and one seed have no spread")
    return {
        "reach": _standard_error([reach_of(p) for p in profiles]),
        "coverage": _standard_error([coverage_of(p) for p in profiles]),
    }


def _standard_error(values: list[int | None] | list[float | None]) -> float:
    """Standard error of the mean; what has no value counts as none at all."""
    found = [float(value or 0.0) for value in values]
    return stdev(found) / math.sqrt(len(found))


def gradient_share(analysis: Analysis) -> float:
    """Gradient share S: log10 of the part of the anchor's input gradient that falls on the needed lag.

    S = log10(g_K / sum_{k <= K} g_k), g the mean over sequences; of several seeds the largest; -inf for g_K = 0.

    What lies further back than the needed lag is no competitor; where no lag is needed K is the oldest step, and the
    sum runs over all.
    """
    analysis.require_range()
    g = _mean_over_sequences(analysis)
    if float(g.max()) == -math.inf:
        raise Unavailable("no step has any influence")
    analysis.require_lag()
    found = [Profile(analysis.anchor, numbers(row)).share(analysis.needed_lag) for row in g]
    known = [share for share in found if share is not None]
    if not known:
        raise Unavailable("no step up to the needed lag has any influence")
    return max(known)


def _mean_over_sequences(analysis: Analysis) -> Tensor:
    """log10 of the *arithmetic* mean over the sequences of every seed, (seeds, lags)."""
    found = []
    for rows, ends in zip(analysis.influence.tensor_split(len(analysis.runs)), analysis.newest, strict=True):
        # A sequence that is shorter than the needed lag has no say in what arrives there.
        long = None if ends is None else (ends > analysis.needed_lag).to(rows.device)
        kept = rows if long is None or not bool(long.any()) else rows[long]
        found.append(log10_sum(kept, 0) - math.log10(len(kept)))
    return torch.stack(found)


def temporal_range(analysis: Analysis) -> float:
    """Temporal range: the mean lag weighted by influence, sum k I(k) / sum I(k) (Lafuente-Mercado et al. 2025).

    Temporal range in steps.
    """
    analysis.require_range()
    profile = analysis.profile.cpu()
    if float(profile.max()) == -math.inf:
        raise Unavailable("no step has any influence")
    weight = torch.pow(10.0, profile - profile.max())
    return float((weight * torch.arange(len(weight), dtype=torch.float64)).sum() / weight.sum())


def zero_lags(analysis: Analysis) -> tuple[int, ...]:
    """(first lag within the needed lag that is exactly zero in every sequence, how many), or () for none.

    Raises:
        Unavailable: there is no lag; or nothing lagged is heard next to the anchor and the model reads the future: it
            runs against time there, and no gradient was lost on the way.
    """
    analysis.require_gradient()
    lagged = analysis.influence[:, 1 : analysis.needed_lag + 1]
    if not lagged.shape[1]:
        raise Unavailable("no step lies before the one that the loss reads")
    zero = (lagged == -math.inf).all(0).nonzero().flatten()
    if len(zero) and not int(zero[0]):
        analysis.require_causal()
    return (int(zero[0]) + 1, len(zero)) if len(zero) else ()


def overflow_lags(analysis: Analysis) -> tuple[int, ...]:
    """(first lag at which the gradient of any sequence overflows its type, how many), or () for none."""
    analysis.require_gradient()
    over = (analysis.influence == math.inf).any(0).nonzero().flatten()
    return (int(over[0]), len(over)) if len(over) else ()
