"""A training run in every format: complete, narrow, in ASCII, with hostile text, half empty."""

from __future__ import annotations

import csv
import io
import json
from importlib.util import find_spec

import pytest

from gradscope.errors import UsageError
from gradscope.flow_file import parse_flow
from gradscope.records import RunSpec
from gradscope.registry import FLOW_FORMATS, load
from gradscope.renderers import run_screen
from gradscope.renderers.run_screen import point_line
from gradscope.renderers.run_wording import telling
from gradscope.renderers.view import View
from gradscope.rules.judge import trajectory_with_verdicts
from gradscope.trajectory import Skipped, leading
from trajectories import eventful, point, run

RUN = trajectory_with_verdicts(eventful(), RunSpec())
VIEWS = [
    View(),
    View(ascii=True),
    View(width=40),
    View(width=20, ascii=True, verbose=1),
    View(steps="all"),
    View(quiet=True),
]


DRAWN = ("html", "svg", "png")
WRITTEN = [name for name in FLOW_FORMATS if name not in DRAWN]
pictures = pytest.mark.skipif(find_spec("vl_convert") is None, reason="the extra [report] is not installed")


def shown(name: str, trajectory=RUN, view: View | None = None) -> str:
    return load(FLOW_FORMATS[name].renderer)(trajectory, view or View())


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("view", VIEWS, ids=range(len(VIEWS)))
def test_every_format_shows_every_view(name, view):
    text = shown(name, view=view)
    assert text.endswith("\n")
    if name == "text":
        assert max(map(len, text.splitlines())) <= view.width
        assert text.isascii() or not view.ascii


@pytest.mark.parametrize("name", WRITTEN)
def test_an_empty_run_is_shown_too(name):
    assert shown(name, trajectory_with_verdicts(run(), RunSpec()))


def two_layers(last=30):
    """The lower layer hears all, the upper one ends at 3 lags; a point of each at every tenth step."""
    steps = range(0, last + 1, 10)
    low = [point(step, 99, layer="low", loss=1.0) for step in steps]
    top = [point(step, 60 if step < last else 3, layer="top", loss=2.0) for step in steps]
    return trajectory_with_verdicts(run(*(one for pair in zip(low, top, strict=True) for one in pair)), RunSpec())


@pytest.mark.parametrize("name", ["text", "markdown"])
def test_of_two_layers_every_row_names_its_own_and_the_strips_are_of_one(name):
    text = shown(name, two_layers())
    rows = [line.replace("|", " ").split() for line in text.splitlines()]
    assert ["step", "status", "layer", "measured", "share", "reach"] in [row[:6] for row in rows]
    assert ["30", "healthy", "low"] in [row[:3] for row in rows]
    assert ["30", "vanishing", "top"] in [row[:3] for row in rows]
    assert "layer top" in text
    status = next(line for line in text.splitlines() if line.strip().startswith("status  ")).split()[1]
    assert (set(status), status.count("v") * 4) == ({"✓", "v"}, pytest.approx(len(status), abs=4))
    assert "loss" in text
    assert "2 → 2" in text
    alone = shown(name, trajectory_with_verdicts(run(point(0), point(10)), RunSpec())).replace("|", " ").splitlines()
    assert ["step", "status", "measured"] in [line.split()[:3] for line in alone]


def test_a_line_names_the_layer_where_there_are_several():
    assert "layer top" in point_line(point(3, layer="top"), View(), named=True)
    assert "layer" not in point_line(point(3, layer="top"), View())


