"""What a lesson consists of: plain data between the measuring and the showing."""

from __future__ import annotations

from dataclasses import dataclass

from gradscope.records import Report


@dataclass(frozen=True)
class Exhibit:
    """A report with a label, and the charts that a page shows of it."""

    label: str
    report: Report
    charts: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Texts in columns, and how to read them."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Chapter:
    """A question, what was found, the table, and the pictures."""

    title: str
    says: tuple[str, ...]
    table: Table | None = None
    exhibits: tuple[Exhibit, ...] = ()


@dataclass(frozen=True)
class Lesson:
    """The whole, in the order of its telling."""

    title: str
    answer: str
    chapters: tuple[Chapter, ...]
    environment: tuple[tuple[str, str], ...]
    seconds: float
