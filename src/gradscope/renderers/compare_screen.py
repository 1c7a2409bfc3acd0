"""The `compare` screen: which model still hears the first step, at a glance, and what each one costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradscope.records import ModelResult, Report
from gradscope.renderers import drawings, number_blocks, numbers, probe_wording, report_screen, report_wording
from gradscope.renderers.strips import Strip, influence_strip, last_steps, newest_steps
from gradscope.renderers.styled_text import Column, Page, Span, measure, pad
from gradscope.rules.wording import NARROW_INTERVAL
from gradscope.text import counted
from gradscope.verdicts import STATUSES

FEW_TIPS = 2
"""Remedies that a short screen names."""
NAME = Column("model", left=True, flexible=True)
FIGURES_LEGEND = (
    "rate: nats per step back, 0 is ideal; reach: lags that keep 1 % of the newest signal; share: of the gradient, "
    "at the needed lag; range: mean lag, weighted by influence; directions: that the state still tells apart there"
)


def screen(page: Page, report: Report) -> None:
    """Write what is seen in five seconds: question, answer, strips, what to try; numbers and costs when verbose."""
    models, verbose = best_first(report.models), page.view.verbose > 0
    headline(page, models)
    page.wrap(answer(models))
    page.blank()
    strips(page, models)
    for model in models:
        if model.probe is not None:
            sign, word, style = probe_wording.outcome(model, model.probe)
            page.wrap(probe_wording.sentence(model.probe), Span(f" {sign} {model.name} {word}: ", style))
    if any(model.probe is not None for model in models):
        page.blank()
    if verbose:
        figures(page, models)
        number_blocks.costs(page, models, report)
    for model in models:
        drawings.pictures(page, model)
        drawings.pairs(page, model, named=True)
        if verbose and "attention" not in page.view.show:
            drawings.heat_map(page, model)
    notes(page, models)
    findings(page, models)
    page.wrap(closing(models, verbose))


def best_first(models: tuple[ModelResult, ...]) -> list[ModelResult]:
    """Healthy first, then by reach, then by how close the rate is to 0."""

    def order(model: ModelResult) -> tuple[bool, int, float]:
        rate = model.summary.rate
        reach = model.summary.reach if model.summary.reach is not None else -1
        return model.status != "healthy", -reach, abs(rate) if rate is not None and rate == rate else math.inf

    return sorted(models, key=order)


def question(models: list[ModelResult]) -> str:
    """What the comparison answers, with the needed lag where all models share one."""
    lags = {report_wording.lags(model) for model in models}
    lag = lags.pop() if len(lags) == 1 else None
    return "Which model still hears the past?" if lag is None else f"Which model still hears {lag} steps back?"


def headline(page: Page, models: list[ModelResult]) -> None:
    """The question, and the settings that all models share."""
    page.line(Span(f" {question(models)}", "bold"))
    shared = [piece for piece in models[0].heading.split(" · ") if all(piece in m.heading.split(" · ") for m in models)]
    if any(shared):
        page.wrap(" · ".join(shared), style="dim")
    if any(report_wording.RANDOM_INPUT in model.notes for model in models):
        page.line(Span(f" ! {report_wording.RANDOM_INPUT}", "bold"))
    page.blank()


def answer(models: list[ModelResult]) -> str:
    """One sentence: who remembers, who forgets, and when."""
    ahead = [m.name for m in models if report_wording.reads_future(m) and m.status == "healthy"]
    parts = [_group("reaches", "reach", [m for m in models if m.status == "healthy" and m.name not in ahead])]
    if ahead:
        parts.append(f"{_joined(ahead)} {'reads' if len(ahead) == 1 else 'read'} the future, where no reach is defined")
    forgetting = [m for m in models if m.status == "vanishing"]
    parts.append(_joined([_after(m, first=i == 0) for i, m in enumerate(forgetting)]))
    parts += [
        f"{m.name} explodes, times {numbers.gain(m.summary.rate)} a step" for m in models if m.status == "exploding"
    ]
    for model in (m for m in models if m.status == "non-finite"):
        found = model.summary.non_finite
        parts.append(
            f"{model.name} turns {found.value} at step {found.step}" if found else f"{model.name} is not finite"
        )
    parts += [f"{m.name} is degenerate" for m in models if m.status == "degenerate"]
    parts += [_open(m) for m in models if m.status == "inconclusive"]
    return "; ".join(part for part in parts if part) + "."


def _open(model: ModelResult) -> str:
    """Of a model without a verdict: whether it was measured too roughly, or what was measured does not decide."""
    chosen = report_wording.deciding(model)
    if chosen is not None and chosen.advice.startswith(NARROW_INTERVAL):
        return f"{model.name} is too uncertain to call"
    return f"{model.name} is undecided"


def _group(one: str, many: str, models: list[ModelResult]) -> str:
    if not models:
        return ""
    reaches = [m.summary.reach for m in models]
    if len(set(reaches)) > 1:
        return _joined([f"{m.name} reaches {_lags(m)}" for m in models])
    return f"{_joined([m.name for m in models])} {one if len(models) == 1 else many} {_lags(models[0])}"


def _lags(model: ModelResult) -> str:
    total, reach = report_wording.lags(model), model.summary.reach
    if reach is None or total is None:
        return "back as far as was measured"
    return report_wording.all_lags(total) if reach >= total else f"{reach} of {counted(total, 'lag')}"


def _after(model: ModelResult, first: bool) -> str:
    reach = model.summary.reach
    if reach is None:
        return f"{model.name} forgets"
    return f"{model.name} forgets after {counted(reach, 'step')}" if first else f"{model.name} after {reach}"


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def strips(page: Page, models: list[ModelResult]) -> None:
    """A strip per model under one axis, with its status."""
    says = [status_of(model) for model in models]
    wide = min(max(measure(page.fold(model.name)) for model in models), 20)
    sign = max(len(page.fold(STATUSES[model.status].sign)) for model in models)
    room = page.view.width - sign - wide - max(len(said) for said in says) - 7
    if page.narrow:
        room = page.view.width - 2
    drawn = [influence_strip(model, max(10, room), page.view.ascii) for model in models]
    _block(page, models, drawn, says, sign, wide)
    seen = [strip for strip in drawn if strip is not None]
    if seen:
        page.wrap(report_screen.legend(page, seen), style="dim")
    newest = max((newest_steps(model.series, max(10, room)) or 0 for model in models), default=0)
    if newest:
        close = [last_steps(model.series, newest, max(10, room), page.view.ascii) for model in models]
        _block(page, models, close, says, sign, wide)
        scale = next((strip.scale() for strip in close if strip is not None), "")
        page.wrap(f"the newest steps, enlarged; {scale}", style="dim")
    page.blank()


def _block(
    page: Page, models: list[ModelResult], drawn: Sequence[Strip | None], says: Sequence[str], sign: int, wide: int
) -> None:
    """The strips of all models under each other."""
    axis = next((strip.axis() for strip in drawn if strip is not None), "")
    if not page.narrow:
        page.line(" " * (sign + wide + 5), Span(axis, "dim"))
    for model, strip, said in zip(models, drawn, says, strict=True):
        style = STATUSES[model.status].style
        mark = page.fold(STATUSES[model.status].sign)
        name = page.clip(page.fold(model.name), wide)
        glyphs = strip.glyphs if strip else "(nothing to draw)"
        if page.narrow:
            page.line(Span(f" {mark} {name}: ", style), said)
            page.line(" ", Span(glyphs, style))
            continue
        fill = " " * (len(axis) - len(glyphs) if len(axis) > len(glyphs) else 0)
        lead = f" {mark:<{sign}}  {pad(name, wide)}  "
        page.line(Span(lead, style), Span(glyphs, style), fill, Span(f"  {said}", f"bold {style}"))


def status_of(model: ModelResult) -> str:
    """Status word and the code it rests on."""
    chosen = report_wording.deciding(model)
    return STATUSES[model.status].word + (f" {chosen.code}" if chosen else "")


def figure_rows(models: list[ModelResult]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: what each model remembers."""
    heads = ["model", "rate", "half-life", "reach", "share", "range", "directions"]
    return heads, [_figures(model) for model in models]


