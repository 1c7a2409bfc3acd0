"""The lesson in a terminal: a chapter after the other, each with its table."""

from __future__ import annotations

from gradscope.renderers.lesson.chapters import Lesson
from gradscope.renderers.text.columns import Column
from gradscope.renderers.text.page import Page, Span
from gradscope.renderers.view import View


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
