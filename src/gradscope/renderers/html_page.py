"""A report, a training run or a lesson as one self-contained page, with the data to take along."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradscope.records import Report
from gradscope.registry import load
from gradscope.renderers import html_contents, report_data, report_wording, run_wording
from gradscope.renderers.html_contents import LONG, Finding, Grid, Lead, Mark, steps_table
from gradscope.renderers.html_figures import Figure, Place, bundle, figures
from gradscope.renderers.lesson import Chapter, Lesson
from gradscope.renderers.view import View
from gradscope.rules.judge import trajectory_status
from gradscope.text import safe_text
from gradscope.trajectory import Trajectory
from gradscope.verdicts import STATUSES

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


ALL_DIGITS = 400_000
"""Characters of JSON up to which every digit is kept."""
PLAIN = 100_000
"""Characters up to which it stands in the page as it is."""
DIGITS = 6


@dataclass(frozen=True)
class Embedded:
    """Text for a script element, how it is encoded (empty: as it is), and whether digits were left out."""

    text: str
    encoding: str
    shortened: bool


def embedded(report: Report) -> Embedded:
    """The report's JSON; of long sequences, numbers to six digits, packed."""
    return embed(report_data.json_text(report, View()))


def embed(text: str) -> Embedded:
    """Any JSON in the same way."""
    shortened = len(text) > ALL_DIGITS
    if shortened:
        rounded = json.loads(text, parse_float=lambda number: float(f"{float(number):.{DIGITS}g}"))
        text = json.dumps(rounded, separators=(",", ":"), allow_nan=False)
    if len(text) <= PLAIN:
        return Embedded(in_script(text), "", shortened)
    packed = gzip.compress(text.encode(), 9, mtime=0)
    return Embedded(base64.b64encode(packed).decode(), "gzip", shortened)


def in_script(text: str) -> str:
    """JSON that no parser of HTML can take for the end of its element, or for anything but text."""
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


FOLDER = Path(__file__).parent / "html_parts"


@dataclass(frozen=True)
class Script:
    """A script of the page, and its place in the policy that lets no other one run."""

    text: str

    @property
    def allowed(self) -> str:
        """`'sha256-...'`: scripts with another text are not run."""
        return f"'sha256-{base64.b64encode(sha256(self.text.encode()).digest()).decode()}'"


def render(report: Report, view: View) -> str:
    """The page of `analyze`, `compare` or `check`; the same bytes for equal reports."""
    found = figures(report, view.charts)
    tables = [(model.name, steps_table(model, view)) for model in report.models]
    return written(
        "report.html",
        found.drawn,
        title=safe_text(html_contents.title(report)),
        lead=html_contents.lead(report),
        figures=found.figures,
        tables=[(name, table) for name, table in tables if table is not None],
        data=embedded(report),
        environment=[(safe_text(name), safe_text(value)) for name, value in report.environment.items()],
        seconds=report.timing.total,
        **html_contents.parts(report),
    )


def written(template: str, drawn: dict[str, Any], **values: Any) -> str:
    """A template of this folder with the scripts and styles that every page has.

    Args:
        template: its file name.
        drawn: what `figures` made, by the id of the place.
        values: what the template names.
    """
    scripts = [Script(bundle()), Script(_file("page.js"))] if drawn else [Script(_file("page.js"))]
    specs = in_script(json.dumps(drawn, separators=(",", ":"), allow_nan=False))
    return _environment().get_template(template).render(scripts=scripts, style=_file("page.css"), specs=specs, **values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["commands"] = _commands
    return made


def _commands(text: str) -> Markup:
    """Escaped text in which what stands between backticks is set as code."""
    from markupsafe import Markup, escape

    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return escape(text)
    marked = (Markup("<code>{}</code>").format(piece) if i % 2 else escape(piece) for i, piece in enumerate(pieces))
    return Markup("").join(marked)


@cache
def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def render_run(trajectory: Trajectory, view: View) -> str:
    """One self-contained page; the same bytes for equal trajectories."""
    drawn: dict[str, Any] = {}
    figures = [figure for figure in (_figure(chart, trajectory, drawn) for chart in _charts()) if figure is not None]
    found = run_wording.findings_of(trajectory)
    return written(
        "report.html",
        drawn,
        title=safe_text(f"gradscope: {trajectory.head.name}"),
        lead=_lead(trajectory),
        figures=figures,
        tips=[("", safe_text(tip, LONG)) for tip in run_wording.tips(trajectory)],
        findings=[
            Finding(report_wording.VERDICT_SIGNS[v.status], safe_text(v.code), safe_text(v.message, LONG), "")
            for v in found
        ],
        pairs=_facts(trajectory),
        grids=[_grid(trajectory)],
        tables=[],
        notes=[safe_text(note, LONG) for note in trajectory.notes],
        missing=[("", (safe_text(one.source),), safe_text(one.reason, LONG)) for one in trajectory.skipped],
        data=embed(run_wording.json_text(trajectory, View())),
        environment=[(safe_text(name), safe_text(value)) for name, value in trajectory.head.environment.items()],
        seconds=0.0,
    )


def _charts() -> tuple[Any, ...]:
    found: tuple[Any, ...] = load("gradscope.charts.training_run_charts:TRAINING_RUN_CHARTS")
    return found


def _figure(chart: Any, trajectory: Trajectory, drawn: dict[str, Any]) -> Figure | None:
    panel = chart.draw(trajectory)
    if panel is None:
        return None
    place, single = f"{chart.name}-0", load("gradscope.charts.draw:single")
    drawn[place] = {"spec": single(panel), "reads": {}, "last": 0, "anchor": 0}
    return Figure(chart.name, chart.title, chart.teaches, chart.tell(trajectory), (Place(place, "", True, ()),))


def _lead(trajectory: Trajectory) -> Lead:
    status = trajectory_status(trajectory)
    codes = [verdict.code for verdict in run_wording.findings_of(trajectory) if verdict.gives == status]
    code, name = safe_text("".join(codes[:1])), safe_text(trajectory.head.name)
    mark = Mark(status, STATUSES[status].sign, STATUSES[status].word, code, name)
    said = tuple(safe_text(sentence, LONG) for sentence in run_wording.sentences(trajectory))
    return Lead("", mark, said, safe_text(run_wording.heading(trajectory), LONG), ())


def _facts(trajectory: Trajectory) -> list[str]:
    moves = [": ".join(part for part in move if part) for move in run_wording.moves(trajectory)]
    facts = [fact(trajectory) for fact in (run_wording.clipping, run_wording.underflow, run_wording.overhead)]
    return [safe_text(said, LONG) for said in (*moves, *facts) if said]


def _grid(trajectory: Trajectory) -> Grid:
    heads, rows = run_wording.grid(trajectory, trajectory.points)
    return Grid("Every point", tuple(heads), tuple(tuple(safe_text(cell) for cell in row) for row in rows))


@dataclass(frozen=True)
class Shown:
    """A chapter as the template takes it."""

    title: str
    says: tuple[str, ...]
    grid: Grid | None
    exhibits: tuple[tuple[str, tuple[Figure, ...]], ...]


def render_lesson(lesson: Lesson, view: View) -> str:
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
