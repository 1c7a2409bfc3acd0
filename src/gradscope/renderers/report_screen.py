"""The `analyze` screen: verdict first, then what it means, the picture, the telling rows, and where to read more."""

from __future__ import annotations

import math

from gradscope.profile import INFLUENCE
from gradscope.records import Layer, ModelResult
from gradscope.renderers import drawings, number_blocks, numbers, report_wording
from gradscope.renderers.strips import Strip, Timeline, influence_strip, newest_strip, series_strip, telling_rows
from gradscope.renderers.styled_text import Column, Page, Span, measure
from gradscope.verdicts import STATUSES

DRAWN = {
    INFLUENCE: "tall = strong (log, lag 1 = 1)",
    "log10_grad_input": "tall = large ‖dL/dx‖ (log, lag 1 = 1)",
    "log10_grad_state": "tall = large ‖dL/ds‖ (log, lag 1 = 1)",
}
SHORT_REMARKS = {
    "◂ reach ends (1 %)": "◂ reach",
    "◂ needed lag": "◂ needed",
    "◂ smallest ‖J‖": "◂ min ‖J‖",
    "◂ largest ‖J‖": "◂ max ‖J‖",
    "◂ gradient cut": "◂ cut",
}
SMALLEST_SHARE = -290.0
"""log10 of the share below which its plain value underflows."""
COLUMNS = (
    ("‖J‖", "log10_jacobian_norm"),
    ("‖P‖=σmax", "log10_product_norm"),
    ("σmin", "log10_product_min"),
    ("‖dL/ds‖", "log10_grad_state"),
    ("‖dL/dx‖", "log10_grad_input"),
)


def screen(page: Page, model: ModelResult) -> None:
    """Write the whole screen of one model."""
    beginning(page, model)
    drawings.pictures(page, model)
    table(page, model)
    number_blocks.summary(page, model)
    layers(page, model)
    drawings.pairs(page, model)
    if "attention" not in page.view.show:
        drawings.heat_map(page, model)
    findings(page, model)
    fixes(page, model)
    remarks(page, model)
    closing(page, model)


def beginning(page: Page, model: ModelResult) -> None:
    """Verdict, what it means, and the picture: known before any Jacobian."""
    verdict_line(page, model)
    if report_wording.RANDOM_INPUT in model.notes:
        page.line(Span(f" ! {report_wording.RANDOM_INPUT}", "bold"))
    said = report_wording.sentences(model)
    # A line per sentence where each fits on one; else one paragraph, so that no line holds a lone word.
    for sentence in said if all(len(s) < page.view.width for s in said) else [" ".join(said)]:
        page.wrap(sentence)
    if model.outlook is not None:
        page.wrap(
            model.outlook.sentence if page.view.verbose else report_wording.outlook(model.outlook), " outlook: ", "dim"
        )
    page.blank()
    picture(page, model)


def verdict_line(page: Page, model: ModelResult) -> None:
    """`✗ VANISHING  GS101  rnn · 1x64 · T=200 ...`; settings that do not fit get their own line."""
    chosen = report_wording.deciding(model)
    style = STATUSES[model.status].style
    word = f" {STATUSES[model.status].sign} {STATUSES[model.status].word}"
    code = f"  {chosen.code}" if chosen else ""
    name = f"{model.name} · {model.heading}" if model.heading else f"{model.name} · T={model.length}"
    if page.narrow:
        page.line(Span(word + code, f"bold {style}"))
        page.wrap(name)
        return
    lead = len(page.fold(word + code)) + 2
    fits = lead + measure(page.fold(name)) <= page.view.width
    page.line(Span(word, f"bold {style}"), Span(code, "bold"), f"  {name if fits else model.name}")
    if not fits:
        page.wrap(model.heading, " " * lead)


