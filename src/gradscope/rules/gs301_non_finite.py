"""GS301: NaN or Inf is born in the forward pass or held by the weights."""

from __future__ import annotations

from gradscope.records import ModelResult, NonFinite, RunSpec
from gradscope.rules import papers
from gradscope.rules.advice import advise
from gradscope.rules.rule import Finding, Rule
from gradscope.text import safe_text

_CAUSES = {
    "constant": ", from a number in the code that is not finite itself",
    "arithmetic": ", from finite numbers",
}
_SHOWN = {"nan": "NaN", "inf": "Inf", "-inf": "-Inf"}


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Any non-finite value is a finding."""
    found = result.summary.non_finite
    if found is None:
        return Finding("pass", "Every value of the forward pass is finite.")
    held = found.where == "weights"
    return Finding(
        "found",
        _sentence(found),
        advise("non-finite", result, spec, found.where),
        first_step=None if held else found.step,
        last_step=None if held else result.length,
    )


def _sentence(found: NonFinite) -> str:
    """Where it first appears."""
    value, layer = _SHOWN.get(found.value, safe_text(found.value)), safe_text(found.layer)
    if found.where == "weights":
        return f"The weights of {layer or 'the model'} hold {value}: nothing computed from them can be trusted."
    if found.where == "gradient":
        return (
            f"The gradient is {value} from step {found.step} back, though the forward pass is finite: the next update "
            "makes every weight NaN."
        )
    place = f"{safe_text(found.where)} of layer {layer}" if layer else safe_text(found.where)
    cause = _CAUSES.get(found.cause, "")
    return f"{value} first appears at step {found.step}, in {place}{cause}: no gradient exists from there on."


RULE = Rule(
    code="GS301",
    title="NaN or Inf",
    severity="error",
    requires=("non_finite",),
    judge=_judge,
    gives="non-finite",
    none_is_clean=True,
    what=(
        "One NaN or Inf in the forward pass turns every later state, the loss and the whole gradient into NaN, and the "
        "next update destroys all weights. What matters is where it was born: the first step, layer and gate."
    ),
    maths=(
        "s_t = F(s_{t−1}, x_t) for t = 1 … T, layer by layer, gate by gate",
        "NaN + a = NaN, Inf − Inf = NaN, 0 · Inf = NaN: it spreads and never heals",
        "found when any weight, input, gate or state is not finite, or the gradient of a finite pass is NaN",
    ),
    measured=(
        "The forward pass is checked step by step in its order of computation, weights and inputs first. The first "
        "value that is not finite is reported; quantities that cannot exist behind it are skipped."
    ),
    remedies=(
        "Look at the steps before it: `gradscope analyze rnn:nonlinearity=relu,gain=0.5 --length 50`",
        "Bound the activation or lower the gain: `gradscope compare rnn:nonlinearity=relu rnn`",
        "Go back to the last finite checkpoint, clip the norm of the gradient, lower the learning rate",
    ),
    papers=(papers.PASCANU_2013,),
)
