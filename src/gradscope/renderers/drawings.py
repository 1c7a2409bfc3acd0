"""Extra pictures of a screen: gates over time, pairs of steps and of tokens, attention, as blocks or in ASCII."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradscope.records import Attention, ModelResult, Number, Path
from gradscope.renderers import numbers, report_wording
from gradscope.renderers.strips import gate_strip
from gradscope.renderers.styled_text import Column, Page, Span, measure, pad

LEVELS = (-1.0, -3.0, -6.0, -12.0)
"""log10 of the least norm of each shade, from dark to light."""
PAIR_SHADES, PAIR_ASCII = "█▓▒░·", "#+-._"
HUGE = 6.0
LABELS = 9
"""Columns before the cells of a map."""


def pictures(page: Page, model: ModelResult) -> None:
    """Gates and pairs of steps where they are asked for, and attention of whole tokens or steps."""
    if "gates" in page.view.show:
        gates(page, model)
    if "steps" in page.view.show:
        step_pairs(page, model)
    if "attention" in page.view.show:
        heat_map(page, model, asked=True)


def gates(page: Page, model: ModelResult) -> None:
    """One strip per gate: mean activation over units, 0 to 1."""
    names = [name for name in model.series.values if name.startswith("gate.") and name.endswith(".mean")]
    if not names:
        page.wrap("(no gates to show: this model has none, or they were not recorded)", style="dim")
    labels = {name: page.clip(page.fold(name[len("gate.") : -len(".mean")]), 16) for name in names}
    wide = max((measure(label) for label in labels.values()), default=0)
    drawn = {name: gate_strip(model.series, name, page.view.width - wide - 4, page.view.ascii) for name in names}
    for name, strip in drawn.items():
        if strip is not None:
            page.line(f" {pad(labels[name], wide)}  ", Span(strip.glyphs))
    if any(drawn.values()):
        page.wrap("gate means: low = 0 (closed), tall = 1 (open); a column shows its lowest step", style="dim")
    page.blank()


def step_pairs(page: Page, model: ModelResult) -> None:
    """‖ds_t/ds_u‖ as a triangle of shades: from step u across, to step t down."""
    pairs = model.step_pairs
    if not pairs:
        page.wrap(
            f"({model.name}: no map of step pairs: it has no recurrence whose Jacobians were measured)", style="dim"
        )
        page.blank()
        return
    edges, rows = [int(edge) for edge in pairs["step"]], pairs["log10_norm"]
    room = max(1, (page.view.width - LABELS - 1) // max(1, len(rows)))
    cell = min(2, room)
    page.wrap(
        f"{model.name}: what one step still means to another, ‖ds/ds‖ from step (across) to step (down)", style="bold"
    )
    shown = [[numbers.as_number(value) for value in row] for row in rows]
    marks = PAIR_ASCII if page.view.ascii else PAIR_SHADES
    for i, row in enumerate(shown):
        page.line(f" {edges[i + 1]:>{LABELS - 2}} ", "".join(_pair_shade(value, marks) * cell for value in row))
    last = f"step {edges[-1]}"
    across = max(0, cell * len(rows) - len(last) - 1)
    page.line(" " * LABELS, Span(pad("0", across) + " " + last, "dim"))
    page.wrap(_legend(page, shown), style="dim")
    page.blank()


def _pair_shade(value: Number, marks: str) -> str:
    if value is None:
        return " "
    if math.isnan(value) or value > HUGE:
        return "?" if math.isnan(value) else "!"
    return marks[next((place for place, least in enumerate(LEVELS) if value >= least), len(LEVELS))]


def _legend(page: Page, rows: list[list[Number]]) -> str:
    marks = PAIR_ASCII if page.view.ascii else PAIR_SHADES
    said = ["over 0.1", "over 1e-3", "over 1e-6", "over 1e-12", "less"]
    seen = {_pair_shade(value, marks) for row in rows for value in row}
    odd = {"!": "! over 1e6", "?": "? not a number"}
    pieces = [f"{mark} {words}" for mark, words in zip(marks, said, strict=True)]
    return "   ".join([*pieces, *(words for mark, words in odd.items() if mark in seen)])


ATTENTION_SHADES, ATTENTION_ASCII = " ░▒▓█", " .-+#"
MOST_TOKENS = 24
MOST_HEADS = 12


def pairs(page: Page, model: ModelResult, *, named: bool = False) -> None:
    """A sentence per pair and how much goes through which layer and path; of which model, where there are several."""
    for pair in model.pairs:
        of = f"{model.name}: " if named else ""
        page.wrap(of + report_wording.pair_sentence(pair, model.loaded.trained))
        if pair.paths:
            columns = [
                Column("layer", left=True, flexible=True),
                Column("path", left=True, flexible=True),
                Column("norm"),
            ]
            shown = pair.paths if page.view.verbose else _strongest(pair.paths)
            page.table(columns, _paths(shown), lead="   ")
            if len(shown) < len(pair.paths):
                page.wrap(f"and {len(pair.paths) - len(shown)} weaker heads (-v shows them)", "   ", "dim")
        page.blank()


def _strongest(paths: Sequence[Path]) -> list[Path]:
    """All that are no attention heads, and the heads with the largest weights, in their order."""
    heads = [path for path in paths if path.path.startswith("head ")]
    if len(heads) <= MOST_HEADS:
        return list(paths)

    def weight(path: Path) -> float:
        return -math.inf if path.log10_norm is None else path.log10_norm

    kept = sorted(heads, key=weight, reverse=True)[:MOST_HEADS]
    return [path for path in paths if path not in heads or path in kept]


def _paths(paths: Sequence[Path]) -> list[list[str | Span]]:
    return [[path.layer, path.path, numbers.scientific(path.log10_norm)] for path in paths]


def heat_map(page: Page, model: ModelResult, asked: bool = False) -> None:
    """Attention weights of the first layer, mean over heads: a row per token, dark where it looks.

    Without a text there is a map only where it is `asked` for; its rows are steps then.
    """
    attention = model.attention
    tokens = (attention.token if attention else None) or model.series.token
    if asked and attention is None:
        page.wrap(f"({model.name}: no attention weights to show)", style="dim")
        page.blank()
    if asked and attention is not None and not tokens:
        tokens = tuple(str(step) for step in range(1, 1 + len(attention.weights[0][0] if attention.weights else ())))
    if attention is None or not tokens or page.narrow:
        return
    weights = mean_over_heads(attention)
    room = min(MOST_TOKENS, (page.view.width - 20) // 2)
    size = min(len(weights), len(tokens))
    first = max(0, size - room)
    heads = len(attention.weights[0]) if attention.weights else 0
    if size == 0:
        return
    untrained = {True: "", False: " (untrained)", None: " (weights as given)"}[model.loaded.trained]
    page.wrap(f"{model.name}: where each token looks, mean of {heads} heads, first layer{untrained}", style="bold")
    names = [page.clip(page.fold(token), 12) for token in tokens[first:size]]
    ahead = any(value > 0 for i, row in enumerate(weights[:size]) for value in row[i + 1 : size])
    shades = ATTENTION_ASCII if page.view.ascii else ATTENTION_SHADES
    page.line(" " * 18, Span("".join(_label(first + i + 1) for i in range(size - first)), "dim"))
    for i, name in enumerate(names):
        row = weights[first + i][first : size if ahead else first + i + 1]
        cells = "".join(_attention_shade(weight, weights[first + i], shades) * 2 for weight in row)
        page.line(f" {first + i + 1:>3} ", name, " " * (13 - measure(name)), cells)
    left_out = f"; only the last {size - first} of {size} tokens" if first else ""
    page.wrap(f"dark = most of that row's weight{left_out}", style="dim")
    page.blank()


def _label(step: int) -> str:
    """Every fifth step is numbered: two columns hold two digits, but not the space between two numbers."""
    return f"{step % 100:>2}" if step % 5 == 0 or step == 1 else "  "


def mean_over_heads(attention: Attention) -> list[list[float]]:
    """Weights [query][key] of the first layer, averaged over its heads."""
    heads = attention.weights[0] if attention.weights else ()
    if not heads:
        return []
    return [[sum(values) / len(heads) for values in zip(*rows, strict=False)] for rows in zip(*heads, strict=False)]


def _attention_shade(weight: float, row: list[float], shades: str) -> str:
    largest = max((value for value in row if math.isfinite(value)), default=0.0)
    if not math.isfinite(weight):
        return "?"
    return shades[min(4, math.ceil(4 * weight / largest - 0.5))] if largest > 0 and weight > 0 else shades[0]
