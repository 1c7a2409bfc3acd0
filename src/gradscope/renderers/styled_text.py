"""A page of text: columns that share a width, lines of styled pieces, wrapped, clipped, folded to ASCII where asked.

Everything that reaches a screen goes through `Page`, and everything that enters it goes through `safe_text`.
Colours are added by rich at the very end, from styles and never from markup in a string.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, TextIO

from gradscope.renderers.numbers import MISSING
from gradscope.renderers.view import View
from gradscope.text import in_ascii, safe_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    head: str
    left: bool = False
    flexible: bool = False
    """Clipped first when the table is too wide."""
    optional: bool = False
    """Left out, the last such first, when clipping is not enough; a line below says so."""
    least: int = 8
    """What a flexible column is not clipped below."""


@dataclass(frozen=True)
class Layout:
    """Which columns of a table fit, how wide, and how far apart."""

    kept: tuple[int, ...]
    widths: tuple[int, ...]
    gap: int

    @classmethod
    def fitting(
        cls, columns: Sequence[Column], needed: Sequence[int], room: int, margin: int = 0, least_margin: int = 0
    ) -> Layout:
        """The roomiest layout with `margin` left behind the rows, or else `least_margin`, to which columns give way."""
        kept, widths = [i for i in range(len(columns)) if needed[i]], list(needed)
        for behind, gaps in ((margin, (3, 2, 1)), (least_margin, (2, 1))):
            for gap in gaps:
                layout = cls(tuple(kept), tuple(widths), gap)
                if layout.total() + behind <= room:
                    return layout
        while True:
            layout = cls(tuple(kept), tuple(widths), 1)
            excess = layout.total() + least_margin - room
            for i in [i for i in kept if columns[i].flexible]:
                shrink = min(max(0, excess), max(0, widths[i] - columns[i].least))
                widths[i], excess = widths[i] - shrink, excess - shrink
            droppable = [i for i in kept if columns[i].optional]
            if excess <= 0 or not droppable:
                return cls(tuple(kept), tuple(widths), 1)
            kept.remove(droppable[-1])

    def total(self) -> int:
        """Width of a row."""
        return sum(self.widths[i] for i in self.kept) + self.gap * (len(self.kept) - 1)


LONGEST = 4000
BREAKS = re.compile(" (?!%)")


@dataclass(frozen=True)
class Span:
    """A piece of a line and its style (a rich style string; '' for none)."""

    text: str
    style: str = ""


def measure(text: str) -> int:
    """Columns that a terminal needs for `text`."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def pad(text: str, width: int) -> str:
    """`text` filled up with spaces to `width` columns."""
    return text + " " * (width - measure(text))


