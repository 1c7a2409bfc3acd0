"""GS203: small changes of the weights move the output far, although the state itself does not explode."""

from __future__ import annotations

from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.rule import Finding, Rule, Threshold
from gradscope.rules.wording import factor


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the amplification with the limit, where the influence itself does not grow."""
    found, limit = result.summary.parameter_sensitivity or 0.0, RULE.limit(spec, "log10_amplification")
    if (result.summary.rate or 0.0) > RULE.limit(spec, "flat_rate"):
        return Finding("pass", "The gradient grows on its way back: GS201 judges that.")
    said = f"The gradient of the weights is {factor(found)} times what the newest step alone contributes to it"
    if found <= limit:
        return Finding("pass", f"{said}.", measured=found, threshold=limit)
    return Finding(
        "found",
        f"{said}, though the state's own gradient does not grow: the loss is sharp in these weights.",
        "Lower the learning rate of the recurrent weights, or give them a parametrisation whose steps shrink near one, "
        "as `gradscope analyze lru` does (|λ| = exp(-exp ν), inputs scaled by sqrt(1 - |λ|²)).",
        measured=found,
        threshold=limit,
    )


RULE = Rule(
    code="GS203",
    title="sensitive weights",
    severity="warning",
    requires=("parameter_sensitivity",),
    judge=_judge,
    thresholds={
        "log10_amplification": Threshold(
            3.0, "log10", "how much larger than one step's part the whole may be", low=0.0
        ),
        "flat_rate": Threshold(0.005, "nats per step", "above which the state's gradient itself grows"),
    },
    what=(
        "A state that neither vanishes nor explodes can still make the weights hard to set: the longer it remembers, "
        "the more steps add to the same gradient. Near a perfect memory the loss is a narrow valley in the recurrent "
        "weights, and a learning rate that is fine elsewhere jumps across it."
    ),
    maths=(
        "h_t = λ h_{t−1} + x_t, white x: E(∂h/∂λ)² = (1 + λ²)/(1 − λ²)³, E h² = 1/(1 − λ²)",
        "amplification = rms ‖∂ℓ/∂W‖ / rms ‖contribution of the newest step‖ → √(1 + λ²)/(1 − λ²)",
        "found when log10 amplification > 3 while the rate of the influence is not above 0.005 nats/step",
    ),
    measured=(
        "From the backward pass of the whole loss through the recurrence: the gradient of all recurrent weights over "
        "its part from the newest step that the loss reads. The limit is a choice, not calibrated against training."
    ),
    remedies=(
        "A parametrisation made for it: `gradscope analyze lru`",
        "A shorter memory, if the task allows: `gradscope analyze lru:r_min=0.9,r_max=0.99`",
    ),
    papers=(papers.ZUCCHET_2024,),
)
