"""What the numbers of a report mean, in plain sentences: shared by every format that people read."""

from __future__ import annotations

import math

from gradscope.profile import Profile
from gradscope.records import Fix, ModelResult, Number, Outlook, Pair, Verdict
from gradscope.renderers import numbers
from gradscope.rules.advice import TRAIN_COPIES, is_textbook
from gradscope.rules.judge import unjudged_statuses
from gradscope.rules.wording import NARROW_INTERVAL
from gradscope.text import counted
from gradscope.verdicts import best_remedy

VERDICT_SIGNS = {"fail": "✗", "warn": "!", "inconclusive": "?", "skip": "-", "pass": "✓"}
RANDOM_INPUT = "random input, not your data"


def deciding(model: ModelResult) -> Verdict | None:
    """The verdict that the status rests on: failures before warnings, in the order of the rules."""
    found = [verdict for verdict in model.verdicts if verdict.gives == model.status]
    if not found and model.status == "inconclusive":
        found = [verdict for verdict in model.verdicts if verdict.status == "inconclusive"]
    return min(found, key=lambda verdict: verdict.status != "fail", default=None)


def other_findings(model: ModelResult) -> list[Verdict]:
    """Everything else that did not pass; errors first."""
    chosen = deciding(model)
    order = {"fail": 0, "warn": 1, "inconclusive": 2}
    rest = [verdict for verdict in model.verdicts if verdict.status in order and verdict is not chosen]
    return sorted(rest, key=lambda verdict: order[verdict.status])


def advice(model: ModelResult) -> list[str]:
    """What to try, no line twice: what was measured, then what belongs to failures, then what the status rests on."""
    chosen = deciding(model)
    findings = ([chosen] if chosen else []) + other_findings(model)
    # What makes a run fail comes before what its status rests on: a limit that is missed has advice of its own.
    findings.sort(key=lambda verdict: verdict.status != "fail" or verdict.accepted)
    tips = list(dict.fromkeys(verdict.advice for verdict in findings if verdict.advice))
    if model.probe is not None:
        tips = [tip for tip in tips if not tip.startswith(TRAIN_COPIES)]
    measured = measured_advice(model)
    if measured:
        # What the textbook says would stand against what was found.
        best = best_remedy(model.fixes, model.status, model.summary.gradient_share)
        cured = best is not None and (best.status == "healthy" or best.learned)
        textbook = {verdict.advice for verdict in findings if cured and is_textbook(verdict)}
        return [*measured, *(tip for tip in tips if not _names_model(tip) and tip not in textbook)]
    tips = [f"{tip} (not measured)" if model.fixes and _names_model(tip) else tip for tip in tips]
    return [*conclusion(model), *tips]


def _names_model(tip: str) -> bool:
    return any(f"`gradscope {command}" in tip for command in ("analyze", "compare"))


def measured_advice(model: ModelResult) -> list[str]:
    """The best remedy that was measured, with what it changes; nothing where none was, or none helps."""
    before = model.summary.gradient_share
    best = best_remedy(model.fixes, model.status, before)
    if best is None:
        return []
    if best.learned and best.change:
        return [f"{best.name} ({best.change}) was learned in {best.learned} of {best.runs} runs: trained."]
    what = f"{best.name} ({best.change})"
    if model.status == "exploding" or before is None or best.gradient_share is None or best.gradient_share <= before:
        return [f"{what} makes it {best.status}, with a gain of {numbers.gain(best.rate)} a step: measured."]
    share = f"{numbers.share(before)} to {numbers.share(best.gradient_share)}"
    reach = "" if best.reach is None else f", the reach to {best.reach}"
    return [f"{what} takes the share from {share}{reach}: measured."]


def conclusion(model: ModelResult) -> list[str]:
    """What it means that remedies were measured and none helps; nothing where one does, or none was measured."""
    tried = [fix for fix in model.fixes if fix.gradient_share is not None]
    if not tried or model.status == "healthy" or best_remedy(model.fixes, model.status, model.summary.gradient_share):
        return []
    said = "The one remedy" if len(tried) == 1 else f"None of the {len(tried)} remedies"
    verb = "does not give" if len(tried) == 1 else "gives"
    return [f"{said} that could be measured {verb} a better status: look at the loop, the data and the loss instead."]