class Page:
    """Collects lines; `str(page)` is the finished text with a trailing newline."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.lines: list[tuple[Span, ...]] = []

    @property
    def narrow(self) -> bool:
        """Too narrow for tables."""
        return self.view.narrow

    def fold(self, text: str) -> str:
        """Harmless text in the character set of the view."""
        if text.isascii() and text.isprintable():
            return text
        safe = safe_text(text, limit=LONGEST)
        return in_ascii(safe) if self.view.ascii else safe

    def clip(self, text: str, width: int) -> str:
        """At most `width` columns of already folded text; what is cut off leaves an ellipsis."""
        if measure(text) <= width:
            return text
        mark = "..." if self.view.ascii else "…"
        mark = mark[: max(0, width)]
        while text and measure(text) > width - len(mark):
            text = text[: -max(1, (measure(text) - width + len(mark)) // 2)]
        return text + mark

    def line(self, *pieces: str | Span) -> None:
        """One line, clipped at the right margin."""
        room = self.view.width
        spans: list[Span] = []
        for piece in pieces:
            span = piece if isinstance(piece, Span) else Span(piece)
            text = self.clip(self.fold(span.text), room)
            room -= measure(text)
            if text:
                spans.append(Span(text, span.style))
        self.lines.append(tuple(spans))

    def blank(self) -> None:
        """An empty line, never two in a row."""
        if self.lines and self.lines[-1]:
            self.lines.append(())

    def wrap(self, text: str, lead: str | Span = " ", style: str = "") -> None:
        """A paragraph behind a lead, its further lines indented as wide as the lead (less where that is very wide)."""
        head = _span(lead)
        shown = Span(self.clip(self.fold(head.text), self.view.width // 2), head.style)
        margin = measure(shown.text)
        hang = margin if margin <= self.view.width // 3 else 6
        first, *rest = self._broken(self.fold(text), self.view.width - margin, self.view.width - hang)
        self.line(shown, Span(first, style))
        for piece in rest:
            self.line(" " * hang, Span(piece, style))

    def _broken(self, text: str, first: int, later: int) -> list[str]:
        """Lines of folded text: one of width `first`, then as many of width `later` as it takes."""
        lines: list[str] = []
        current, width = "", first
        for word in BREAKS.split(text):
            joined = f"{current} {word}" if current else word
            if measure(joined) <= width:
                current = joined
                continue
            if current:
                lines.append(current)
                width = later
            current = word
            while measure(current) > width:
                cut = next(i for i in range(len(current), 0, -1) if measure(current[:i]) <= width)
                lines.append(current[:cut])
                current, width = current[cut:], later
        return [*lines, current]

    def table(
        self,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str | Span]],
        lead: str = " ",
        remarks: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        """A table without rules; on a narrow page, `key: value` lines.

        `remarks` holds a long and a short remark per row, to stand behind it; the short ones are taken where the
        long ones do not fit, and optional columns make room for them.
        """
        cells = [[_span(self.fold(_span(cell).text), _span(cell).style) for cell in row] for row in rows]
        heads = [self.fold(column.head) for column in columns]
        notes = [(self.fold(long), self.fold(short)) for long, short in remarks or [("", "")] * len(rows)]
        if self.narrow:
            self._stacked([*heads, ""], [[*row, Span(long)] for row, (long, _) in zip(cells, notes, strict=True)])
            return
        needed = [max(measure(c.text) for c in column) for column in zip([Span(h) for h in heads], *cells, strict=True)]
        room, margins = self.view.width - measure(lead), [_margin(note[i] for note in notes) for i in (0, 1)]
        layout = Layout.fitting(columns, needed, room, margins[0], margins[1])
        shortened = layout.total() + margins[0] > room
        self.line(lead, *self._row([Span(head, "dim") for head in heads], columns, layout))
        for row, note in zip(cells, notes, strict=True):
            text = note[1] if shortened else note[0]
            self.line(lead, *self._row(row, columns, layout), f"  {text}" if text else "")
        left_out = [head for i, head in enumerate(heads) if i not in layout.kept and needed[i]]
        if left_out:
            self.wrap(f"(left out at this width: {', '.join(left_out)})", lead, "dim")

    def _row(self, cells: Sequence[Span], columns: Sequence[Column], layout: Layout) -> list[Span]:
        spans: list[Span] = []
        for place, i in enumerate(layout.kept):
            text = self.clip(cells[i].text, layout.widths[i])
            fill = " " * (layout.widths[i] - measure(text))
            between = " " * layout.gap if place else ""
            spans.append(Span(between + text + fill if columns[i].left else between + fill + text, cells[i].style))
        return spans

    def _stacked(self, heads: list[str], rows: Sequence[Sequence[Span]]) -> None:
        for row in rows:
            for head, cell in zip(heads, row, strict=True):
                if cell.text and cell.text != MISSING:
                    self.wrap(cell.text, f" {head}: " if head.strip() else " ", cell.style)
            self.blank()

    def __str__(self) -> str:
        while self.lines and not self.lines[-1]:
            self.lines.pop()
        if not self.view.colour:
            return "\n".join("".join(span.text for span in line).rstrip() for line in self.lines) + "\n"
        out = StringIO()
        console = plain_console(out, self.view.width)
        for line in self.lines:
            console.print(styled(line), soft_wrap=True)
        return out.getvalue()


def plain_console(file: TextIO, width: int, *, record: bool = False) -> Console:
    """A console of rich that draws what it is given: no markup, no emoji, no look at the terminal or its variables.

    Args:
        file: where the lines go.
        width: columns.
        record: keep what is drawn, for `export_svg`.
    """
    # Imported when something is drawn in colour, so that output without colour does not wait for rich.
    from rich.console import Console

    return Console(
        file=file,
        width=width,
        record=record,
        force_terminal=True,
        force_jupyter=False,
        color_system="truecolor",
        no_color=False,
        legacy_windows=False,
        emoji=False,
        highlight=False,
        markup=False,
        _environ={},
    )


def styled(line: tuple[Span, ...]) -> Text:
    """The rich text of one line."""
    from rich.text import Text

    text = Text()
    for span in line:
        text.append(span.text, span.style or None)
    text.rstrip()
    return text


def _span(cell: str | Span, style: str = "") -> Span:
    return cell if isinstance(cell, Span) else Span(cell, style)


def _margin(remarks: Iterable[str]) -> int:
    """Columns that remarks need behind a row, the space before them included."""
    longest = max((measure(remark) for remark in remarks), default=0)
    return longest + 2 if longest else 0
