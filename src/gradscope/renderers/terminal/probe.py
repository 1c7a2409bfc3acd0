"""The `probe` screen: learned or not, the learning curve, every run, and what the gradient did meanwhile."""

from __future__ import annotations

import math

from gradscope.records import ModelResult, Number, Verdict
from gradscope.renderers.terminal import model as terminal_model
from gradscope.renderers.text import numbers, wording
from gradscope.renderers.text.columns import Column
from gradscope.renderers.text.page import Page, Span
from gradscope.renderers.text.strip import BLOCKS, RAMP
from gradscope.rules.outlook import PROBE
from gradscope.trained import Probe, Training

WORDS = {"pass": ("✓", "LEARNED", "#009E73"), "fail": ("✗", "NOT LEARNED", "#D55E00")}
UNITS = {"wrong": "share of wrong answers", "mse": "mean squared error", "nats": "cross-entropy in nats"}
UNSHOWN = ("?", "nothing shown", "grey62")


def screen(page: Page, model: ModelResult) -> None:
    """Write the whole screen of one probe."""
    probe = model.probe
    assert probe is not None
    verdict = found(model)
    headline(page, model, probe, verdict)
    curve(page, best(probe), probe)
    runs(page, probe)
    meanwhile(page, best(probe))
    prediction(page, model)
    terminal_model.fixes(page, model)
    tips = [tip for tip in wording.advice(model) if tip != PROBE]
    for tip in tips[:2] if verdict is not None and verdict.status != "pass" else ():
        page.wrap(tip, " try: ")
    for note in probe.notes:
        page.wrap(note, " note: ", "dim")
    page.blank()
    page.wrap("why: gradscope explain GS105   the gradient itself: gradscope analyze   data: --format json")


def found(model: ModelResult) -> Verdict | None:
    """What GS105 says."""
    return next((one for one in model.verdicts if one.code == "GS105"), None)


def headline(page: Page, model: ModelResult, probe: Probe, verdict: Verdict | None) -> None:
    """`✓ LEARNED  recall, fixed lag 50  gru · 6 runs of at most 800 steps`, and what it means."""
    sign, word, style = WORDS.get(verdict.status if verdict else "", UNSHOWN)
    what = f"  {probe.task}, {probe.lags} lag {probe.lag}"
    if probe.near is not None:
        what = f"  {probe.task}, lags of {probe.lag} and more"
    count = sum(run.learned_at is not None for run in probe.runs)
    if word == "LEARNED" and 2 * count < len(probe.runs):
        word = f"LEARNED by {count} of {len(probe.runs)}"
    page.line(Span(f" {sign} {word}", f"bold {style}"), Span(what, "bold"), f"  {model.name}")
    if page.view.quiet:
        return
    page.wrap(sentence(model, probe))
    page.blank()


def sentence(model: ModelResult, probe: Probe) -> str:
    """What came of it, in one sentence or two."""
    learned = [run.learned_at for run in probe.runs if run.learned_at is not None]
    count, of = len(learned), len(probe.runs)
    what = f"{probe.summary[0].upper()}{probe.summary[1:]}"
    back = f", {'up to ' if probe.lags == 'spread' else ''}{probe.lag} step{'s' * (probe.lag != 1)} back"
    asked = f"{what}{back if probe.near is None else ''}"
    if learned:
        return f"{asked}: learned in {count} of {of} runs, the first after {min(learned)} training steps."
    if not probe.complete:
        done = max((run.trained for run in probe.runs), default=0)
        return f"{asked}: interrupted after {done} of {probe.train_steps} training steps, not learned by then."
    said = f"{asked}: not within {probe.train_steps} training steps, in any of {of} runs."
    twin = probe.twin
    if twin is None:
        return said
    if twin.learned:
        return f"{said} {twin.name} learned it after {twin.learned_at}, so the task can be learned."
    return f"{said} {twin.name} did not either, so nothing is shown."


def best(probe: Probe) -> Training:
    """The run that learned first, else the one with the least error."""
    return min(probe.runs, key=lambda run: (run.learned_at or math.inf, least(run)))


