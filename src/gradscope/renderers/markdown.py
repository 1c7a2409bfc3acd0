"""The report as Markdown: reads well as a comment on a pull request; of a gate, what failed is folded away."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from gradscope.records import ModelResult, Report
from gradscope.renderers import check_screen, compare_screen, number_blocks, numbers, probe_wording, report_wording
from gradscope.renderers.check_screen import Row, rows
from gradscope.renderers.report_screen import legend
from gradscope.renderers.strips import influence_strip, newest_strip
from gradscope.renderers.styled_text import Page, pad
from gradscope.renderers.view import View
from gradscope.text import safe_text
from gradscope.trained import Probe
from gradscope.verdicts import STATUSES

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "@&#8203;"}
CODE = re.compile(r"`(gradscope [^`\n]+)`")
ESCAPED = frozenset("|`*_[]#~\\$")


def escaped(text: object, view: View) -> str:
    """Foreign text that Markdown, HTML and mention filters leave alone."""
    safe = Page(view).fold(safe_text(text, limit=2000))
    # A zero-width space breaks `@name` (nobody is called for) and `http://` (no link is made).
    plain = "".join(f"\\{char}" if char in ESCAPED else ENTITIES.get(char, char) for char in safe)
    plain = plain.replace("://", ":&#8203;//")
    return f"\\{plain}" if plain.startswith(("-", "+", "=")) and not _is_number(safe) else plain


def prose(text: str, view: View) -> str:
    """A sentence of gradscope's: `commands` in it stay code, the rest is escaped as whatever it quotes must be."""
    pieces = CODE.split(text)
    return "".join(
        f"`{Page(view).fold(safe_text(piece, limit=2000))}`" if place % 2 else piece and escaped(piece, view)
        for place, piece in enumerate(pieces)
    )


def _is_number(text: str) -> bool:
    return text == numbers.MISSING or text[1:2].isdigit()


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], view: View) -> str:
    """A table; every cell is escaped."""
    lines = [_row_cells(heads, view), "|" + "---|" * len(heads), *(_row_cells(row, view) for row in rows)]
    return "\n".join(lines)


def _row_cells(cells: Sequence[str], view: View) -> str:
    return "| " + " | ".join(escaped(cell, view) for cell in cells) + " |"


HEADS = ("", "target", "verdict", "reach", "gain per step", "where")


def blocks(report: Report, view: View) -> Iterable[str]:
    """Heading, table, the findings that made targets fail, and notes."""
    every = check_screen.rows(report)
    if view.quiet:
        yield "\n".join(
            f"- {_sign(row, view)} {escaped(row.target.name, view)}: {escaped(row.said, view)}" for row in every
        )
        return
    failed = any(row.outcome == "failed" for row in every)
    yield f"### {Page(view).fold('✗' if failed else '✓')} gradient flow: {check_screen.counts(every)}"
    yield escaped(check_screen.shared(report), view)
    yield table(HEADS, [_target_cells(row, view) for row in every], view)
    told: dict[str, str] = {}
    yield "\n".join(line for row in every if row.outcome != "passed" for line in _findings(row, told, view))
    notes = report.check.notes if report.check else ()
    yield "\n".join(f"- note: {prose(note, view)}" for note in notes)


def folded(row: Row, body: Iterable[str], view: View) -> Iterable[str]:
    """Everything measured on one target, behind a line to click."""
    yield f"<details><summary><code>{escaped(row.target.name, view)}</code>: all that was measured</summary>"
    yield from body
    yield "</details>"


def _target_cells(row: Row, view: View) -> list[str]:
    said = f"{row.said} (accepted by baseline)" if row.outcome == "accepted" else row.said
    gain = numbers.gain(row.model.summary.rate)
    return [
        Page(view).fold(row.sign),
        row.target.name,
        said,
        row.reach,
        gain,
        check_screen.place(row.model) or numbers.MISSING,
    ]


def _findings(row: Row, told: dict[str, str], view: View) -> Iterable[str]:
    for verdict in check_screen.findings(row.model):
        if verdict.status == "fail" or verdict is row.leading:
            said = f"{verdict.message} Accepted by baseline." if verdict.accepted else verdict.message
            name, code = escaped(row.target.name, view), escaped(verdict.code, view)
            yield f"- {_sign(row, view)} {name} {code}: {prose(said, view)}"
    for tip in check_screen.new_tips(row, told, 1):
        yield f"  - try: {prose(tip, view)}"


def _sign(row: Row, view: View) -> str:
    return Page(view).fold(row.sign)


STRIP_WIDTH = 72


def render(report: Report, view: View) -> str:
    """A section per model; for several models, tables side by side first."""
    if report.check is not None:
        return _joined(_check(report, view))
    if view.quiet:
        return "".join(f"- {_verdict(model, view)}\n" for model in report.models)
    blocks: list[str] = []
    if len(report.models) > 1:
        blocks += _compare(report, view)
    for model in report.models if len(report.models) > 1 else ():
        blocks += [f"#### {_verdict(model, view)}", *_body(model, view)]
    if len(report.models) == 1:
        blocks += [f"### {_verdict(report.models[0], view)}", *_body(report.models[0], view)]
    return _joined(blocks)


