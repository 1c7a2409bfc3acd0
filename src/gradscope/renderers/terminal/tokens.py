"""What one token has to do with another: pairs, and attention weights as a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradscope.records import Attention, ModelResult, Path
from gradscope.renderers.text import numbers, wording
from gradscope.renderers.text.columns import Column
from gradscope.renderers.text.page import Page, Span, measure

SHADES, ASCII_SHADES = " ░▒▓█", " .-+#"
MOST_TOKENS = 24
MOST_HEADS = 12


def pairs(page: Page, model: ModelResult) -> None:
    """A sentence per pair and how much goes through which layer and path."""
    for pair in model.pairs:
        page.wrap(wording.pair_sentence(pair, model.loaded.trained))
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
    shades = ASCII_SHADES if page.view.ascii else SHADES
    page.line(" " * 18, Span("".join(_label(first + i + 1) for i in range(size - first)), "dim"))
    for i, name in enumerate(names):
        row = weights[first + i][first : size if ahead else first + i + 1]
        cells = "".join(_shade(weight, weights[first + i], shades) * 2 for weight in row)
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


def _shade(weight: float, row: list[float], shades: str) -> str:
    largest = max((value for value in row if math.isfinite(value)), default=0.0)
    if not math.isfinite(weight):
        return "?"
    return shades[min(4, math.ceil(4 * weight / largest - 0.5))] if largest > 0 and weight > 0 else shades[0]
