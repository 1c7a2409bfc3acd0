"""The `probe` screen: learned or not, the learning curve, every run, and what the gradient did meanwhile."""

from __future__ import annotations

import math

from gradscope.records import ModelResult
from gradscope.renderers.terminal import model as terminal_model
from gradscope.renderers.text import numbers, probing, wording
from gradscope.renderers.text.page import Column, Page, Span
from gradscope.renderers.text.strip import BLOCKS, RAMP
from gradscope.trained import Probe, Training
from gradscope.verdicts import STATUSES


def screen(page: Page, model: ModelResult) -> None:
    """Write the whole screen of one probe."""
    probe = model.probe
    assert probe is not None
    verdict = probing.found(model)
    headline(page, model, probe)
    if probe.runs:
        curve(page, probing.best(probe), probe)
        runs(page, probe)
        meanwhile(page, probing.best(probe))
    else:
        page.wrap(f"{probing.unit(probe)}: {probing.limits(probe)}", style="dim")
        page.blank()
    prediction(page, model)
    terminal_model.fixes(page, model)
    tips = wording.advice(model)
    for tip in tips[:2] if verdict is not None and verdict.status != "pass" else ():
        page.wrap(tip, " try: ")
    for note in probe.notes:
        page.wrap(note, " note: ", "dim")
    page.blank()
    page.wrap("why: gradscope explain GS105   the gradient itself: gradscope analyze   data: --format json")


def headline(page: Page, model: ModelResult, probe: Probe) -> None:
    """`✓ LEARNED  recall, fixed lag 50  gru`, and what it means."""
    sign, word, style = probing.outcome(model, probe)
    page.line(Span(f" {sign} {word}", f"bold {style}"), Span(f"  {probing.asked(probe)}", "bold"), f"  {model.name}")
    if page.view.quiet:
        return
    page.wrap(model.heading, style="dim")
    page.wrap(probing.sentence(probe))
    page.blank()


def curve(page: Page, run: Training, probe: Probe) -> None:
    """The error over the steps of training, from chance (tall) to the goal (low)."""
    width = max(10, min(page.view.width - 2, len(run.errors)))
    errors = [error if error is not None else math.nan for error in run.errors]
    places = [round(column * (len(errors) - 1) / max(width - 1, 1)) for column in range(width)]
    page.line(" ", Span("".join(_glyph(errors[place], probe, page.view.ascii) for place in places)))
    last = errors[-1]
    page.wrap(
        f"{probing.unit(probe)} over {run.steps[-1]} steps, best run: {probing.number(errors[0])} to "
        f"{probing.number(last)}, least {probing.number(probing.least(run))}; {probing.limits(probe)}",
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
    *heads, last = probing.HEADS
    cells: list[list[str | Span]] = [[*row] for row in probing.rows(probe)]
    page.table([*map(Column, heads), Column(last, optional=True)], cells)
    page.wrap(probing.LEGEND, style="dim")
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
                probing.number(error),
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
        f"before training: {STATUSES[model.status].sign} {STATUSES[model.status].word}{code}. "
        + " ".join(wording.sentences(model))
    )
    page.blank()
