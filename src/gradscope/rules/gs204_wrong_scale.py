"""GS204: outputs of a size that a loss cannot start from."""

from __future__ import annotations

from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.rule import Finding, Rule, Threshold


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the size of the outputs with both limits."""
    size = result.summary.output_scale or 0.0
    low, high = RULE.limit(spec, "output_low"), RULE.limit(spec, "output_high")
    said = f"The outputs that the loss reads have a size of {size:.3g} (root mean square)"
    if low <= size <= high:
        return Finding("pass", f"{said}.", measured=size, threshold=high)
    large = size > high
    return Finding(
        "found",
        f"{said}: training starts by {'unlearning' if large else 'raising'} that.",
        "Scale the input, the gain or the step of the recurrence so that outputs start near 1; a norm before the "
        "readout does it too.",
        measured=size,
        threshold=high if large else low,
    )


RULE = Rule(
    code="GS204",
    title="wrong scale",
    severity="warning",
    requires=("output_scale",),
    judge=_judge,
    thresholds={
        "output_high": Threshold(10.0, "root mean square", "above which outputs are too large", low=0.0),
        "output_low": Threshold(1e-4, "root mean square", "below which outputs are too small", low=0.0),
    },
    what=(
        "Some recurrences pass gradients over any distance and still do not learn, because their outputs start far too "
        "large or too small: the loss is dominated by that, and the first steps of training are spent on it or "
        "diverge. In published runs of the adding problem, coRNN and antisymmetric cells start from losses of 1 to 20 "
        "and end above the trivial answer, while their gradient share is among the best."
    ),
    maths=(
        "size = √(mean over sequences and features of y_a²), a the newest step that the loss reads",
        "a linear state that keeps everything grows: E h_T² = T E x² at λ = 1",
        "found when size > 10 or size < 0.0001",
    ),
    measured="From the forward pass alone. The limits are choices, not calibrated against training.",
    remedies=(
        "Look at the sizes over time: `gradscope analyze rnn --format json`, series `state.*.rms`",
        "Scale the data: `gradscope analyze rnn --input data.csv --scale standard`",
    ),
    papers=(papers.PASCANU_2013,),
)