def wants_remedies(model: ModelResult) -> bool:
    """Whether remedies of weights or cells could change what was found."""
    return model.status in ("vanishing", "exploding", "inconclusive")


def learned(fix: Fix) -> str:
    """`6 of 6, from step 100`: what a probe of a remedy found; empty where none was made."""
    if fix.runs is None:
        return ""
    since = f", from step {fix.learned_at}" if fix.learned_at is not None else ""
    return f"{fix.learned} of {fix.runs}{since}"


def sentences(model: ModelResult) -> list[str]:
    """What the verdict means, in one to three sentences; falls back on the rule's own message."""
    tell = {
        "vanishing": _vanishing,
        "exploding": _exploding,
        "non-finite": _non_finite,
        "degenerate": _degenerate,
        "inconclusive": _inconclusive,
        "healthy": _healthy,
    }[model.status]
    said = [sentence for sentence in tell(model) if sentence]
    chosen = deciding(model)
    if not said and chosen is not None:
        said = [chosen.message]
    if not said and reads_future(model):
        said = [f"It {model.skipped['reach']}: its lags have no direction."]
    return said or ["Nothing that would say more was measured; -v lists what is missing, and why."]


def by_reason(skipped: dict[str, str]) -> dict[str, list[str]]:
    """What could not be measured, grouped by why; a reason that a rule repeats after its metric's name counts once."""
    found: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        known = next((why for why in found if reason == why or reason.endswith(f"is not known: {why}")), reason)
        found.setdefault(known, []).append(name)
    return found


def lags(model: ModelResult) -> int | None:
    """The needed lag K, or the longest lag that was measured."""
    if model.summary.needed_lag is not None:
        return model.summary.needed_lag
    profile = Profile.of(model)
    return profile.longest if len(profile.values) > 1 else None


def all_lags(total: int) -> str:
    """`all 40 lags`."""
    return "the only lag" if total == 1 else f"all {counted(total, 'lag')}"


def per_step(model: ModelResult) -> str:
    """Gain per step back, and what it does to the signal."""
    rate = model.summary.rate
    if rate is None:
        return ""
    said = f"Each step back multiplies the gradient by {numbers.gain(rate)}."
    half_life = model.summary.half_life
    if half_life is None or not math.isfinite(half_life) or model.status == "healthy":
        return said
    if rate < 0:
        return f"{said} Half is lost every {numbers.plain(half_life, 2)} steps."
    return f"{said} It doubles every {numbers.plain(half_life, 2)} steps."


def farthest_share(model: ModelResult) -> str:
    """`step 1 gets 10^-52 of the signal`, for the step at the needed lag."""
    summary = model.summary
    if summary.gradient_share is None or summary.needed_lag is None or not model.series.step:
        return ""
    step = Profile.of(model).step_of(summary.needed_lag)
    return f"step {step} gets {numbers.share(summary.gradient_share)} of the signal"


def _vanishing(model: ModelResult) -> list[str]:
    total, reach = lags(model), model.summary.reach
    gets = farthest_share(model)
    if reach is None or total is None:
        first = f"{gets[0].upper()}{gets[1:]}." if gets else ""
    elif reach <= 0:
        first = f"It learns from none of {counted(total, 'lag')}" + (f"; {gets}." if gets else ".")
    elif reach < total:
        first = f"It learns only from the newest {reach} of {total} lags" + (f"; {gets}." if gets else ".")
    else:
        first = f"The signal fades, though some of it reaches {all_lags(total)}" + (f"; {gets}." if gets else ".")
    return [first, per_step(model), _zeros(model)]


def _zeros(model: ModelResult) -> str:
    if not model.summary.zero_lags or len(model.summary.zero_lags) < 2:
        return ""
    first, count = model.summary.zero_lags[:2]
    return f"It is exactly zero at {counted(count, 'lag')}, first at lag {first}."


