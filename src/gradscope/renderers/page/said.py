"""What a page says in words, as plain records that its template lays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradscope.records import ModelResult, Report
from gradscope.renderers import checked
from gradscope.renderers.terminal import compare as terminal_compare
from gradscope.renderers.terminal import costs as terminal_costs
from gradscope.renderers.terminal import figures as terminal_numbers
from gradscope.renderers.text import numbers, probing, wording
from gradscope.text import safe_text
from gradscope.verdicts import STATUSES

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
        said = _safe(*_probed(model), *wording.sentences(model), *ahead)
        return Lead("", _mark(model), said, safe_text(model.heading, LONG), (), _warned(model))
    models = terminal_compare.best_first(report.models)
    shared = [piece for piece in models[0].heading.split(" · ") if all(piece in m.heading.split(" · ") for m in models)]
    warned = next((said for said in map(_warned, models) if said), "")
    marks = tuple(_mark(model, _reach(model)) for model in models)
    answer = terminal_compare.answer(models)
    return Lead(
        terminal_compare.question(models), None, _safe(answer), safe_text(" · ".join(shared), LONG), marks, warned
    )


def _probed(model: ModelResult) -> tuple[str, ...]:
    """What training showed, where it was tried."""
    if model.probe is None:
        return ()
    before = f"Before training: {STATUSES[model.status].sign} {STATUSES[model.status].word}."
    return (f"{probing.asked(model.probe)}: {probing.sentence(model.probe)}", before)


def _checked(report: Report) -> Lead:
    rows = checked.rows(report)
    marks = tuple(
        Mark(
            "failed" if row.outcome == "failed" else row.model.status,
            row.sign,
            safe_text(row.said),
            "",
            safe_text(row.target.name),
            safe_text(
                " · ".join(part for part in (row.reach, checked.place(row.model)) if part not in ("", numbers.MISSING))
            ),
        )
        for row in rows
    )
    return Lead(checked.counts(rows), None, (), safe_text(checked.shared(report), LONG), marks)


def _mark(model: ModelResult, more: str = "") -> Mark:
    if model.probe is not None:
        sign, word, _ = probing.outcome(model, model.probe)
        verdict = probing.found(model)
        look = {"pass": "healthy", "fail": "vanishing"}.get(verdict.status if verdict else "", "inconclusive")
        return Mark(look, sign, word, "GS105", safe_text(model.name), more)
    chosen = wording.deciding(model)
    code = safe_text(chosen.code) if chosen else ""
    return Mark(
        model.status, STATUSES[model.status].sign, STATUSES[model.status].word, code, safe_text(model.name), more
    )


def _reach(model: ModelResult) -> str:
    total, reach = wording.lags(model), model.summary.reach
    return f"reach {reach} of {total} lags" if reach is not None and total is not None else ""


def _warned(model: ModelResult) -> str:
    return wording.RANDOM_INPUT if wording.RANDOM_INPUT in model.notes else ""


def parts(report: Report) -> dict[str, Any]:
    """Findings, remedies, figures in words, notes and what was not measured."""
    several = len(report.models) > 1
    named = [(safe_text(model.name) if several else "", model) for model in report.models]
    return {
        "findings": [finding for name, model in named for finding in _findings(name, model)],
        "tips": [(name, safe_text(tip, LONG)) for name, model in named for tip in wording.advice(model)],
        "grids": [grid for grid in _grids(report) if grid.rows],
        "pairs": [safe_text(wording.pair_sentence(p, m.loaded.trained), LONG) for _, m in named for p in m.pairs],
        "notes": _notes(report),
        "missing": [
            (name, _safe(*names), safe_text(reason, LONG))
            for name, model in named
            for reason, names in wording.by_reason(model.skipped).items()
        ],
    }


def _findings(name: str, model: ModelResult) -> list[Finding]:
    chosen = wording.deciding(model)
    every = ([chosen] if chosen else []) + wording.other_findings(model)
    return [
        Finding(wording.VERDICT_SIGNS[v.status], safe_text(v.code), safe_text(v.message, LONG), name) for v in every
    ]


def _grids(report: Report) -> list[Grid]:
    """The quantities as a table, fixes that were measured, and costs."""
    grids = []
    models = list(report.models)
    if len(models) == 1:
        pairs = tuple(_safe(*pair) for pair in terminal_numbers.pairs_of(models[0]))
        grids.append(Grid("In numbers", ("quantity", "value"), pairs))
    elif models:
        heads, rows = terminal_compare.figure_rows(terminal_compare.best_first(report.models))
        grids.append(
            Grid("In numbers", tuple(heads), tuple(_safe(*row) for row in rows), terminal_compare.FIGURES_LEGEND)
        )
    for model in models:
        fixes = tuple(
            _safe(fix.name, fix.change, numbers.plain(fix.reach), numbers.gain(fix.rate), STATUSES[fix.status].word)
            for fix in model.fixes
        )
        about = f" of {model.name}" if len(models) > 1 else ""
        if model.probe is not None:
            runs, note = tuple(_safe(*row) for row in probing.rows(model.probe)), probing.limits(model.probe)
            note = f"error: {probing.unit(model.probe)}, {note}; {probing.LEGEND}"
            grids.append(Grid(safe_text(f"Trainings{about}"), probing.HEADS, runs, note))
        columns = ("fix", "change", "reach", "gain", "status")
        grids.append(Grid(safe_text(f"Measured fixes{about}"), columns, fixes, "same input, same seed"))
    costs = tuple(_safe(*row) for row in terminal_costs.rows(models, report))
    names = tuple(column.head for column in terminal_costs.COLUMNS)
    note = "; ".join([terminal_costs.LEGEND, *terminal_costs.lengths(models, report)])
    return [*grids, Grid("What one training step costs", names, costs, safe_text(note, LONG))]


def _notes(report: Report) -> list[str]:
    notes = [n for m in report.models for n in (*m.notes, *m.loaded.assumed) if n != wording.RANDOM_INPUT]
    return list(_safe(*dict.fromkeys([*(report.check.notes if report.check else ()), *notes])))


def _safe(*texts: str) -> tuple[str, ...]:
    return tuple(safe_text(text, LONG) for text in texts)