def picture(page: Page, model: ModelResult) -> None:
    """The strip over time with its axis and legend."""
    strip = influence_strip(model, page.view.width - 2, page.view.ascii)
    if strip is None:
        reason = model.skipped.get(INFLUENCE, "nothing was measured over time")
        page.wrap(f"(no picture over time: {reason})", style="dim")
        page.blank()
        return
    page.line(" ", Span(strip.axis(), "dim"))
    page.line(" ", Span(strip.glyphs, STATUSES[model.status].style))
    newest = newest_strip(model.series, page.view.width - 2, page.view.ascii)
    page.wrap(legend(page, [strip, newest] if newest else [strip]), style="dim")
    if newest:
        page.blank()
        page.line(" ", Span(newest.axis(), "dim"))
        page.line(" ", Span(newest.glyphs, STATUSES[model.status].style))
        page.wrap(f"the newest steps, enlarged; {newest.scale()}", style="dim")
    page.blank()


def legend(page: Page, strips: list[Strip]) -> str:
    """How to read strips of one width: scale, marks that occur, and how many steps a column stands for."""
    longest = max(strips, key=lambda strip: strip.steps)
    seen = {glyph for strip in strips for glyph in strip.glyphs}
    under, over = ("_", "!") if page.view.ascii else ("·", "▲")
    marks = {under: f"{under} under 1e-12", over: f"{over} over 1e6", "?": "? not a number"}
    return "; ".join([DRAWN[longest.of], *(text for mark, text in marks.items() if mark in seen), longest.scale()])


def table(page: Page, model: ModelResult) -> None:
    """The telling rows, or the steps that were asked for."""
    timeline = Timeline(model.series)
    rows = telling_rows(model, timeline, page.view)
    shown = [(head, name) for head, name in COLUMNS if any(timeline.at(name, place) is not None for place in rows)]
    if not rows or not timeline.series.values:
        return
    columns = [Column("step"), Column("lag")]
    columns += [Column("token", left=True, flexible=True)] if model.series.token else []
    columns += [Column(head, optional=True) for head, _ in shown]
    with_share = any(timeline.at("weight_share", place) is not None for place in rows)
    columns += [Column("share of dL/dW" if len(columns) < 7 else "of dL/dW", optional=True)] if with_share else []
    cells = []
    for place in rows:
        lag = timeline.lag(place)
        row = [str(timeline.step[place]), numbers.MISSING if lag is None else str(lag)]
        row += [page.clip(page.fold(timeline.token(place) or ""), 14)] if model.series.token else []
        row += [_cell(name, timeline, place) for _, name in shown]
        row += [_share(timeline, place)] if with_share else []
        cells.append(row)
    page.table(columns, cells, remarks=[(remark, SHORT_REMARKS.get(remark, remark)) for remark in rows.values()])
    page.blank()


def _share(timeline: Timeline, place: int) -> str:
    """A step's share of the weight gradient, from its logarithm where a plain number would be too small to hold it."""
    share, log10 = timeline.at("weight_share", place), timeline.at("log10_weight_share", place)
    if log10 is not None and math.isfinite(log10) and log10 < SMALLEST_SHARE:
        return f"{numbers.scientific(log10 + 2)} %"
    return numbers.percent(share)


def _cell(name: str, timeline: Timeline, place: int) -> str:
    value = timeline.at(name, place)
    return numbers.readable(value) if name == "log10_jacobian_norm" else numbers.scientific(value)


def layers(page: Page, model: ModelResult) -> None:
    """A short strip per layer, where layers are judged by themselves."""
    if not model.layers:
        return
    rows: list[list[str | Span]] = []
    for layer in model.layers:
        strip = series_strip(layer.series, 30, page.view.ascii)
        drawn = strip.glyphs if strip else ""
        rows.append([layer.name, *_layer_cells(layer), Span(drawn, STATUSES[model.status].style)])
    columns = [
        Column("layer", left=True, flexible=True),
        Column("reach"),
        Column("rate"),
        Column("over time", left=True),
    ]
    page.table(columns, rows)
    if any(layer.name.endswith("reverse") for layer in model.layers):
        page.wrap("a reverse layer reads from the last step to the first; drawn by the steps of its input", style="dim")
    page.blank()


