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
    """Steps up to the anchor at which the state is made anew; () where none is, or where something else is heard.

    An outer recurrence over chunks, say, hears what comes before the new beginning of an inner one.
    """
    steps, by = _restarts(result), result.summary.anew_by
    if steps and steps[-1] >= (by or 0) and _is_unheard_before(steps[-1], result):
        return steps
    return (by,) if by is not None and _is_unheard_before(by, result) else ()


def _is_unheard_before(step: int, result: ModelResult) -> bool:
    profile = Profile.of(result)
    return all(profile.at(before) in (None, -math.inf) for before in range(1, step))


def _restarts(result: ModelResult) -> tuple[int, ...]:
    """Steps that read nothing of the state before.

    They are known as such, from the operations of the steps. Or nothing up to one step enters the loss and all from
    there on does: no Jacobian is known there, and the influence is zero. Or, where operations are not known, Jacobians
    are zero up to there, or are exactly zero at even distances, which units that happen to be dead seldom make.
    """
    if result.summary.made_anew:
        return result.summary.made_anew
    profile, norms = Profile.of(result), result.series.values.get("log10_jacobian_norm", ())
    norms = norms[: profile.anchor]
    known = next((step for step, norm in enumerate(norms, 1) if norm is not None and norm > -math.inf), 1)
    heard = next((step for step in range(1, known + 1) if profile.at(step) != -math.inf), known)
    # The first step that is heard begins with the fresh state, whose Jacobian to the one before may be given or not.
    all_heard = all(profile.at(step) != -math.inf for step in range(heard, profile.anchor + 1))
    told = result.summary.made_anew is not None
    if heard > 2 and known <= heard + 1 and all_heard and not (told and any(n is not None for n in norms[: heard - 1])):
        return (heard,)
    if told:
        return ()
    steps = tuple(step for step, norm in enumerate(norms, 1) if norm == -math.inf and step > 1)
    apart = {later - earlier for earlier, later in pairwise(steps)}
    return steps if len(apart) == 1 and min(apart) > 1 else ()


def _state_made_anew(result: ModelResult, spec: RunSpec, steps: tuple[int, ...]) -> Finding:
    """What a state means that begins anew."""
    lag = Profile.of(result).lag_of(steps[-1])
    named = f"step {steps[0]}"
    if len(steps) > 1:
        listed = [str(step) for step in (steps if len(steps) < 4 else steps[:2])]
        end = f", ..., {steps[-1]}" if len(steps) > 3 else ""
        apart = {later - earlier for earlier, later in pairwise(steps)}
        named = f"steps {', '.join(listed)}{end}" + (f" (every {apart.pop()} steps)" if len(apart) == 1 else "")
    masked = set(steps) <= set(result.summary.zeroed or ())
    if steps != _restarts(result):
        masked, named = bool(result.summary.zeroed), f"{named} or later, by sequence"
    why = "it is multiplied by exactly zero there" if masked else "a reset or a fresh state in the loop"
    further = f"further back than lag {lag}"
    none = f"the gradient is exactly zero {further}" if masked else f"nothing {further} is learned from"
    return Finding(
        _cut_outcome(lag, spec),
        f"The state is made anew at {named}: {why}. {none[0].upper()}{none[1:]}, and no change of weights can help.",
        advise("zeroed" if masked else "anew", result, spec),
        first_step=0,
        last_step=steps[-1] - 1,
        measured=float(steps[-1]),
    )


def _judge_gradient_cut(result: ModelResult, spec: RunSpec) -> Finding:
    """Any cut on the way of the gradient is a finding; what is cut after the anchor hears of no loss anyway."""
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
    """What lies no nearer than a stated needed lag is remarked on: truncated BPTT of long enough windows."""
    return "remark" if lag is not None and spec.needs_lag is not None and lag >= spec.needs_lag else "found"


def _input_cut(cut: int, profile: Profile, spec: RunSpec) -> Finding:
    """Older inputs that the output depends on and no gradient reaches."""
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
    gives="degenerate",
    none_is_clean=True,
)


def _judge_no_gradient(result: ModelResult, spec: RunSpec) -> Finding:
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


NO_GRADIENT = Rule(
    code="GS402",
    requires=("silent",),
    judge=_judge_no_gradient,
    voided_by="GS401",
)


def _judge_mixed_sequences(result: ModelResult, spec: RunSpec) -> Finding:
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


MIXED_SEQUENCES = Rule(
    code="GS403",
    requires=("mixed",),
    judge=_judge_mixed_sequences,
    gives="degenerate",
    none_is_clean=True,
)


def _judge_acts_without_gradient(result: ModelResult, spec: RunSpec) -> Finding:
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


ACTS_WITHOUT_GRADIENT = Rule(
    code="GS405",
    requires=("unheard",),
    judge=_judge_acts_without_gradient,
    gives="degenerate",
)
