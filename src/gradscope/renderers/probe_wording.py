"""A probe in words and cells, for every form that shows one, and its screen: the learning curve and every run."""

from __future__ import annotations

import math

from gradscope.records import ModelResult, Number, Verdict
from gradscope.renderers import numbers, report_screen, report_wording
from gradscope.renderers.strips import BLOCKS, RAMP
from gradscope.renderers.styled_text import Column, Page, Span
from gradscope.trained import Probe, Training
from gradscope.verdicts import STATUSES

WORDS = {"pass": ("✓", "LEARNED", "#009E73"), "fail": ("✗", "NOT LEARNED", "#D55E00")}
UNSHOWN = ("?", "nothing shown", "grey62")
UNITS = {"wrong": "share of wrong answers", "mse": "mean squared error", "nats": "cross-entropy in nats"}
HEADS = ("rate", "seed", "learned at", "least error", "largest ‖g‖", "clipped")
LEGEND = "‖g‖ is raw, before clipping at 1; clipped: share of steps"


def found(model: ModelResult) -> Verdict | None:
    """What GS105 says."""
    return next((one for one in model.verdicts if one.code == "GS105"), None)


def outcome(model: ModelResult, probe: Probe) -> tuple[str, str, str]:
    """Sign, word and colour: `✓`, `LEARNED by 2 of 6`."""
    verdict = found(model)
    sign, word, style = WORDS.get(verdict.status if verdict else "", UNSHOWN)
    count = sum(run.learned_at is not None for run in probe.runs)
    if word == "LEARNED" and 2 * count < len(probe.runs):
        word = f"LEARNED by {count} of {len(probe.runs)}"
    return sign, word, style


def of_own_data(probe: Probe) -> bool:
    """Whether it asks what the user's own data ask; one that ended while the goal was measured has no runs."""
    return probe.near is not None or not probe.runs


def asked(probe: Probe) -> str:
    """`recall, fixed lag 50`."""
    return (
        f"{probe.task}, lags of {probe.lag} and more"
        if of_own_data(probe)
        else f"{probe.task}, {probe.lags} lag {probe.lag}"
    )


def sentence(probe: Probe) -> str:
    """What came of it, in one sentence or two."""
    learned = [run.learned_at for run in probe.runs if run.learned_at is not None]
    count, of = len(learned), len(probe.runs)
    what = f"{probe.summary[0].upper()}{probe.summary[1:]}"
    back = f", {'up to ' if probe.lags == 'spread' else ''}{probe.lag} step{'s' * (probe.lag != 1)} back"
    said = f"{what}{'' if of_own_data(probe) else back}"
    if not probe.runs and not probe.complete:
        return f"{said}: interrupted while what those steps allow was measured."
    if not probe.runs:
        return f"{said}: they tell it by themselves, so older ones have nothing to add and nothing is shown."
    if probe.near is not None and count == 1 < of:
        return f"{said}: done in 1 of {of} runs alone, which may be luck."
    if learned:
        return f"{said}: learned in {count} of {of} runs, the first after {min(learned)} training steps."
    if not probe.complete:
        done = max((run.trained for run in probe.runs), default=0)
        return f"{said}: interrupted after {done} of {probe.train_steps} training steps, not learned by then."
    said = f"{said}: not within {probe.train_steps} training steps, in any of {of} runs."
    twin = probe.twin
    if twin is None:
        return said if probe.near is None else f"{said} No twin could be trained, so nothing is shown."
    if twin.learned:
        return f"{said} {twin.name} learned it after {twin.learned_at}, so the task can be learned."
    return f"{said} {twin.name} did not either, so nothing is shown."


def unit(probe: Probe) -> str:
    """What errors are."""
    return UNITS.get(probe.unit, probe.unit)


def limits(probe: Probe) -> str:
    """`chance 0.75, learned at 0.1`."""
    near = "" if probe.near is None else f"newest {probe.lag} steps alone {number(probe.near)}, "
    goal = f"learned at {number(probe.goal)}" if probe.goal else "nothing below to learn"
    return f"chance {number(probe.chance)}, {near}{goal}"


def best(probe: Probe) -> Training:
    """The run that learned first, else the one with the least error."""
    return min(probe.runs, key=lambda run: (run.learned_at or math.inf, least(run)))


def least(run: Training) -> float:
    """Its least error."""
    return min((error for error in run.errors if error is not None and not math.isnan(error)), default=math.inf)


