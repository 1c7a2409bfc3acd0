"""GS4xx: the gradient is cut, absent, or goes where it should not."""

from __future__ import annotations

import math
from itertools import pairwise

from gradscope.profile import Profile
from gradscope.records import ModelResult, RunSpec
from gradscope.rules.advice import advise
from gradscope.rules.rule import Finding, Outcome, Rule
from gradscope.rules.wording import nothing_arrives


def made_anew(result: ModelResult) -> tuple[int, ...]:
    """Steps up to the anchor at which the state begins anew; () where none does, or where older steps have gradient.

    An outer recurrence over chunks, say, carries gradient past the step at which an inner one begins anew.
    """
    steps, latest = _restarts(result), result.summary.anew_by
    if steps and steps[-1] >= (latest or 0) and _no_gradient_before(steps[-1], result):
        return steps
    return (latest,) if latest is not None and _no_gradient_before(latest, result) else ()


def _no_gradient_before(step: int, result: ModelResult) -> bool:
    profile = Profile.of(result)
    return all(profile.at(older) in (None, -math.inf) for older in range(1, step))


def _restarts(result: ModelResult) -> tuple[int, ...]:
    """Steps that read nothing of the state before.

    Known from the operations of the steps where these were followed. Else seen in numbers: the influence is zero up to
    one step and at none from there on, with no Jacobian known before it; or, where operations are not known at all,
    Jacobians are zero up to there, or exactly zero at three or more steps with even distances, which units that happen
    to be dead seldom make.
    """
    if result.summary.made_anew:
        return result.summary.made_anew
    profile, norms = Profile.of(result), result.series.values.get("log10_jacobian_norm", ())
    norms = norms[: profile.anchor]
    operations_known = result.summary.made_anew is not None
    jacobian_from = next((step for step, norm in enumerate(norms, 1) if norm is not None and norm > -math.inf), 1)
    gradient_from = next((step for step in range(1, jacobian_from + 1) if profile.at(step) != -math.inf), jacobian_from)
    # The first step with gradient begins with the fresh state: its Jacobian to the one before may be known or not.
    one_start = gradient_from > 2 and jacobian_from <= gradient_from + 1
    unbroken = all(profile.at(step) != -math.inf for step in range(gradient_from, profile.anchor + 1))
    contradicted = operations_known and any(norm is not None for norm in norms[: gradient_from - 1])
    if one_start and unbroken and not contradicted:
        return (gradient_from,)
    if operations_known:
        return ()
    steps = tuple(step for step, norm in enumerate(norms, 1) if norm == -math.inf and step > 1)
    distances = {later - earlier for earlier, later in pairwise(steps)}
    return steps if len(steps) > 2 and len(distances) == 1 and min(distances) > 1 else ()


def _state_made_anew(result: ModelResult, spec: RunSpec, steps: tuple[int, ...]) -> Finding:
    """The finding where the state begins anew at `steps`, by a mask of zeros or by a reset in the loop."""
    lag = Profile.of(result).lag_of(steps[-1])
    is_masked, at_steps = set(steps) <= set(result.summary.zeroed or ()), _list_of_steps(steps)
    if steps != _restarts(result):
        is_masked, at_steps = bool(result.summary.zeroed), f"{at_steps} or later, by sequence"
    cause = "it is multiplied by exactly zero there" if is_masked else "a reset or a fresh state in the loop"
    older = f"further back than lag {lag}"
    effect = f"The gradient is exactly zero {older}" if is_masked else f"Nothing {older} is learned from"
    return Finding(
        _cut_outcome(lag, spec),
        f"The state is made anew at {at_steps}: {cause}. {effect}, and no change of weights can help.",
        advise("zeroed" if is_masked else "anew", result, spec),
        first_step=0,
        last_step=steps[-1] - 1,
        measured=float(steps[-1]),
    )


def _list_of_steps(steps: tuple[int, ...]) -> str:
    """`step 5`, `steps 5, 9, 20`, or `steps 5, 10, ..., 40 (every 5 steps)`."""
    if len(steps) == 1:
        return f"step {steps[0]}"
    shown = ", ".join(str(step) for step in (steps if len(steps) < 4 else steps[:2]))
    last = f", ..., {steps[-1]}" if len(steps) > 3 else ""
    distances = {later - earlier for earlier, later in pairwise(steps)}
    every = f" (every {distances.pop()} steps)" if len(distances) == 1 else ""
    return f"steps {shown}{last}{every}"


