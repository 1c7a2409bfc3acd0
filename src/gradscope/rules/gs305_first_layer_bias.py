"""GS305: the gate bias was raised in the first layer only."""

from __future__ import annotations

from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.rule import Finding, Rule, Threshold


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the first layer's mean gate bias with the others'."""
    if len(result.summary.gate_bias or ()) < 2:
        return Finding("pass", "There are no two gated layers to compare.")
    first, *others = result.summary.gate_bias or ()
    apart, limit = first - max(others), RULE.limit(spec, "bias_apart")
    said = f"The gate that keeps the state has a mean bias of {first:.2g} in layer one, at most {max(others):.2g} above"
    if apart <= limit:
        return Finding("pass", f"{said}.", measured=apart, threshold=limit)
    return Finding(
        "found",
        f"{said}, as if it had been set for `l0` alone.",
        "Set it in every layer: loop over `range(rnn.num_layers)`; `gradscope analyze MODEL --fix --save DIR` writes "
        "the lines.",
        measured=apart,
        threshold=limit,
    )


RULE = Rule(
    code="GS305",
    title="gate bias in the first layer only",
    severity="warning",
    requires=("gate_bias",),
    judge=_judge,
    thresholds={"bias_apart": Threshold(0.9, "bias", "how far the first layer's may lie above the others'", low=0.0)},
    what=(
        "The usual way to raise a forget bias is a line that names `bias_ih_l0`. In a stack that opens the gates of "
        "the first layer and leaves those above shut, and what the first layer remembers is forgotten on its way up."
    ),
    maths=(
        "b_l = mean over units of (b_ih + b_hh) of the forget gate (LSTM) or update gate (GRU) of layer l",
        "σ(b)^k is left after k steps: 0.5^k at b = 0, 0.88^k at b = 2",
        "found when b_0 − max of the others > 0.9",
    ),
    measured="Read from the weights of one-way layers, as they are given.",
    remedies=("Set every layer: `gradscope analyze lstm:layers=2,forget_bias=2`",),
    papers=(papers.GERS_2000, papers.JOZEFOWICZ_2015),
)
