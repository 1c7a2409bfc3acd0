"""The block of summary numbers: everything that is one number, in as few lines as it takes."""

from __future__ import annotations

from gradscope.records import BUILT, ModelResult, Number, Summary
from gradscope.renderers.text import numbers, wording
from gradscope.renderers.text.columns import Column
from gradscope.renderers.text.page import Page, measure, pad

GAP = 3
"""Spaces between the two columns."""


def summary(page: Page, model: ModelResult) -> None:
    """Label and value, two pairs to a line where they fit."""
    pairs = pairs_of(model)
    if not pairs:
        return
    if page.narrow:
        page.table([Column(label) for label, _ in pairs], [[value for _, value in pairs]])
        return
    folded = [(page.fold(label), page.fold(value)) for label, value in pairs]
    wide = max(measure(label) for label, _ in folded)
    limit, left = _two_columns(folded, page.view.width - 1 - 2 * (wide + 2) - GAP)
    short = [pair for pair in folded if measure(pair[1]) <= limit]
    for start in range(0, len(short), 2):
        texts = [pad(label, wide) + "  " + value for label, value in short[start : start + 2]]
        page.line(" " + pad(texts[0], wide + 2 + left), " " * GAP, *texts[1:])
    for label, value in folded:
        if measure(value) > limit:
            page.wrap(value, f" {pad(label, wide)}  ")
    page.blank()


def _two_columns(pairs: list[tuple[str, str]], room: int) -> tuple[int, int]:
    """The longest value that two columns can hold within `room`, and the width of the left one's values.

    Longer values get a line of their own.
    """
    widths = [measure(value) for _, value in pairs]
    for limit in sorted(set(widths), reverse=True):
        short = [width for width in widths if width <= limit]
        left, right = max(short[::2]), max(short[1::2], default=0)
        if left + right <= room:
            return limit, left
    return 0, 0


def pairs_of(model: ModelResult) -> list[tuple[str, str]]:
    """Label and value of each quantity that was measured; ones that were not are left out."""
    found = [*_signal(model), *_dynamics(model.summary), *_checks(model)]
    return [(label, value) for label, value in found if value]


def _signal(model: ModelResult) -> list[tuple[str, str]]:
    s = model.summary
    rate = "" if s.rate is None else f"{_with_interval(s.rate, s.rate_ci)} nats/step"
    total = wording.lags(model)
    reach = "" if s.reach is None else f"{s.reach} of {total} lags" if total is not None else f"{s.reach} lags"
    if s.reach is not None and total is not None and s.reach > total:
        reach = f"{s.reach} lags, {total} needed"
    share = "" if s.gradient_share is None else f"{numbers.share(s.gradient_share)} at lag {s.needed_lag}"
    return [
        ("rate", rate),
        ("reach", reach),
        ("gradient share", share),
        ("temporal range", "" if s.temporal_range is None else f"{numbers.plain(s.temporal_range)} steps"),
        ("coverage", "" if s.coverage is None else f"{numbers.percent(s.coverage)} of lags"),
        ("directions", "" if s.directions is None else f"{s.directions} of {model.size}"),
    ]


def _with_interval(value: Number, interval: tuple[float, float] | None) -> str:
    """Mean and half the width of its 95 % interval, which is symmetric: `-0.597 ± 0.015`."""
    if interval is None:
        return numbers.plain(value)
    return f"{numbers.plain(value)} ± {numbers.plain((interval[1] - interval[0]) / 2, 2)}"


def _dynamics(s: Summary) -> list[tuple[str, str]]:
    lyapunov = "" if not s.lyapunov else _with_interval(s.lyapunov[0], s.lyapunov_ci)
    finite = "" if not s.finite_time_exponents else numbers.plain(s.finite_time_exponents[0])
    saturated = {name: part for name, part in (s.saturation or {}).items() if part}
    worst = max(saturated, key=lambda name: saturated[name], default="")
    return [
        ("Lyapunov", lyapunov),
        ("finite-time", finite),
        ("rank", "" if s.rank_lost_at is None else f"first lost at step {s.rank_lost_at}"),
        ("condition", "" if s.log10_condition is None else numbers.power(s.log10_condition)),
        ("saturated", f"{numbers.percent(saturated[worst])} of {worst}" if worst else ""),
    ]


def _checks(model: ModelResult) -> list[tuple[str, str]]:
    s, check = model.summary, model.loaded.equality_check
    weight = "" if s.log10_grad_weight is None else numbers.readable(s.log10_grad_weight)
    # A family has no other weights; a module may have embeddings and heads.
    alone = model.loaded.source == BUILT or (check is not None and check.against.startswith("torch.nn."))
    weight += "" if alone or not weight else " of the recurrence"
    if weight and model.status == "vanishing" and s.log10_grad_weight is not None and s.log10_grad_weight > -2:
        weight += " (looks fine: it cannot see this)"
    equal = ""
    if check is not None:
        verb = "equals" if check.passed else "DIFFERS FROM"
        off = f"output {check.output:.0e}, gradient {check.grad:.0e}"
        equal = f"{verb} {check.against}: {off}"
        if check.rounding_from is not None:
            equal = f"{verb} {check.against} to step {check.rounding_from - 1}; from there on rounding errors grow, "
            equal += f"in torch as here: {off}"
        equal += f" ({check.inside} inside)" if check.inside else ""
        if check.unheld:
            equal += f" (where torch's own is finite; its {' and '.join(check.unheld)} is not)"
    return [
        ("‖dL/dW‖", weight),
        ("chain rule", "" if s.chain_rule_residual is None else f"off by {s.chain_rule_residual:.0e}"),
        ("precision", _precision(s)),
        ("checked", equal),
    ]


def _precision(s: Summary) -> str:
    """`float16 holds to lag 12`: types whose range or precision ends before the needed lag."""
    said = []
    for name, horizon in (s.precision_horizon or {}).items():
        lag = horizon.get("lag") if isinstance(horizon, dict) else horizon
        lag = numbers.as_number(lag)
        if lag is not None:
            said.append(f"{name} to lag {numbers.plain(lag, 6)}")
    return ", ".join(said)
