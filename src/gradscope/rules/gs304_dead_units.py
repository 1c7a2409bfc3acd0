"""GS304: units that are zero at every step of every sequence."""

from __future__ import annotations

from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.rule import Finding, Rule, Threshold
from gradscope.rules.wording import percent


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the share of dead units with the limit."""
    shares = result.summary.saturation or {}
    if "activation.dead" not in shares:
        return Finding("pass", "The model has no units that can die (relu).")
    dead, limit = shares["activation.dead"], RULE.limit(spec, "dead_share")
    if dead <= limit:
        return Finding(
            "pass", f"{percent(dead)} of the relu units are zero at every step.", measured=dead, threshold=limit
        )
    return Finding(
        "found",
        f"{percent(dead)} of the relu units are zero at every step and pass no gradient.",
        "Start from the identity (`gradscope analyze rnn:nonlinearity=relu,init=identity`) or lift the bias.",
        measured=dead,
        threshold=limit,
    )


RULE = Rule(
    code="GS304",
    title="dead units",
    severity="warning",
    requires=("saturation",),
    judge=_judge,
    thresholds={
        "dead_share": Threshold(0.5, "share of units", "how many relu units may be zero at every step", low=0.0)
    },
    what=(
        "A relu unit that is zero at every step of every sequence has a slope of zero everywhere: no gradient reaches "
        "its weights, so nothing in training brings it back. The state is that much smaller than it looks."
    ),
    maths=(
        "relu′(z) = 0 for z < 0",
        "dead: h_t = 0 for all t and all sequences",
        "found when more than half of the units are dead",
    ),
    measured="Counted over the units of all layers, with every step and sequence of the first run.",
    remedies=(
        "Start from the identity: `gradscope analyze rnn:nonlinearity=relu,init=identity`",
        "Look at more sequences before believing it: `gradscope analyze rnn:nonlinearity=relu --batch 64`",
    ),
    papers=(papers.LE_2015,),
)