def _joined(blocks: Iterable[str]) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"


def _check(report: Report, view: View) -> Iterable[str]:
    yield from blocks(report, view)
    for row in rows(report):
        if row.outcome == "failed" and row.model.length and not view.quiet:
            yield from folded(row, _body(row.model, view), view)


def _verdict(model: ModelResult, view: View) -> str:
    chosen = report_wording.deciding(model)
    code = f" {escaped(chosen.code, view)}" if chosen else ""
    sign, word = STATUSES[model.status].sign, f"{STATUSES[model.status].word}{code}"
    if model.probe is not None:
        sign, said, _ = probe_wording.outcome(model, model.probe)
        word = escaped(f"{said} GS105", view)
    return f"{Page(view).fold(sign)} {word}: <code>{escaped(model.name, view)}</code>"


def _body(model: ModelResult, view: View) -> Iterable[str]:
    if model.probe is not None:
        yield from _probe(model, model.probe, view)
    yield escaped(f"{'before training: ' if model.probe else ''}{model.heading}", view)
    if report_wording.RANDOM_INPUT in model.notes:
        yield f"**{report_wording.RANDOM_INPUT}**"
    yield prose(" ".join(report_wording.sentences(model)), view)
    yield escaped(f"Outlook: {model.outlook.sentence}" if model.outlook else "", view)
    yield _strip(model, view)
    pairs = number_blocks.pairs_of(model)
    yield table(["quantity", "value"], pairs, view) if pairs else ""
    yield "\n".join(escaped(report_wording.pair_sentence(pair, model.loaded.trained), view) for pair in model.pairs)
    yield "\n".join(
        f"- {Page(view).fold(report_wording.VERDICT_SIGNS[v.status])} {escaped(v.code, view)}: {prose(v.message, view)}"
        for v in report_wording.other_findings(model)
    )
    yield "\n".join(f"- try: {prose(tip, view)}" for tip in report_wording.advice(model))
    if model.fixes:
        rows = [[f.name, f.change, numbers.plain(f.reach), numbers.gain(f.rate), f.status] for f in model.fixes]
        yield table(["measured fix", "change", "reach", "gain", "status"], rows, view)
    notes = [note for note in (*model.notes, *model.loaded.assumed) if note != report_wording.RANDOM_INPUT]
    yield "\n".join(f"- note: {prose(note, view)}" for note in notes)
    if model.skipped:
        yield f"Not measured: {escaped(', '.join(model.skipped), view)}."


def _probe(model: ModelResult, probe: Probe, view: View) -> Iterable[str]:
    """What training showed; what was said before it follows."""
    yield escaped(f"{probe_wording.asked(probe)}: {probe_wording.sentence(probe)}", view)
    yield table(list(probe_wording.HEADS), probe_wording.rows(probe), view)
    yield escaped(f"{probe_wording.unit(probe)}: {probe_wording.limits(probe)}. {probe_wording.LEGEND}", view)


def _strip(model: ModelResult, view: View) -> str:
    strip = influence_strip(model, STRIP_WIDTH, view.ascii)
    if strip is None:
        return ""
    page = Page(view)
    newest = newest_strip(model.series, STRIP_WIDTH, view.ascii)
    lines = [strip.axis(), strip.glyphs, legend(page, [strip, newest] if newest else [strip])]
    if newest:
        lines += ["", newest.axis(), newest.glyphs, f"the newest steps, enlarged; {newest.scale()}"]
    return "\n".join(["```text", *(page.fold(line) for line in lines), "```"])


def _strips(models: Sequence[ModelResult], view: View) -> str:
    """A strip per model in one block; a name cannot end the block, for a sign stands before it."""
    page, width = Page(view), 16
    rows = [(model, influence_strip(model, STRIP_WIDTH - width, view.ascii)) for model in models]
    drawn = [strip for _, strip in rows if strip is not None]
    if not drawn:
        return ""
    lines = [" " * (width + 4) + page.fold(drawn[0].axis())]
    for model, strip in rows:
        sign, name = page.fold(STATUSES[model.status].sign), page.clip(page.fold(model.name), width)
        lines.append(f"{sign:<2} {pad(name, width)} {strip.glyphs if strip else ''}".rstrip())
    return "\n".join(["```text", *lines, page.fold(legend(page, drawn)), "```"])


def _compare(report: Report, view: View) -> Iterable[str]:
    models = compare_screen.best_first(report.models)
    yield f"### {escaped(compare_screen.question(models), view)}"
    yield escaped(compare_screen.answer(models), view)
    yield _strips(models, view)
    heads, rows = compare_screen.figure_rows(models)
    said = [f"{STATUSES[m.status].sign} {compare_screen.status_of(m)}" for m in models]
    yield table([*heads, "status"], [[*row, status] for row, status in zip(rows, said, strict=True)], view)
    if costs := number_blocks.cost_rows(models, report):
        yield table([column.head for column in number_blocks.COST_COLUMNS], costs, view)
        yield escaped(number_blocks.COST_LEGEND, view)
        yield escaped("; ".join(number_blocks.lengths(models, report)), view)
        yield number_blocks.QUADRATIC if any(model.kind == "attention" for model in models) else ""
