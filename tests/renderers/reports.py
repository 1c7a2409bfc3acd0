"""Reports written by hand: every kind of result a renderer must be able to show."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from gradscope.records import (
    Attention,
    Band,
    Check,
    EqualityCheck,
    Fix,
    Growth,
    Layer,
    Limits,
    Loaded,
    Location,
    ModelResult,
    NonFinite,
    Pair,
    Path,
    Report,
    RunSpec,
    Series,
    SingularValues,
    Summary,
    Target,
    Timing,
    Values,
    Verdict,
)

NAN, INF = math.nan, math.inf
HOSTILE = (
    "\x1b[31mred",
    "\x1b]8;;http://evil.test\x07link\x1b]8;;\x07",
    "\x9b31mcsi",
    "[/red][bold]",
    "<script>alert(1)</script>",
    "nul\x00byte",
    "=cmd|'/c calc'!A1",
    "a|b`c`",
    "@someone",
    "‮evil\u202c",
    "two\nlines",
    "猫がいる猫がいる猫がいる",
)
RULES = {"GS101": "vanishing rate", "GS104": "reach below the needed lag", "GS201": "exploding rate"}
GIVES: dict[str, Any] = {
    "GS101": "vanishing",
    "GS104": "vanishing",
    "GS201": "exploding",
    "GS301": "non-finite",
    "GS401": "degenerate",
}


def series(length: int, log10_gain: float, token: tuple[str, ...] | None = None) -> Series:
    """Every quantity decays by the same factor per step back, from 1 at the newest step."""
    back = tuple(log10_gain * k for k in range(length + 1))
    forward = tuple(reversed(back))
    wobble = tuple(log10_gain + 0.05 * math.sin(t) for t in range(1, length + 1))
    total = sum(10.0 ** max(-300.0, value) for value in forward[1:])
    values: dict[str, Values] = {
        "log10_grad_state": forward,
        "log10_grad_input": tuple(value - 0.5 for value in forward[1:]),
        "log10_influence": tuple(value - 0.5 for value in back[:length]),
        "log10_jacobian_norm": wobble,
        "log10_product_norm": forward,
        "log10_product_min": tuple(3 * value for value in forward),
        "weight_share": tuple(10.0 ** max(-300.0, value) / total for value in forward[1:]),
    }
    return Series(tuple(range(length + 1)), token, values)


def heading(length: int) -> str:
    return f"1x64 · T={length} · 8 sequences · seed 0 · float64 · cpu"


def fail(code: str, message: str, advice: str = "", severity: Any = "error", status: Any = "fail") -> Verdict:
    return Verdict(code, RULES.get(code, code), severity, status, message, advice, 1, 100, -51.9, -4.6, GIVES.get(code))


def vanishing(length: int = 200, name: str = "rnn") -> ModelResult:
    rate = -0.597
    return ModelResult(
        name=name,
        kind="recurrent",
        status="vanishing",
        size=64,
        length=length,
        heading=heading(length),
        notes=("random input, not your data",),
        loaded=Loaded("rnn", equality_check=EqualityCheck(1e-15, 2e-15, "torch.nn.RNN", True)),
        summary=Summary(
            rate=rate,
            rate_ci=(-0.61, -0.58),
            gain=math.exp(rate),
            half_life=math.log(2) / -rate,
            reach=min(7, length - 1),
            coverage=7 / (length - 1),
            temporal_range=1.6,
            gradient_share=rate * (length - 1) / math.log(10),
            needed_lag=length - 1,
            zero_lags=(),
            directions=3,
            lyapunov=(-0.55, -0.6, -0.7),
            lyapunov_ci=(-0.57, -0.53),
            finite_time_exponents=(-0.56, -0.61, -0.72),
            log10_condition=41.2,
            chain_rule_residual=3e-16,
            log10_grad_weight=1.46,
            carried_floats=64,
            path_length=3 * length,
            sequential_steps=5 * length,
            growth=growth(length, 3, 5),
            saturation={"tanh": 0.02},
        ),
        series=series(length, rate / math.log(10)),
        bands={"log10_influence": Band((-0.6, -0.9), (-0.4, None))},
        singular_values=SingularValues((1, 2), ((-0.5, -0.7), (-1.1, -INF)), ((True, True), (True, False))),
        verdicts=(
            fail(
                "GS101",
                "over this sequence the influence falls by 0.55 a step",
                "lstm:forget_bias=5, or an orthogonal W_hh",
            ),
            fail(
                "GS104",
                "reach 7 of 199 lags",
                "shorten the lag: attention, or skip connections over time",
                "warning",
                "warn",
            ),
            Verdict("GS201", "exploding rate", "error", "pass", "no growth"),
            Verdict("GS202", "chaos", "warning", "skip", "one block is too short for an interval"),
        ),
        fixes=(
            Fix("orthogonal", "W_hh orthogonal", 23, -0.2, "vanishing"),
            Fix("lstm, forget bias 5", "cell replaced", 199, 0.02, "healthy"),
        ),
        skipped={"precision_horizon": "not asked for"},
    )


def growth(length: int, path: int, sequential: int) -> dict[str, Growth]:
    at = (length, 2 * length)
    return {
        "path_length": Growth(at, (path * length, 2 * path * length), "O(n)"),
        "sequential_steps": Growth(at, (sequential * length, 2 * sequential * length), "O(n)"),
    }


def healthy(length: int = 200, name: str = "lstm:forget_bias=5") -> ModelResult:
    rate = -0.0009
    base = vanishing(length, name)
    gates: dict[str, Values] = {
        f"gate.{gate}.mean": tuple(level + 0.02 * math.sin(t / 3) for t in range(length))
        for gate, level in (("forget", 0.97), ("input", 0.5), ("output", 0.1))
    }
    drawn = series(length, rate / math.log(10))
    summary = replace(
        base.summary,
        rate=rate,
        rate_ci=(-0.002, 0.0001),
        half_life=math.log(2) / -rate,
        reach=length - 1,
        coverage=1.0,
        temporal_range=length / 2.1,
        gradient_share=-2.4,
        directions=61,
        growth=growth(length, 4, 9),
    )
    return replace(
        base,
        status="healthy",
        notes=(),
        summary=summary,
        series=replace(drawn, values={**drawn.values, **gates}),
        verdicts=(Verdict("GS101", "vanishing rate", "error", "pass", "rate within limits"),),
        fixes=(),
    )


def exploding(length: int = 200) -> ModelResult:
    rate = 0.061
    base = vanishing(length, "rnn:nonlinearity=relu,gain=1.5")
    summary = replace(base.summary, rate=rate, half_life=math.log(2) / rate, reach=length - 1, gradient_share=-0.03)
    advice = "clip the gradient norm, or lower the gain"
    return replace(
        base,
        status="exploding",
        summary=replace(summary, rate_ci=(0.05, 0.07), lyapunov=(0.06,), lyapunov_ci=None),
        series=series(length, rate / math.log(10)),
        verdicts=(fail("GS201", "the influence grows by 1.06 a step", advice),),
        fixes=(),
    )


def not_finite(length: int = 200) -> ModelResult:
    base = vanishing(length)
    values = {name: tuple(NAN for _ in found) for name, found in base.series.values.items()}
    values["log10_jacobian_norm"] = tuple(0.1 if t < 36 else INF if t == 36 else NAN for t in range(length))
    where = NonFinite(37, "l0", "gate.forget", "nan")
    return replace(
        base,
        status="non-finite",
        series=replace(base.series, values=values),
        summary=Summary(
            rate=NAN, needed_lag=length - 1, non_finite=where, chain_rule_residual=NAN, gradient_share=-INF
        ),
        verdicts=(
            fail("GS301", "nan in gate.forget of l0 at step 37", "look at the input of step 37; lower the gain"),
        ),
        skipped={"reach": "the influence is not finite", "lyapunov": "the trajectory is not finite"},
        fixes=(),
    )


def attention(token: tuple[str, ...] | None = None, length: int = 200, name: str = "attention") -> ModelResult:
    length = len(token) if token else length
    profile: Values = (0.4, *(-1.0 - 0.001 * k for k in range(1, length)))
    heads = 2
    uniform = tuple(tuple(1 / (q + 1) if k <= q else 0.0 for k in range(length)) for q in range(length))
    newest = tuple(tuple(1.0 if k == max(0, q - 1) else 0.0 for k in range(length)) for q in range(length))
    weights = ((uniform, newest),) if length <= 60 else ()
    no_chain = "attention carries no state from step to step"
    return ModelResult(
        name=name,
        kind="attention",
        status="healthy",
        size=0,
        length=length,
        heading=heading(length),
        loaded=Loaded("attention"),
        summary=Summary(
            rate=-0.0023,
            reach=length - 1,
            half_life=301.0,
            coverage=1.0,
            temporal_range=length / 2,
            gradient_share=-3.1,
            needed_lag=length - 1,
            path_length=9,
            sequential_steps=17,
            growth={
                "path_length": Growth((length, 2 * length), (9, 9), "O(1)"),
                "sequential_steps": Growth((length, 2 * length), (17, 17), "O(1)"),
            },
        ),
        series=Series(tuple(range(length + 1)), token, {"log10_influence": profile, "log10_grad_input": profile[::-1]}),
        attention=Attention(token, weights) if weights and heads else None,
        skipped=dict.fromkeys(
            ("log10_jacobian_norm", "log10_product_norm", "log10_product_min", "lyapunov", "directions"), no_chain
        ),
        verdicts=(Verdict("GS101", "vanishing rate", "error", "pass", "rate within limits"),),
    )


def empty() -> ModelResult:
    """Nothing but what the types demand."""
    return ModelResult("bare", "module", "inconclusive", 0, 0, Loaded("bare"), Summary(), Series())


def paired(token: tuple[str, ...]) -> ModelResult:
    """An LSTM on text, two layers, one pair asked for."""
    base = vanishing(len(token), "lstm")
    parts = (Path("l0", "all", -3.2), Path("l0", "cell", -3.3), Path("l0", "gates", -INF), Path("l1", "all", None))
    return replace(
        base,
        series=series(len(token), -0.25, token),
        pairs=(Pair(token[1], 2, token[-1], len(token), 0.012, 9, len(token), parts),),
        layers=(Layer("l0.forward", series(len(token), -0.2), {"reach": 9.0}), Layer("l1.forward", Series(), {})),
    )


def report(*models: ModelResult, timed: bool = True) -> Report:
    steps: dict[str, dict[str, Any]] = {
        model.name: {
            "length": [200, 400, 800],
            "seconds": [0.0213, 0.0431, 0.0875],
            "exponent": None if i else 1.02,
            "spread": 0.6 if i else 0.04,
        }
        for i, model in enumerate(models)
    }
    spec = RunSpec(models=tuple(model.name for model in models), thresholds={"vanishing_share": 0.01})
    timing = Timing(1.25, {model.name: 0.5 for model in models}, steps) if timed else Timing()
    return Report(spec, {"python": "3.11", "torch": "2.13.0"}, models, timing)


SENTENCE = "The cat , which was sitting on the mat and looking quite comfortable , was hungry"
WORDS = tuple(SENTENCE.split())


def hostile() -> Report:
    """Text that tries to do something, in every place that takes text."""
    bad = "".join(HOSTILE)
    tokens = HOSTILE
    first = paired(tokens)
    verdict = fail("GS101", bad, bad)
    values = {
        **first.series.values,
        bad: first.series.values["weight_share"],
        "gate.\x1b[2J.mean": (0.5,) * len(tokens),
    }
    evil = replace(
        first,
        name=bad,
        heading=f"1x64 · {bad}",
        notes=(bad,),
        loaded=Loaded(bad, (bad,), False, EqualityCheck(1e-3, NAN, bad, False)),
        series=replace(first.series, values=values),
        verdicts=(verdict, replace(verdict, code="\x1b[0m<b>"), replace(verdict, code=bad, status="skip")),
        fixes=(Fix(bad, bad, None, None, "vanishing"),),
        skipped={bad: bad},
        summary=replace(first.summary, saturation={bad: 0.5}, precision_horizon={bad: {"lag": 3}}),
        layers=(Layer(bad, first.series, {}),),
    )
    nan = not_finite(20)
    found = NonFinite(37, bad, bad, bad)
    return report(
        evil,
        replace(attention(tokens), name="[/red]\x1b]0;title\x07"),
        replace(nan, name="=1+1", summary=replace(nan.summary, non_finite=found)),
    )


def checked(*models: ModelResult, source: str = "[tool.gradscope] in pyproject.toml", **more: Any) -> Report:
    """The report of a gate: the first model fails a limit too, the last has an accepted finding."""
    limit = Verdict("GS902", "limit on min_reach", "error", "fail", "The reach is 9 lags, short of min_reach = 50.")
    first, *rest = models
    first = replace(first, verdicts=(*first.verdicts, limit))
    rest = [replace(model, loaded=replace(model.loaded, location=Location("models/enc.py", 14))) for model in rest]
    if rest:
        accepted = tuple(replace(verdict, accepted=verdict.status == "fail") for verdict in rest[-1].verdicts)
        rest[-1] = replace(rest[-1], verdicts=accepted)
    targets = tuple(
        Target(
            model.name,
            RunSpec(models=(model.name,), needs_lag=50, fail_on="error"),
            Limits(min_reach=50, precision_horizon={"float32": 50}),
            Location("pyproject.toml", 12),
        )
        for model in (first, *rest)
    )
    check = Check(source, targets, "gradscope-baseline.json", tuple(more.get("notes", ())))
    return replace(report(first, *rest), check=check)


def hostile_check() -> Report:
    """Foreign text in every place that a gate adds."""
    foul = "".join(HOSTILE)
    verdict = Verdict("GS902", f"limit on {foul}", "error", "fail", foul, advice=foul)
    bad = replace(vanishing(), name=foul, loaded=Loaded(foul, location=Location(foul, 3)), verdicts=(verdict,))
    target = Target(foul, RunSpec(models=(foul,), device=foul, fail_on="error"), Limits(), Location(foul, 1))
    return replace(report(bad), check=Check(foul, (target,), foul, (foul,)))


def unfinished(name: str = "stuck") -> ModelResult:
    """A target that gave no result."""
    reason = "Not measured: it took longer than 600 s and was stopped."
    verdicts = (fail("GS901", reason),)
    return ModelResult(name, "module", "inconclusive", 0, 0, Loaded("m.py:f"), Summary(), Series(), verdicts=verdicts)


def catalogue() -> dict[str, Report]:
    """Every report by name."""
    bad = hostile()
    return {
        "vanishing": report(vanishing()),
        "healthy": report(healthy()),
        "exploding": report(exploding()),
        "not finite": report(not_finite()),
        "ten steps": report(vanishing(10)),
        "ten thousand steps": report(healthy(10_000)),
        "attention": report(attention(WORDS)),
        "attention without text": report(attention()),
        "pair": report(paired(WORDS)),
        "compare": report(vanishing(), healthy(), attention()),
        "compare text": report(vanishing(16, "gru"), healthy(16), attention(WORDS)),
        "empty": report(empty(), timed=False),
        "nothing": report(timed=False),
        "compare of everything": report(exploding(), not_finite(), empty(), vanishing(), healthy(), attention()),
        "check": checked(vanishing(), healthy(), unfinished(), exploding()),
        "check of one": checked(healthy()),
        "hostile": bad,
        "hostile check": hostile_check(),
        **{f"hostile {i}": report(model) for i, model in enumerate(bad.models)},
    }
