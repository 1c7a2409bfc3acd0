"""GS405: a learnable parameter, or the input, acts on the loss and receives no gradient."""

from __future__ import annotations

from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.rule import Finding, Rule
from gradscope.rules.wording import nothing_arrives


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Any is a finding: what acts and is not heard is never what was meant by a learnable parameter."""
    unheard = result.summary.unheard or ()
    if not unheard:
        return Finding("pass", "Whatever acts on the loss receives a gradient.")
    said = nothing_arrives(unheard, acting=True).replace("the input", "The input", 1)
    return Finding(
        "found",
        f"{said}: a detach, .data or no_grad lies between.",
        "Take away what lies between it and the loss: detach(), .data, torch.no_grad(), or a new tensor made from its "
        "values. Freeze what is meant to stay as it is with requires_grad_(False) instead.",
    )


RULE = Rule(
    code="GS405",
    title="acts without gradient",
    severity="error",
    requires=("unheard",),
    judge=_judge,
    gives="degenerate",
    what=(
        "The loss follows a small change of a learnable parameter, or of the input, and its gradient is zero all the "
        "same: it was detached on the way. It keeps its first value for ever, and so does all that lies before it, "
        "while the loss goes on falling by what is left. A parameter that the loss does not follow at all is another "
        "thing (GS402)."
    ),
    maths=(
        "∂L/∂p = 0 in every entry, as automatic differentiation sees it",
        "above = L(p + ε) − L(p),  below = L(p) − L(p − ε), as the forward pass gives them",
        "found when above ≈ below ≠ 0: not at a kink, nor where L is flat",
    ),
    measured=(
        "One seeded nudge up and down for each parameter of the user's module that requires a gradient and has none, "
        "and for the input, with the loss of the run; the first six."
    ),
    remedies=(
        "Take the detach away, or freeze what should not learn with requires_grad_(False)",
        "If it is meant, leave the rule out: --ignore GS405",
    ),
    papers=(papers.PASCANU_2013,),
)