def least(run: Training) -> float:
    """Its least error."""
    return min((error for error in run.errors if error is not None and not math.isnan(error)), default=math.inf)


def curve(page: Page, run: Training, probe: Probe) -> None:
    """The error over the steps of training, from chance (tall) to the goal (low)."""
    width = max(10, min(page.view.width - 2, len(run.errors)))
    errors = [error if error is not None else math.nan for error in run.errors]
    places = [round(column * (len(errors) - 1) / max(width - 1, 1)) for column in range(width)]
    page.line(" ", Span("".join(_glyph(errors[place], probe, page.view.ascii) for place in places)))
    last = errors[-1]
    near = "" if probe.near is None else f"newest {probe.lag} steps alone {_number(probe.near)}, "
    page.wrap(
        f"{UNITS[probe.unit]} over {run.steps[-1]} steps, best run: {_number(errors[0])} to {_number(last)}, "
        f"least {_number(least(run))}; "
        f"chance {_number(probe.chance)}, {near}learned at {_number(probe.goal)}",
        style="dim",
    )
    page.blank()


def _glyph(error: float, probe: Probe, ascii_only: bool) -> str:
    if math.isnan(error):
        return "?"
    levels = RAMP if ascii_only else BLOCKS
    part = (error - probe.goal) / max(probe.chance - probe.goal, 1e-12)
    return levels[max(0, min(len(levels) - 1, int(part * len(levels))))]


def runs(page: Page, probe: Probe) -> None:
    """Every run: learned when, least error, and what clipping did."""
    columns = [Column("rate"), Column("seed"), Column("learned at"), Column("least error"), Column("largest ‖g‖")]
    columns.append(Column("clipped", optional=True))
    rows: list[list[str | Span]] = []
    for run in sorted(probe.runs, key=lambda run: (run.rate, run.seed)):
        ended = f"lost at {run.lost_at}" if run.lost_at is not None else f"not in {run.trained}"
        largest = max((norm for norm in run.norms if norm is not None), default=None)
        part = f"{100 * run.clipped / run.trained:.0f} %" if run.trained else numbers.MISSING
        rows.append(
            [
                f"{run.rate:g}",
                str(run.seed),
                str(run.learned_at) if run.learned_at is not None else ended,
                _number(least(run)),
                _number(largest),
                part,
            ]
        )
    page.table(columns, rows)
    page.wrap("‖g‖ is raw, before clipping at 1; clipped: share of steps", style="dim")
    page.blank()


def meanwhile(page: Page, run: Training) -> None:
    """How far back the gradient reached while it learned."""
    seen = [one for one in run.sights if one.gradient_share is not None]
    if not seen:
        return
    columns = [Column("step"), Column("share at lag"), Column("reach"), Column("rate"), Column("error")]
    rows: list[list[str | Span]] = []
    for one in seen:
        error = next((e for step, e in reversed([*zip(run.steps, run.errors, strict=True)]) if step <= one.step), None)
        share = numbers.share(one.gradient_share) if one.gradient_share is not None else numbers.MISSING
        rows.append(
            [
                str(one.step),
                share,
                numbers.MISSING if one.reach is None else str(one.reach),
                numbers.plain(one.rate),
                _number(error),
            ]
        )
    page.table(columns, rows)
    page.wrap("of the training loss's own gradient, best run; clipping scales all lags alike", style="dim")
    page.blank()


def prediction(page: Page, model: ModelResult) -> None:
    """What was said of it before it was trained."""
    chosen = wording.deciding(model)
    code = f" ({chosen.code})" if chosen is not None and chosen.code != "GS105" else ""
    page.wrap(
        f"before training: {wording.SIGNS[model.status]} {wording.WORDS[model.status]}{code}. "
        + " ".join(wording.sentences(model))
    )
    page.blank()


def _number(value: Number) -> str:
    if value is None or math.isnan(value):
        return numbers.MISSING
    return f"{value:.3g}"
