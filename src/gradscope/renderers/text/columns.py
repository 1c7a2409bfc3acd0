"""Columns of a table, and how they share the width of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
