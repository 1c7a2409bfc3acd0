"""GS303: activations or gates sit at an end of their range, where they pass no gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.rule import Finding, Rule, Threshold
from gradscope.rules.wording import percent


@dataclass(frozen=True)
class Harm:
    """One kind of saturation that costs something, with the threshold that judges it."""

    threshold: str
    what: str
    """Completes `63 % of the ...`."""
    advice: str


HARMFUL: Mapping[str, Harm] = {
    "activation": Harm(
        "saturated_share",
        "activations lie beyond ±0.99, where the slope of tanh is under 0.02",
        "Scale the input (`--scale standard`) or lower the gain of the recurrent matrix.",
    ),
    "gate.forget.closed": Harm(
        "saturated_share",
        "forget gate is closed, so the cell is erased at every step",
        "Raise the bias of the forget gate: `gradscope analyze lstm:forget_bias=5`.",
    ),
    "gate.input.closed": Harm(
        "saturated_share",
        "input gate is closed, so nothing new is written and its weights learn nothing",
        "Raise the bias of the input gate towards 0, or scale the input (`--scale standard`).",
    ),
    "gate.output.closed": Harm(
        "saturated_share",
        "output gate is closed, so the cell is hidden from the loss",
        "Raise the bias of the output gate towards 0, or scale the input (`--scale standard`).",
    ),
    "gate.update.closed": Harm(
        "saturated_share",
        "update gate is closed, so the state is overwritten at every step",
        "Raise the bias of the update gate: `gradscope analyze gru:update_bias=5`.",
    ),
}
"""An open forget or update gate is how a model remembers and is no fault; nor is a reset gate at either end."""


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Judge the harmful kinds alone; name every one beyond its threshold, the worst first."""
    shares = result.summary.saturation or {}
    known = {name: HARMFUL[name] for name in HARMFUL if name in shares}
    if not known:
        return Finding("skip", "The model has no activation or gate whose saturation does harm.")
    ranked = sorted(known, key=lambda name: -shares[name])
    bad = [name for name in ranked if shares[name] > RULE.limit(spec, known[name].threshold)]
    worst = bad[0] if bad else ranked[0]
    measured, threshold = shares[worst], RULE.limit(spec, known[worst].threshold)
    if not bad:
        message = f"At most {percent(measured)} of an activation or gate is saturated in a way that does harm."
        return Finding("pass", message, measured=measured, threshold=threshold)
    message = "; ".join(f"{percent(shares[name])} of the {known[name].what}" for name in bad)
    return Finding("found", f"{message}.", known[worst].advice, measured=measured, threshold=threshold)


RULE = Rule(
    code="GS303",
    title="saturated activations or gates",
    severity="warning",
    requires=("saturation",),
    judge=_judge,
    thresholds={
        "saturated_share": Threshold(
            0.5, "share of (unit, step) pairs", "how much of a gate or activation may be saturated", low=0.0
        ),
    },
    what=(
        "A unit at the end of its range passes almost no gradient to what feeds it. A few are a memory; most of a "
        "layer is a layer that cannot learn. Which end does harm depends on the gate: a closed forget gate erases, an "
        "open one is the very thing that lets an LSTM remember, and is not reported."
    ),
    maths=(
        "tanh′(z) = 1 − tanh²(z) < 0.02 where |tanh z| > 0.99",
        "σ′(z) = σ(z)(1 − σ(z)) < 0.01 where σ(z) < 0.01 (closed) or σ(z) > 0.99 (open)",
        "found when more than half of all (unit, step) pairs are saturated in a harmful way",
    ),
    measured=(
        "Counted over units, steps, layers and sequences of the first run. Judged: tanh beyond ±0.99, "
        "and closed forget, input, output and update gates. Not judged: open gates, and the "
        "reset gate, which either end of its range can serve."
    ),
    remedies=(
        "See the gates over time: `gradscope analyze lstm --show gates`",
        "Scale the input to unit variance: `gradscope analyze rnn --input data.csv --scale standard`",
        "Lower the gain: `gradscope compare rnn:init=normal,gain=4 rnn:init=normal,gain=1`",
        "Open the gate that keeps the state: `gradscope analyze gru:update_bias=5`",
    ),
    papers=(papers.GERS_2000, papers.LE_2015, papers.PASCANU_2013),
)