def rows(probe: Probe) -> list[list[str]]:
    """Every run under `HEADS`: learned when, least error, and what clipping did."""
    cells = []
    for run in sorted(probe.runs, key=lambda run: (run.rate, run.seed)):
        ended = f"lost at {run.lost_at}" if run.lost_at is not None else f"not in {run.trained}"
        learned = str(run.learned_at) if run.learned_at is not None else ended
        largest = max((norm for norm in run.norms if norm is not None), default=None)
        part = f"{100 * run.clipped / run.trained:.0f} %" if run.trained else numbers.MISSING
        cells.append([f"{run.rate:g}", str(run.seed), learned, number(least(run)), number(largest), part])
    return cells


def number(value: Number) -> str:
    """An error or a norm to three digits."""
    return numbers.MISSING if value is None or math.isnan(value) else f"{value:.3g}"


def screen(page: Page, model: ModelResult) -> None:
    """Write the whole screen of one probe."""
    probe = model.probe
    assert probe is not None
    verdict = found(model)
    headline(page, model, probe)
    if probe.runs:
        curve(page, best(probe), probe)
        runs(page, probe)
        meanwhile(page, best(probe))
    else:
        page.wrap(f"{unit(probe)}: {limits(probe)}", style="dim")
        page.blank()
    prediction(page, model)
    report_screen.fixes(page, model)
    tips = report_wording.advice(model)
    for tip in tips[:2] if verdict is not None and verdict.status != "pass" else ():
        page.wrap(tip, " try: ")
    for note in probe.notes:
        page.wrap(note, " note: ", "dim")
    page.blank()
    page.wrap("why: gradscope explain GS105   the gradient itself: gradscope analyze   data: --format json")


def headline(page: Page, model: ModelResult, probe: Probe) -> None:
    """`✓ LEARNED  recall, fixed lag 50  gru`, and what it means."""
    sign, word, style = outcome(model, probe)
    page.line(Span(f" {sign} {word}", f"bold {style}"), Span(f"  {asked(probe)}", "bold"), f"  {model.name}")
    if page.view.quiet:
        return
    page.wrap(model.heading, style="dim")
    page.wrap(sentence(probe))
    page.blank()


def curve(page: Page, run: Training, probe: Probe) -> None:
    """The error over the steps of training, from chance (tall) to the goal (low)."""
    width = max(10, min(page.view.width - 2, len(run.errors)))
    errors = [error if error is not None else math.nan for error in run.errors]
    places = [round(column * (len(errors) - 1) / max(width - 1, 1)) for column in range(width)]
    page.line(" ", Span("".join(_glyph(errors[place], probe, page.view.ascii) for place in places)))
    last = errors[-1]
    page.wrap(
        f"{unit(probe)} over {run.steps[-1]} steps, best run: {number(errors[0])} to "
        f"{number(last)}, least {number(least(run))}; {limits(probe)}",
        style="dim",
    )
    page.blank()


def _glyph(error: float, probe: Probe, ascii_only: bool) -> str:
    if math.isnan(error):
        return "?"
    levels = RAMP if ascii_only else BLOCKS
    part = (error - probe.goal) / max(probe.chance - probe.goal, 1e-12)
    # An error beyond all numbers, as of a model that explodes, is as tall as can be drawn.
    return levels[min(len(levels) - 1, int(max(0.0, min(part, 1.0)) * len(levels)))]


def runs(page: Page, probe: Probe) -> None:
    """Every run: learned when, least error, and what clipping did."""
    *heads, last = HEADS
    cells: list[list[str | Span]] = [[*row] for row in rows(probe)]
    page.table([*map(Column, heads), Column(last, optional=True)], cells)
    page.wrap(LEGEND, style="dim")
    page.blank()


def meanwhile(page: Page, run: Training) -> None:
    """How far back the gradient reached while it learned."""
    seen = [one for one in run.sights if one.gradient_share is not None]
    if not seen:
        return
    columns = [Column("step"), Column("share at lag"), Column("reach"), Column("rate"), Column("error")]
    rows: list[list[str | Span]] = []
    for one in seen:
        error = dict(zip(run.steps, run.errors, strict=True)).get(one.step)
        share = numbers.share(one.gradient_share) if one.gradient_share is not None else numbers.MISSING
        rows.append(
            [
                str(one.step),
                share,
                numbers.MISSING if one.reach is None else str(one.reach),
                numbers.plain(one.rate),
                number(error),
            ]
        )
    page.table(columns, rows)
    page.wrap("of the training loss's own gradient, best run; clipping scales all lags alike", style="dim")
    page.blank()


def prediction(page: Page, model: ModelResult) -> None:
    """What was said of it before it was trained."""
    chosen = report_wording.deciding(model)
    code = f" ({chosen.code})" if chosen is not None and chosen.code != "GS105" else ""
    page.wrap(
        f"before training: {STATUSES[model.status].sign} {STATUSES[model.status].word}{code}. "
        + " ".join(report_wording.sentences(model))
    )
    page.blank()
