"""A training run as a page: what became of its reach, in words, pictures and a table, and the data to take along."""

from __future__ import annotations

from typing import Any

from gradscope.registry import load
from gradscope.renderers.flow import data
from gradscope.renderers.flow import wording as flow_wording
from gradscope.renderers.page.contents import LONG, Finding, Grid, Lead, Mark
from gradscope.renderers.page.data import embed
from gradscope.renderers.page.figures import Figure, Place
from gradscope.renderers.page.page import written
from gradscope.renderers.text import wording
from gradscope.renderers.view import View
from gradscope.rules.judge import trajectory_status
from gradscope.text import safe_text
from gradscope.trajectory import Trajectory
from gradscope.verdicts import STATUSES


def render(trajectory: Trajectory, view: View) -> str:
    """One self-contained page; the same bytes for equal trajectories."""
    drawn: dict[str, Any] = {}
    figures = [figure for figure in (_figure(chart, trajectory, drawn) for chart in _charts()) if figure is not None]
    found = flow_wording.found(trajectory)
    return written(
        "report.html",
        drawn,
        title=safe_text(f"gradscope: {trajectory.head.name}"),
        lead=_lead(trajectory),
        figures=figures,
        tips=[("", safe_text(tip, LONG)) for tip in flow_wording.tips(trajectory)],
        findings=[
            Finding(wording.VERDICT_SIGNS[v.status], safe_text(v.code), safe_text(v.message, LONG), "") for v in found
        ],
        pairs=_facts(trajectory),
        grids=[_grid(trajectory)],
        tables=[],
        notes=[safe_text(note, LONG) for note in trajectory.notes],
        missing=[("", (safe_text(one.source),), safe_text(one.reason, LONG)) for one in trajectory.skipped],
        data=embed(data.json_text(trajectory, View())),
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
    codes = [verdict.code for verdict in flow_wording.found(trajectory) if verdict.gives == status]
    code, name = safe_text("".join(codes[:1])), safe_text(trajectory.head.name)
    mark = Mark(status, STATUSES[status].sign, STATUSES[status].word, code, name)
    said = tuple(safe_text(sentence, LONG) for sentence in flow_wording.sentences(trajectory))
    return Lead("", mark, said, safe_text(flow_wording.heading(trajectory), LONG), ())


def _facts(trajectory: Trajectory) -> list[str]:
    moves = [": ".join(part for part in move if part) for move in flow_wording.moves(trajectory)]
    facts = [fact(trajectory) for fact in (flow_wording.clipping, flow_wording.underflow, flow_wording.overhead)]
    return [safe_text(said, LONG) for said in (*moves, *facts) if said]


def _grid(trajectory: Trajectory) -> Grid:
    heads, rows = flow_wording.grid(trajectory, trajectory.points)
    return Grid("Every point", tuple(heads), tuple(tuple(safe_text(cell) for cell in row) for row in rows))
