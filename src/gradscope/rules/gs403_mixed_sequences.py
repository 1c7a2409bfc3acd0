"""GS403: sequences of a batch influence each other."""

from __future__ import annotations

from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.advice import advise
from gradscope.rules.rule import Finding, Rule


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Any pair of sequences is a finding."""
    mixed = result.summary.mixed
    if mixed is None and result.summary.axes_guessed:
        return Finding(
            "inconclusive",
            "Its axes are ambiguous: by what it takes and returns, batch and time could be taken for each other; how "
            "they were taken is noted.",
            "Say which it is: --layout time-first or --layout batch-first, or give data of yours with --input.",
        )
    if mixed is None:
        return Finding("pass", "Every sequence of the batch keeps to itself.")
    source, target = mixed
    return Finding(
        "found",
        f"Sequences of a batch influence each other: the output of sequence {target} depends on the input of sequence "
        f"{source}. Either batch and time are taken for each other, or something works across the batch.",
        advise("mixed", result, spec),
        measured=float(source),
    )


RULE = Rule(
    code="GS403",
    title="sequences influence each other",
    severity="error",
    requires=("mixed",),
    judge=_judge,
    gives="degenerate",
    none_is_clean=True,
    what=(
        "The gradient of one sequence's output reaches the input of another. A recurrence that walks along the batch "
        "does that: torch.nn.LSTM takes (T, batch, features) unless it is built with batch_first=True. So do batch "
        "normalization in training mode, attention over the wrong axis, and a reshape that swaps batch and time. What "
        "is learned then depends on which sequences meet in a batch, and lags are not lags in time."
    ),
    maths=(
        "y_b = output of sequence b, x_b' = input of sequence b'",
        "independent sequences: ∂y_b/∂x_b' = 0 for b' ≠ b",
        "found when ‖∂⟨u, y_b⟩/∂x_b'‖ > 0 beyond rounding for some b' ≠ b",
    ),
    measured=(
        "One backward pass from the outputs of one sequence alone, with a seeded random cotangent; the sequence whose "
        "input receives most of what it should not is named. A single sequence cannot be judged."
    ),
    remedies=(
        "Build the layer with batch_first=True, or hand it x.transpose(0, 1)",
        "If the module is meant to take time first, say so: `gradscope analyze model.py:Net --layout time-first`",
        "Put batch normalization in evaluation mode, or use layer normalization",
    ),
    papers=(papers.PASCANU_2013,),
)