def _exploding(model: ModelResult) -> list[str]:
    profile, first = Profile.of(model), ""
    newest, oldest = profile.step_of(1), profile.step_of(profile.longest)
    low, high = profile.at(newest), profile.at(oldest)
    over = model.summary.overflow_lags
    if over:
        first = (
            f"The signal grows until it overflows, {counted(over[0], 'lag')} back (step {profile.step_of(over[0])})."
        )
    elif oldest < newest and low is not None and high is not None and high > low:
        times = numbers.power(high - low) if high - low >= 2 else numbers.plain(10.0 ** (high - low), 2)
        first = f"The signal grows on its way back: step {oldest} gets {times} times what step {newest} gets."
    return [first, per_step(model)]


def _non_finite(model: ModelResult) -> list[str]:
    found = model.summary.non_finite
    if found is None:
        return []
    if found.where == "gradient":
        return [f"The gradient is {found.value} from step {found.step} back, though the forward pass is finite."]
    return [
        f"Step {found.step}, layer {found.layer}, {found.where}: the first {found.value} of the forward pass.",
        "No gradient that passes through it means anything.",
    ]


def _degenerate(model: ModelResult) -> list[str]:
    chosen, summary, total = deciding(model), model.summary, lags(model)
    is_cut = chosen is not None and chosen.code == "GS401" and chosen.measured == summary.cut is not None
    if chosen is not None and chosen.code != "GS103" and not is_cut:
        return [chosen.message]
    if summary.cut is not None:
        return [f"The gradient is cut at step {summary.cut}: nothing before it is learned from (a detach?).", ""]
    if summary.directions is not None and total is not None:
        over = f"Over {counted(total, 'lag')}"
        if not summary.directions:
            return [f"{over} nothing is left of the state: what differed there makes no difference here."]
        ways = "one direction" if summary.directions == 1 else f"{summary.directions} directions"
        return [f"{over} all states collapse onto {ways}: what differed there looks the same here."]
    return []


def _inconclusive(model: ModelResult) -> list[str]:
    if left_out := unjudged_statuses(model.verdicts):
        return [f"It was not judged for {' or '.join(left_out)}: --select or --ignore leaves those rules out."]
    total, interval = lags(model), model.summary.rate_ci
    chosen = deciding(model)
    if model.summary.rate is None or (chosen is not None and not chosen.advice.startswith(NARROW_INTERVAL)):
        return []
    said = f"Rate {numbers.plain(model.summary.rate)} nats/step"
    if interval is not None:
        said += f", 95 % interval {numbers.plain(interval[0])} to {numbers.plain(interval[1])}"
    if total is not None:
        said += f": over {counted(total, 'lag')} that is too uncertain to call"
    return [f"{said}."]


def _healthy(model: ModelResult) -> list[str]:
    total, reach = lags(model), model.summary.reach
    first = ""
    if total is not None and reach is not None:
        which = all_lags(total) if reach >= total else f"the newest {reach} of {counted(total, 'lag')}"
        first = f"{which[0].upper()}{which[1:]} can be learned from"
        gets = farthest_share(model)
        first += f"; {gets}." if gets else "."
    return [first, per_step(model)]


def outlook(found: Outlook) -> str:
    """What became of combinations like it, in one line; its own sentence says what is like it, and at which lags."""
    which = "trained combinations" if found.lags == "fixed" else "published cells"
    return f"{found.learned or 'none'} of {found.of} {which} like it learned (-v: which, and where)"


def reads_future(model: ModelResult) -> bool:
    """Whether outputs depend on later inputs, so that there is no reach."""
    return model.skipped.get("reach", "").startswith("reads the future")


UNTRAINED: dict[bool | None, str] = {
    True: "",
    False: "The model is untrained, so this shows its wiring, not what it understood.",
    None: "Its weights are as given: whether they were trained is not known here.",
}


def pair_sentence(pair: Pair, trained: bool | None) -> str:
    """How much the output at one token depends on another one, and whether that says anything about language."""
    said = (
        f"'{pair.target}' (step {pair.target_step}) depends on '{pair.source}' (step {pair.source_step}): "
        f"{_percent(pair.share)} of the summed influence, rank {pair.rank} of {pair.of} tokens."
    )
    return f"{said} {UNTRAINED[trained]}".rstrip()


def _percent(value: Number) -> str:
    if value is None:
        return "an unknown part"
    return numbers.share(math.log10(value) if value > 0 else -math.inf)
