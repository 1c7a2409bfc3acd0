"""GS402: parameters or input features that receive no gradient."""

from __future__ import annotations

from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.rule import Finding, Rule
from gradscope.rules.wording import nothing_arrives


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Name them."""
    acting = result.summary.unheard or ()  # GS405 speaks of those
    silent = [name for name in result.summary.silent or () if name not in acting]
    if not silent:
        return Finding("pass", "Every parameter and every feature of the input receives a gradient.")
    return Finding(
        "found",
        f"{nothing_arrives(silent, acting=False)}.",
        "Is it meant to be unused, frozen or masked? Else look for a detach, a wrong index, or an output that the loss "
        "does not read.",
    )


RULE = Rule(
    code="GS402",
    title="no gradient at all",
    severity="warning",
    requires=("silent",),
    judge=_judge,
    voided_by="GS401",
    what=(
        "A parameter that receives no gradient keeps its first value for ever, and a feature that receives none is not "
        "looked at. Both are easy to make by mistake (a layer that is built and not called, a slice that misses a "
        "column) and nothing in a loss curve shows them."
    ),
    maths=(
        "∂L/∂W = 0 in every entry, or W is not part of L's graph",
        "∂L/∂x_{t,j} = 0 for all t, all sequences and a feature j",
        "found when there is any",
    ),
    measured=(
        "One forward and backward pass of the user's module with the loss of the run; parameters that do not require a "
        "gradient are asked too. Of families, the features of the input alone."
    ),
    remedies=("See what the loss reads: `gradscope analyze rnn --loss every`",),
    papers=(papers.PASCANU_2013,),
)