def test_the_last_step_of_every_layer_has_a_row_however_many_there_are():
    every = [point(step, 90 - step // 10, layer=f"l{n}") for step in range(0, 500, 10) for n in range(9)]
    every += [point(500, 3, layer="l8", status="vanishing")]
    kept = telling(trajectory_with_verdicts(run(*every), RunSpec()), "auto", None)
    assert kept[-1].step == 500
    assert {one.step for one in kept if one.layer == "l8"} >= {0, 500}


def test_the_screen_says_when_and_where_the_past_was_lost():
    text = shown("text", trajectory_with_verdicts(run(*eventful().points[:4], overhead=0.2), RunSpec()))
    words = " ".join(text.split())
    assert "VANISHING GS501" in words
    assert "fell from 60 lags at step 10 to 12 at step 20" in words
    assert "step 10 → 20: healthy → vanishing" in words
    assert "weight_hh_l0 moved by 60 % of itself (norm 8 → 12); forget bias of l0 1 → -0.5" in words
    assert "below float32 from lag 70 on at step 20" in words
    assert "clipping acted at 3 of 3 measured updates (100 %) and left 3.2 % of the norm" in words
    assert "measuring took 20 % of the training's time (0.5 s): more than 5 %" in words


def test_nothing_is_called_zero_that_is_only_below_float32():
    assert " 0 " not in shown("text").split("status")[0].split("share")[1]


def test_a_healthy_run_tells_when_it_opened():
    text = shown("text", trajectory_with_verdicts(run(point(0, 10), point(10, 30), point(20, 60)), RunSpec()))
    assert "healthy" in text.splitlines()[0]
    assert "began with 10 and first reached lag 50 at step 20" in " ".join(text.split())


def test_many_points_share_columns_and_the_worst_one_shows():
    points = [point(step, 10 if step == 500 else 99) for step in range(0, 1000, 2)]
    (reach,) = [row for row in run_screen.rows(run(*points), 40, False) if row.label == "reach"]
    assert len(reach.glyphs) == 40
    assert reach.glyphs.count("▁") == 1
    assert len(shown("text", trajectory_with_verdicts(run(*points), RunSpec())).splitlines()) < 50


def test_csv_has_a_row_per_point_and_keeps_what_is_not_finite():
    rows = list(csv.DictReader(io.StringIO(shown("csv"))))
    assert [row["step"] for row in rows] == ["0", "10", "20", "20", "30"]
    assert rows[-1]["loss"] == "nan"
    assert rows[2]["findings"] == "GS101"
    assert rows[0]["cosine"] == "0.3"
    assert rows[3]["gate.forget"] == "0.2"


def test_json_has_everything_and_jsonl_reads_back():
    data = json.loads(shown("json"))
    assert data["schema"] == "gradscope.flow/1"
    assert {v["code"] for v in data["verdicts"]} == {"GS501", "GS502", "GS503", "GS504", "GS505"}
    assert data["points"][-1]["loss"] == "nan"
    assert parse_flow(shown("jsonl").encode(), "x").points[:-1] == RUN.points[:-1]


def test_markdown_keeps_its_strips_and_tables():
    text = shown("markdown")
    assert text.startswith("### ✗ NON-FINITE  GS504")
    assert "```text" in text
    assert "| step | status |" in text


@pictures
def test_a_run_becomes_a_page_and_pictures():
    page, svg, png = (shown(name) for name in DRAWN)
    assert page == shown("html")
    assert "fell from 60 lags at step 10 to 12 at step 20" in page
    assert "How far back it learns, over training" in page
    assert "How far back it learns, over training" in svg
    assert svg == shown("svg")
    assert png.startswith(b"\x89PNG\r\n")
    assert "Nothing was measured" in shown("html", trajectory_with_verdicts(run(), RunSpec()))
    with pytest.raises(UsageError, match="nothing to draw"):
        shown("svg", trajectory_with_verdicts(run(), RunSpec()))


@pictures
def test_what_is_drawn_of_a_run_is_what_was_measured():
    from gradscope.charts.training_run_charts import TRAINING_RUN_CHARTS

    drawn = {chart.name: chart.draw(RUN) for chart in TRAINING_RUN_CHARTS}
    reach = drawn["reach"].data[drawn["reach"].data.first]
    assert {(row["x"], row["y"]) for row in reach} == {(p.step, p.reach) for p in leading(RUN) if p.reach is not None}
    cells = drawn["lags"].data[drawn["lags"].data.first]
    by_step = {p.step: dict(zip(p.lags, p.log10_influence, strict=True)) for p in leading(RUN)}
    assert cells
    for cell in cells:
        known = by_step[cell["step"]]
        assert cell["v"] == pytest.approx(max(known[cell["lag"]] - known[1], -24), rel=1e-4)
        assert json.dumps(cell, allow_nan=False)


@pictures
def test_hostile_names_run_nothing_on_a_page():
    evil = "</script><script>alert(1)</script>\x1b]0;"
    bad = run(point(0, layer=evil, source=evil), skipped=(Skipped(evil, evil),), notes=(evil,))
    page = shown("html", trajectory_with_verdicts(bad, RunSpec()))
    assert "<script>alert" not in page
    assert "\x1b" not in page


@pytest.mark.parametrize("name", WRITTEN)
def test_hostile_names_stay_harmless(name):
    evil = "\x1b]0;owned\x07|<script>=1+1@everyone"
    bad = run(point(0, layer=evil, source=evil, findings=("GS101",)), skipped=(Skipped(evil, evil),), notes=(evil,))
    text = shown(name, trajectory_with_verdicts(bad, RunSpec()))
    assert "\x1b" not in text
    assert "\x07" not in text
    if name == "markdown":
        assert "<script>" not in text


def test_strips_of_a_run_share_one_axis_of_steps():
    signals = [point(step, 9 if step == 300 else 99, loss=1.0) for step in range(0, 401, 100)]
    whole = [point(step, kind="analysis", layer="", lyapunov=exponent, gates={"forget": 0.9})
             for step, exponent in ((200, -9.0), (400, 9.0))]  # fmt: skip
    drawn = {
        row.label: row.glyphs
        for row in run_screen.rows(run(*sorted([*signals, *whole], key=lambda p: p.step)), 10, True)
    }
    assert {len(glyphs) for glyphs in drawn.values()} == {10}
    # Five steps, two columns each: what begins at step 200 begins in column 4.
    assert drawn["reach"] == "######..##"
    assert drawn["exponent"] == "    ____!!"
    assert [drawn["forget"][:4].isspace(), drawn["forget"][:5].isspace()] == [True, False]
    assert drawn["status"] == "++++++vv++"


def test_steps_apart_are_drawn_apart():
    sparse = run(point(0, 99), point(10, 9), point(90, 99))
    (reach,) = [row.glyphs for row in run_screen.rows(sparse, 27, True) if row.label == "reach"]
    # Steps 0 to 130, 4.8 to a column: what was measured at step 10 is drawn on for 80 more, and no longer.
    assert reach == "##" + "." * 16 + "#" * 9
    pause = run(*map(point, (0, 10, 20, 30, 400)))
    (far,) = [row.glyphs for row in run_screen.rows(pause, 50, True) if row.label == "reach"]
    # Up to step 30 + 2 * 100, and the last one for 100 steps of 500.
    assert far.split() == ["#" * 24, "#" * 10]


@pytest.mark.parametrize("layers", [1, 4, 40])
def test_the_end_of_a_run_of_many_layers_has_its_rows(layers):
    points = [
        point(step, 9 if step >= 400 else 99, layer=f"l{layer}")
        for step in range(0, 500, 10)
        for layer in range(layers)
    ]
    rows = telling(run(*points), "auto", None)
    assert len(rows) <= 24 + layers
    assert (rows[0].step, rows[-1].step) == (0, 490)
    assert {point.step for point in rows} >= {0, 390, 400, 490}
    assert rows == sorted(rows, key=lambda p: p.step)


def test_a_larger_every_is_advised_only_where_it_would_help():
    regular = [point(step) for step in (0, 10, 20, 30)]
    assert "raise every=" in shown("text", trajectory_with_verdicts(run(*regular, overhead=0.2), RunSpec()))
    first = [point(step) for step in (0, 1, 2, 4, 8)]
    said = " ".join(shown("text", trajectory_with_verdicts(run(*first, overhead=0.2), RunSpec())).split())
    assert "the first steps are measured most, so it falls later" in said
    assert "raise every=" not in said
