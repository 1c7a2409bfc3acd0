"""GS4xx: the gradient is cut, absent, or goes where it should not."""

from __future__ import annotations

import math
from itertools import pairwise

from gradscope.profile import Profile
from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
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
    title="gradient cut",
    severity="error",
    requires=("input_cut",),
    judge=_judge_gradient_cut,
    gives="degenerate",
    none_is_clean=True,
    what=(
        "The forward pass hands the state on, but its derivative is exactly zero: somewhere the state was detached "
        "from the graph. Nothing before that step is learned from, at any learning rate."
    ),
    maths=(
        "J_t = ∂s_t/∂s_{t−1} as automatic differentiation sees it",
        "D = (F(s + ε u, x_t) − F(s, x_t)) / ε as the forward pass does",
        "found when J_t = 0 at a step where D ≠ 0",
    ),
    measured=(
        "The Jacobian of each step is compared with what the step really does to a slightly moved state; the newest "
        "step whose Jacobian vanishes while its output moves is reported. So are older inputs that receive exactly "
        "nothing while the output follows a slight change of them, up and down alike (an input that is only asked "
        "whether it is padding does not count), and states that are made anew: every so many steps the Jacobian is "
        "exactly zero, and the state does not move either, or a mask multiplies it by exactly zero. What lies no "
        "nearer than a stated needed lag is remarked on and changes no status. Where this cut explains exact zeros "
        "(GS102) and a short reach (GS104), the status is degenerate and not vanishing."
    ),
    remedies=(
        "Search the code for detach(), .data, .item(), torch.no_grad() and for a state made anew inside the loop",
        "If truncated BPTT is meant, say how far it has to reach: `gradscope analyze my_cell.py:Cell --needs-lag 20`",
    ),
    papers=(papers.PASCANU_2013,),
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
    title="no gradient at all",
    severity="warning",
    requires=("silent",),
    judge=_judge_no_gradient,
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
    title="sequences influence each other",
    severity="error",
    requires=("mixed",),
    judge=_judge_mixed_sequences,
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
    title="acts without gradient",
    severity="error",
    requires=("unheard",),
    judge=_judge_acts_without_gradient,
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