def _figures(model: ModelResult) -> list[str]:
    s = model.summary
    half = numbers.plain(s.half_life, 2)
    if s.half_life is not None and s.rate is not None and s.rate > 0:
        half = f"doubles in {half}"
    return [
        model.name,
        numbers.plain(s.rate),
        half,
        numbers.MISSING if s.reach is None else str(s.reach),
        numbers.share(s.gradient_share),
        numbers.plain(s.temporal_range),
        numbers.MISSING if s.directions is None else str(s.directions),
    ]


def figures(page: Page, models: list[ModelResult]) -> None:
    """One row of numbers per model."""
    heads, rows = figure_rows(models)
    page.table([NAME, *(Column(head, optional=i > 4) for i, head in enumerate(heads) if i)], rows)
    page.wrap(FIGURES_LEGEND, style="dim")
    page.blank()


def notes(page: Page, models: list[ModelResult]) -> None:
    """What was assumed or done to the data: once where it holds for all models, else by model."""
    everywhere = [note for note in models[0].notes if all(note in model.notes for model in models)]
    shared = [note for note in everywhere if note != report_wording.RANDOM_INPUT]
    for note in shared:
        page.wrap(note, " note: ", "dim")
    for model in models:
        own = [
            note for note in (*model.notes, *model.loaded.assumed) if note not in (*shared, report_wording.RANDOM_INPUT)
        ]
        for note in own if page.view.verbose else own[:1]:
            page.wrap(f"{model.name}: {note}", " note: ", "dim")


