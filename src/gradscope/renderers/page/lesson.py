"""The lesson as a page to project: chapters with their pictures and tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gradscope.renderers.lesson import Chapter, Lesson
from gradscope.renderers.page.contents import Grid
from gradscope.renderers.page.figures import Figure, figures
from gradscope.renderers.page.page import written
from gradscope.renderers.view import View


@dataclass(frozen=True)
class Shown:
    """A chapter as the template takes it."""

    title: str
    says: tuple[str, ...]
    grid: Grid | None
    exhibits: tuple[tuple[str, tuple[Figure, ...]], ...]


def render(lesson: Lesson, view: View) -> str:
    """One self-contained page."""
    drawn: dict[str, Any] = {}
    chapters = [_shown(number, chapter, drawn) for number, chapter in enumerate(lesson.chapters, 1)]
    return written("lesson.html", drawn, title=lesson.title, lesson=lesson, chapters=chapters)


def _shown(number: int, chapter: Chapter, drawn: dict[str, Any]) -> Shown:
    exhibits, taught = [], set[str]()
    for place, exhibit in enumerate(chapter.exhibits):
        found = figures(exhibit.report, exhibit.charts, f"c{number}-{place}-")
        drawn.update(found.drawn)
        # How to read a chart is said once in a chapter.
        shown = [replace(figure, teaches="") if figure.name in taught else figure for figure in found.figures]
        taught |= {figure.name for figure in shown}
        exhibits.append((exhibit.label, tuple(shown)))
    table = chapter.table
    grid = None if table is None else Grid("", table.heads, table.rows, table.note)
    return Shown(f"{number}. {chapter.title}", chapter.says, grid, tuple(exhibits))