def _judge_gradient_cut(result: ModelResult, spec: RunSpec) -> Finding:
    """Any cut between the anchor and the older steps is a finding; after the anchor nothing enters the loss anyway."""
    cut, profile = result.summary.cut, Profile.of(result)
    if cut is None and result.summary.input_cut is not None:
        return _input_cut(result.summary.input_cut, profile, spec)
    if cut is None and "cut" in result.skipped:
        return Finding("skip", f"cut is not known: {result.skipped['cut']}")
    steps = made_anew(result)
    if steps and steps[-1] > (cut or 0):
        return _state_made_anew(result, spec, steps)
    if cut is None:
        return Finding("pass", "The gradient passes every step.")
    lag = profile.lag_of(cut)
    if lag is None:
        message = f"The gradient passes every step that the loss hears of: it is read at step {profile.anchor}."
        return Finding("pass", message)
    return Finding(
        _cut_outcome(lag, spec),
        f"The gradient is cut at step {cut}, though its state does depend on the one before: "
        f"nothing further back than lag {lag} receives any.",
        advise("cut", result, spec),
        first_step=0,
        last_step=max(cut - 1, 0),
        measured=cut,
    )


def _cut_outcome(lag: int | None, spec: RunSpec) -> Outcome:
    """`found`, or a mere `remark` where the cut is no nearer than the stated lag: truncated BPTT with long windows."""
    return "remark" if lag is not None and spec.needs_lag is not None and lag >= spec.needs_lag else "found"


def _input_cut(cut: int, profile: Profile, spec: RunSpec) -> Finding:
    """The finding where the output depends on the inputs up to step `cut` and no gradient reaches them."""
    return Finding(
        _cut_outcome(profile.lag_of(cut + 1), spec),
        f"No gradient reaches the inputs up to step {cut}, lag {profile.lag_of(cut)} and more, though the output "
        "depends on them.",
        "Look for detach(), .data, torch.no_grad() or numpy between the input and what the loss reads.",
        first_step=0,
        last_step=cut,
        measured=cut,
    )


GRADIENT_CUT = Rule(
    code="GS401",
    requires=("input_cut",),
    judge=_judge_gradient_cut,
    status_if_found="degenerate",
    absent_means_clean=True,
)


def _judge_no_gradient(result: ModelResult, spec: RunSpec) -> Finding:
    """Any parameter or feature without gradient is a finding, but for those of which GS405 speaks."""
    acting = result.summary.unheard or ()
    silent = [name for name in result.summary.silent or () if name not in acting]
    if not silent:
        return Finding("pass", "Every parameter and every feature of the input receives a gradient.")
    return Finding(
        "found",
        f"{nothing_arrives(silent, acting=False)}.",
        "Is it meant to be unused, frozen or masked? Else look for a detach, a wrong index, or an output that the loss "
        "does not read.",
    )


NO_GRADIENT = Rule(
    code="GS402",
    requires=("silent",),
    judge=_judge_no_gradient,
    invalid_if_found="GS401",
)


def _judge_mixed_sequences(result: ModelResult, spec: RunSpec) -> Finding:
    """Any sequence whose input acts on the output of another is a finding."""
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


MIXED_SEQUENCES = Rule(
    code="GS403",
    requires=("mixed",),
    judge=_judge_mixed_sequences,
    status_if_found="degenerate",
    absent_means_clean=True,
)


def _judge_acts_without_gradient(result: ModelResult, spec: RunSpec) -> Finding:
    """Any parameter, or the input, that acts on the loss and has no gradient is a finding."""
    unheard = result.summary.unheard or ()
    if not unheard:
        return Finding("pass", "Whatever acts on the loss receives a gradient.")
    sentence = nothing_arrives(unheard, acting=True).replace("the input", "The input", 1)
    return Finding(
        "found",
        f"{sentence}: a detach, .data or no_grad lies between.",
        "Take away what lies between it and the loss: detach(), .data, torch.no_grad(), or a new tensor made from its "
        "values. Freeze what is meant to stay as it is with requires_grad_(False) instead.",
    )


ACTS_WITHOUT_GRADIENT = Rule(
    code="GS405",
    requires=("unheard",),
    judge=_judge_acts_without_gradient,
    status_if_found="degenerate",
)