def findings(page: Page, models: list[ModelResult]) -> None:
    """Remaining findings (their codes; what they say when verbose), and what to try, model by model."""
    others = [(model, report_wording.other_findings(model)) for model in models]
    for model, found in others if page.view.verbose else ():
        for verdict in found:
            sign = report_wording.VERDICT_SIGNS[verdict.status]
            page.wrap(verdict.message, f" {sign} {model.name} {verdict.code}  ")
    brief = [f"{model.name} {' '.join(verdict.code for verdict in found)}" for model, found in others if found]
    if brief and not page.view.verbose:
        page.wrap("; ".join(brief) + " (-v says what)", " also found: ", "dim")
    if page.view.verbose:
        page.blank()
    for names, tip in _tips(models, most=None if page.view.verbose else 1)[: None if page.view.verbose else FEW_TIPS]:
        page.wrap(tip, f" try for {_joined(names)}: ")
    for model in models:
        for reason, names in report_wording.by_reason(model.skipped).items() if page.view.verbose else ():
            page.wrap(f"{model.name} {', '.join(names)}: {reason}", " not measured: ", "dim")
    page.blank()


def _tips(models: list[ModelResult], most: int | None) -> list[tuple[list[str], str]]:
    """What to try, each once, with the models it is for: at most `most` for each of them."""
    found: dict[str, list[str]] = {}
    for model in models:
        for tip in report_wording.advice(model)[:most]:
            found.setdefault(tip, []).append(model.name)
    return [(names, tip) for tip, names in found.items()]


def closing(models: list[ModelResult], verbose: bool) -> str:
    """Where to read more."""
    codes = [chosen.code for chosen in map(report_wording.deciding, models) if chosen]
    why = f"why: gradscope explain {codes[0]}" if codes else "rules: gradscope rules"
    more = "data: --format json" if verbose else "numbers and costs: -v   page: -o page.html"
    return f"{why}   {more}"