def _layer_cells(layer: Layer) -> list[str]:
    return [numbers.plain(layer.summary.get(name)) for name in ("reach", "rate")]


def findings(page: Page, model: ModelResult) -> None:
    """Every other rule that did not pass, and what to try."""
    others = report_wording.other_findings(model)
    for verdict in others:
        style = "bold" if verdict.status == "fail" else ""
        page.wrap(verdict.message, Span(f" {report_wording.VERDICT_SIGNS[verdict.status]} {verdict.code}  ", style))
    tips = report_wording.advice(model)
    for tip in tips if page.view.verbose else tips[:2]:
        page.wrap(tip, " try: ")
    if "fixes" in model.skipped:
        page.wrap(f"--fix: {model.skipped['fixes']}", " ", "dim")
    elif tips and not model.fixes and report_wording.wants_remedies(model):
        page.wrap("remedies are not measured on this model yet: --fix does", " ", "dim")
    if others or tips:
        page.blank()


def fixes(page: Page, model: ModelResult) -> None:
    """Remedies that were applied to a copy and measured."""
    if not model.fixes:
        return
    page.line(Span(" Measured fixes (same input, same seed)", "bold"))
    rows: list[list[str | Span]] = []
    trained = any(fix.runs is not None for fix in model.fixes)
    for fix in model.fixes:
        measured = (fix.gradient_share, fix.reach, fix.rate) != (None, None, None)
        word = f"{STATUSES[fix.status].sign} {STATUSES[fix.status].word}" if measured else ""
        status = Span(word, STATUSES[fix.status].style)
        reach = numbers.MISSING if fix.reach is None else str(fix.reach)
        share = numbers.MISSING if fix.gradient_share is None else numbers.share(fix.gradient_share)
        row: list[str | Span] = [fix.name, fix.change, share]
        rows.append([*row, report_wording.learned(fix)] if trained else [*row, reach, numbers.gain(fix.rate), status])
    # What the best remedy changes is worth more than the gain, where there is room for one of them.
    least = 31 if page.view.width > 75 else 8
    columns = [Column("fix", left=True), Column("change", left=True, flexible=True, least=least), Column("share")]
    # Where remedies were trained, what came of it takes the place of what was expected.
    rest = [Column("reach", optional=True), Column("gain", optional=True), Column("", left=True)]
    page.table([*columns, *([Column("learned", left=True)] if trained else rest)], rows)
    if trained:
        page.wrap("learned: runs of as many; those without were not trained", style="dim")
    page.blank()


def remarks(page: Page, model: ModelResult) -> None:
    """What was assumed, and what could not be measured: nothing silent."""
    notes = [note for note in model.notes if note != report_wording.RANDOM_INPUT]
    for note in [*notes, *model.loaded.assumed]:
        page.wrap(note, " note: ", "dim")
    skipped_rules = {v.code: v.message for v in model.verdicts if v.status == "skip"}
    skipped = {**model.skipped, **skipped_rules}
    if skipped and page.view.verbose:
        for reason, names in report_wording.by_reason(skipped).items():
            page.wrap(f"{', '.join(names)}: {reason}", " not measured: ", "dim")
    elif skipped:
        named = list(skipped)
        rest = f" and {len(named) - 6} more" if len(named) > 6 else ""
        page.wrap(f"{', '.join(named[:6])}{rest} (-v says why)", " not measured: ", "dim")
    if page.view.verbose:
        passed = [verdict.code for verdict in model.verdicts if verdict.status == "pass"]
        page.wrap(" ".join(passed) or "none", " passed: ", "dim")
    page.blank()


def closing(page: Page, model: ModelResult) -> None:
    """Where to read more."""
    chosen = report_wording.deciding(model)
    why = f"why: gradscope explain {chosen.code}" if chosen else "rules: gradscope rules"
    page.wrap(f"{why}   every step: --steps all   data: --format json")
