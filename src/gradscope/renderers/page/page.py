"""A report as one self-contained page: verdict, sentence, pictures, tables, and the data to take along."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradscope.records import Report
from gradscope.renderers.page import contents
from gradscope.renderers.page.contents import steps_table
from gradscope.renderers.page.data import embedded, in_script
from gradscope.renderers.page.figures import bundle, figures
from gradscope.renderers.view import View
from gradscope.text import safe_text

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

FOLDER = Path(__file__).parent


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
        title=safe_text(contents.title(report)),
        lead=contents.lead(report),
        figures=found.figures,
        tables=[(name, table) for name, table in tables if table is not None],
        data=embedded(report),
        environment=[(safe_text(name), safe_text(value)) for name, value in report.environment.items()],
        seconds=report.timing.total,
        **contents.parts(report),
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
