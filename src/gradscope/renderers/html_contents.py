"""What a page says in words and in its table over time, as plain records that its template lays out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gradscope.profile import INFLUENCE
from gradscope.records import ModelResult, Report
from gradscope.renderers import check_screen, compare_screen, number_blocks, numbers, probe_wording, report_wording
from gradscope.renderers.strips import Timeline, telling_rows
from gradscope.renderers.view import View
from gradscope.text import safe_text
from gradscope.verdicts import STATUSES

ALL = 400
"""Steps up to which every one gets a row."""
STRETCHES = 150
COLUMNS = (
    ("influence", INFLUENCE),
    ("‖J‖", "log10_jacobian_norm"),
    ("‖P‖ = σmax", "log10_product_norm"),
    ("σmin", "log10_product_min"),
    ("‖dL/ds‖", "log10_grad_state"),
    ("‖dL/dx‖", "log10_grad_input"),
)


@dataclass(frozen=True)
class Cell:
    """What is written, and the number it is sorted by (empty: by what is written)."""

    text: str
    order: str = ""


@dataclass(frozen=True)
class Table:
    """Heads and rows; `note` says which steps are left out."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def steps_table(model: ModelResult, view: View) -> Table | None:
    """Steps with lag, token, norms, share of dL/dW, and a remark; None where nothing was measured over time."""
    timeline = Timeline(model.series)
    shown = [(head, name) for head, name in COLUMNS if any(v is not None for v in timeline.over(name)[1])]
    if not timeline.size or not shown:
        return None
    rows = _rows(model, timeline, view)
    shares, tokens = bool(model.series.values.get("weight_share")), bool(model.series.token)
    heads = ["step", "lag", *(["token"] if tokens else []), *(head for head, _ in shown)]
    made = []
    for place, remark in rows.items():
        step, lag = timeline.step[place], timeline.lag(place)
        cells = [Cell(str(step), str(step)), Cell(numbers.MISSING) if lag is None else Cell(str(lag), str(lag))]
        cells += [Cell(timeline.token(place) or "")] if tokens else []
        cells += [_cell(name, timeline, place) for _, name in shown]
        share = timeline.at("weight_share", place)
        cells += [Cell(numbers.percent(share), "" if share is None else repr(share))] if shares else []
        made.append((*cells, Cell(remark)))
    heads += [*(["of dL/dW"] if shares else []), ""]
    note = (
        ""
        if len(rows) == timeline.size
        else f"{len(rows)} of {timeline.size} steps: the telling ones and the worst of every stretch"
    )
    return Table(tuple(heads), tuple(made), note)


def _rows(model: ModelResult, timeline: Timeline, view: View) -> dict[int, str]:
    if view.steps != "auto" or timeline.size > ALL:
        found = telling_rows(model, timeline, view)
        extra = [] if view.steps != "auto" else _worst(timeline)
        return {place: found.get(place, "") for place in sorted({*found, *extra})}
    return telling_rows(model, timeline, View(steps="all"))


def _worst(timeline: Timeline) -> list[int]:
    """Of every stretch of steps the one whose influence is farthest from 1."""
    start, values = timeline.over(INFLUENCE)
    size = max(1, math.ceil(len(values) / STRETCHES))
    found = []
    for first in range(0, len(values), size):
        stretch = [(abs(value), place) for place, value in enumerate(values[first : first + size]) if value is not None]
        odd = [place for value, place in stretch if math.isnan(value)]
        if stretch:
            found.append(start + first + (odd[0] if odd else max(stretch)[1]))
    return found


def _cell(name: str, timeline: Timeline, place: int) -> Cell:
    value = timeline.at(name, place)
    shown = numbers.readable(value) if name == "log10_jacobian_norm" else numbers.scientific(value)
    return Cell(shown, "" if value is None or math.isnan(value) else repr(value).replace("inf", "1e999"))


LONG = 2000


@dataclass(frozen=True)
class Mark:
    """One model's verdict in a line: sign, word, code, name, and what else belongs there."""

    status: str
    sign: str
    word: str
    code: str
    name: str
    more: str = ""


@dataclass(frozen=True)
class Lead:
    """What stands first: a headline or a verdict, a sentence, and a line per model."""

    headline: str
    mark: Mark | None
    sentences: tuple[str, ...]
    heading: str
    marks: tuple[Mark, ...]
    warning: str = ""


@dataclass(frozen=True)
class Finding:
    """What a rule found, and which model it is about (empty where there is only one)."""

    sign: str
    code: str
    message: str
    model: str


@dataclass(frozen=True)
class Grid:
    """A table of texts."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def title(report: Report) -> str:
    """Of the browser's window."""
    names = ", ".join(model.name for model in report.models[:6])
    return f"gradscope: {names}" if names else "gradscope"


def lead(report: Report) -> Lead:
    """The first lines of the page."""
    if report.check is not None:
        return _checked(report)
    if not report.models:
        return Lead("This report holds no model.", None, (), "", ())
    if len(report.models) == 1:
        model = report.models[0]
        ahead = (f"Outlook: {model.outlook.sentence}",) if model.outlook else ()
        said = _safe(*_probed(model), *report_wording.sentences(model), *ahead)
        return Lead("", _mark(model), said, safe_text(model.heading, LONG), (), _warned(model))
    models = compare_screen.best_first(report.models)
    shared = [piece for piece in models[0].heading.split(" · ") if all(piece in m.heading.split(" · ") for m in models)]
    warned = next((said for said in map(_warned, models) if said), "")
    marks = tuple(_mark(model, _reach(model)) for model in models)
    answer = compare_screen.answer(models)
    return Lead(
        compare_screen.question(models), None, _safe(answer), safe_text(" · ".join(shared), LONG), marks, warned
    )


