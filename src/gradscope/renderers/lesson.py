"""The lesson: what it consists of, as plain data between the measuring and the showing, and its screen."""

from __future__ import annotations

from dataclasses import dataclass

from gradscope.records import Report
from gradscope.renderers.styled_text import Column, Page, Span
from gradscope.renderers.view import View


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


def render(lesson: Lesson, view: View) -> str:
    """The screen as text."""
    page = Page(view)
    page.wrap(lesson.title, style="bold")
    page.wrap(lesson.answer)
    page.blank()
    for number, chapter in enumerate(lesson.chapters, 1):
        page.line(Span(f" {number}. {chapter.title}", "bold"))
        for sentence in chapter.says:
            page.wrap(sentence)
        if chapter.table is not None:
            page.blank()
            columns = [Column(head, left=i == 0, flexible=i == 0) for i, head in enumerate(chapter.table.heads)]
            page.table(columns, chapter.table.rows, lead="   ")
            if chapter.table.note:
                page.wrap(chapter.table.note, "   ", "dim")
        page.blank()
    page.wrap(f"measured in {lesson.seconds:.0f} s   with pictures: gradscope lesson -o lesson.html", style="dim")
    return str(page)