def _probed(model: ModelResult) -> tuple[str, ...]:
    """What training showed, where it was tried."""
    if model.probe is None:
        return ()
    before = f"Before training: {STATUSES[model.status].sign} {STATUSES[model.status].word}."
    return (f"{probe_wording.asked(model.probe)}: {probe_wording.sentence(model.probe)}", before)


def _checked(report: Report) -> Lead:
    rows = check_screen.rows(report)
    marks = tuple(
        Mark(
            "failed" if row.outcome == "failed" else row.model.status,
            row.sign,
            safe_text(row.said),
            "",
            safe_text(row.target.name),
            safe_text(
                " · ".join(
                    part for part in (row.reach, check_screen.place(row.model)) if part not in ("", numbers.MISSING)
                )
            ),
        )
        for row in rows
    )
    return Lead(check_screen.counts(rows), None, (), safe_text(check_screen.shared(report), LONG), marks)


def _mark(model: ModelResult, more: str = "") -> Mark:
    if model.probe is not None:
        sign, word, _ = probe_wording.outcome(model, model.probe)
        verdict = probe_wording.found(model)
        look = {"pass": "healthy", "fail": "vanishing"}.get(verdict.status if verdict else "", "inconclusive")
        return Mark(look, sign, word, "GS105", safe_text(model.name), more)
    chosen = report_wording.deciding(model)
    code = safe_text(chosen.code) if chosen else ""
    return Mark(
        model.status, STATUSES[model.status].sign, STATUSES[model.status].word, code, safe_text(model.name), more
    )


def _reach(model: ModelResult) -> str:
    total, reach = report_wording.lags(model), model.summary.reach
    return f"reach {reach} of {total} lags" if reach is not None and total is not None else ""


def _warned(model: ModelResult) -> str:
    return report_wording.RANDOM_INPUT if report_wording.RANDOM_INPUT in model.notes else ""


def parts(report: Report) -> dict[str, Any]:
    """Findings, remedies, figures in words, notes and what was not measured."""
    several = len(report.models) > 1
    named = [(safe_text(model.name) if several else "", model) for model in report.models]
    return {
        "findings": [finding for name, model in named for finding in _findings(name, model)],
        "tips": [(name, safe_text(tip, LONG)) for name, model in named for tip in report_wording.advice(model)],
        "grids": [grid for grid in _grids(report) if grid.rows],
        "pairs": [
            (f"{name}: " if name else "") + safe_text(report_wording.pair_sentence(p, m.loaded.trained), LONG)
            for name, m in named
            for p in m.pairs
        ],
        "notes": _notes(report),
        "missing": [
            (name, _safe(*names), safe_text(reason, LONG))
            for name, model in named
            for reason, names in report_wording.by_reason(model.skipped).items()
        ],
    }


def _findings(name: str, model: ModelResult) -> list[Finding]:
    chosen = report_wording.deciding(model)
    every = ([chosen] if chosen else []) + report_wording.other_findings(model)
    return [
        Finding(report_wording.VERDICT_SIGNS[v.status], safe_text(v.code), safe_text(v.message, LONG), name)
        for v in every
    ]


def _grids(report: Report) -> list[Grid]:
    """The quantities as a table, fixes that were measured, and costs."""
    grids = []
    models = list(report.models)
    if len(models) == 1:
        pairs = tuple(_safe(*pair) for pair in number_blocks.pairs_of(models[0]))
        grids.append(Grid("In numbers", ("quantity", "value"), pairs))
    elif models:
        heads, rows = compare_screen.figure_rows(compare_screen.best_first(report.models))
        grids.append(
            Grid("In numbers", tuple(heads), tuple(_safe(*row) for row in rows), compare_screen.FIGURES_LEGEND)
        )
    for model in models:
        fixes = tuple(
            _safe(fix.name, fix.change, numbers.plain(fix.reach), numbers.gain(fix.rate), STATUSES[fix.status].word)
            for fix in model.fixes
        )
        about = f" of {model.name}" if len(models) > 1 else ""
        if model.probe is not None:
            runs, note = (
                tuple(_safe(*row) for row in probe_wording.rows(model.probe)),
                probe_wording.limits(model.probe),
            )
            note = f"error: {probe_wording.unit(model.probe)}, {note}; {probe_wording.LEGEND}"
            grids.append(Grid(safe_text(f"Trainings{about}"), probe_wording.HEADS, runs, note))
        columns = ("fix", "change", "reach", "gain", "status")
        grids.append(Grid(safe_text(f"Measured fixes{about}"), columns, fixes, "same input, same seed"))
    costs = tuple(_safe(*row) for row in number_blocks.cost_rows(models, report))
    names = tuple(column.head for column in number_blocks.COST_COLUMNS)
    note = "; ".join([number_blocks.COST_LEGEND, *number_blocks.lengths(models, report)])
    return [*grids, Grid("What one training step costs", names, costs, safe_text(note, LONG))]


def _notes(report: Report) -> list[str]:
    notes = [n for m in report.models for n in (*m.notes, *m.loaded.assumed) if n != report_wording.RANDOM_INPUT]
    return list(_safe(*dict.fromkeys([*(report.check.notes if report.check else ()), *notes])))


def _safe(*texts: str) -> tuple[str, ...]:
    return tuple(safe_text(text, LONG) for text in texts)
