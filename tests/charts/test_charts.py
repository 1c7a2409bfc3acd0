"""Every chart of the table, over every kind of report: valid, finite, harmless; and nothing odd is hidden."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from renderers import reports

pytest.importorskip("altair", reason="the extra [report] is not installed")
pytest.importorskip("vl_convert", reason="the extra [report] is not installed")

from gradscope.charts import chart, draw
from gradscope.charts.chart import Chart
from gradscope.charts.draw import harmless, panels_of, told
from gradscope.errors import UsageError
from gradscope.records import Report
from gradscope.registry import CHARTS, load
from gradscope.renderers.view import View
from gradscope.trained import Probe, Training, Twin

NAN, INF = math.nan, math.inf
CATALOGUE = reports.catalogue()
SAMPLES = ("compare of everything", "compare text", "ten thousand steps", "hostile", "nothing", "empty", "not finite")


def pairs(length: int = 12) -> dict:
    """A map over blocks of two steps, with a zero and, as a file spells it, an infinity."""
    edges = list(range(0, length + 1, 2))
    norms = [[-0.3 * (i - j + 1) for j in range(i + 1)] for i in range(len(edges) - 1)]
    norms[4][0], norms[5][0] = -INF, "inf"
    return {"step": edges, "log10_norm": norms}


def mapped() -> Report:
    return reports.report(replace(reports.vanishing(12), step_pairs=pairs()))


def probed() -> Report:
    """A probe with a run that learned, one lost, and words that would be markup."""
    runs = (
        Training(0.01, 0, 1.0, 50, 50, None, 3, (0, 25, 50), (0.75, 0.5, 0.02), (1.0, 2.0, 0.0)),
        Training(0.01, 1, 1.0, None, 50, None, 0, (0, 25, 50), (0.75, 0.7, 0.6), (1.0, 2.0, 0.0)),
        Training(0.1, 0, 1.0, None, 25, 25, 0, (0, 25), (0.75, NAN), (1.0, INF)),
    )
    probe = Probe("<b>", "name <script>", 9, "fixed", 50, 0.1, 0.75, "wrong", runs, Twin("</svg>", 0, 6, None))
    return reports.report(replace(reports.vanishing(12), probe=probe))


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_valid_wherever_it_has_something_to_draw(name):
    chart: Chart = load(CHARTS[name])
    assert chart.title
    assert len(chart.teaches) > 80
    assert chart.needs
    drawn = 0
    for report in (*(CATALOGUE[sample] for sample in SAMPLES), mapped(), probed()):
        safe = harmless(report)
        assert chart.tell(safe)
        for panel in chart.draw(safe):
            spec = panel.picture.properties(width=300).to_dict()  # checked against the schema of Vega-Lite
            assert spec["mark"] if "mark" in spec else spec["layer"]
            assert json.dumps(panel.data, allow_nan=False)
            assert panel.reads.get("rows", panel.data.first) in panel.data
            drawn += 1
    if name != "precision":
        assert drawn > 0


@pytest.mark.parametrize("name", ["profile", "words"])
def test_files_are_what_their_suffix_says(name):
    view = View(charts=(name,))
    svg, png = draw.svg(CATALOGUE["compare text"], view), draw.png(CATALOGUE["compare text"], view)
    assert svg.startswith("<svg")
    assert "attention" in svg
    assert "http" not in svg.replace("http://www.w3.org", "")
    assert png.startswith(b"\x89PNG\r\n")


def test_several_charts_stand_on_one_sheet():
    spec = draw.whole(CATALOGUE["compare"], ["profile", "gates", "profile"])
    assert [part["title"]["text"] for part in spec["vconcat"]][1] == "Gates over time"
    assert len(spec["datasets"]) > 3


def test_what_cannot_be_drawn_says_what_is_missing():
    with pytest.raises(UsageError, match="--chart attention: this report has no attention weights"):
        draw.svg(CATALOGUE["vanishing"], View(charts=("attention",)))
    with pytest.raises(UsageError, match="did you mean 'heatmap'"):
        draw.svg(CATALOGUE["vanishing"], View(charts=("heatmaps",)))


def test_the_screen_can_be_a_picture():
    svg = draw.svg(CATALOGUE["vanishing"], View(charts=("screen",)))
    assert "VANISHING" in svg
    assert "url(http" not in svg
    assert draw.png(CATALOGUE["vanishing"], View(charts=("screen",))).startswith(b"\x89PNG")


def test_thinning_keeps_the_worst_of_every_stretch_and_all_that_is_odd():
    values = [-0.001 * t for t in range(10_000)]
    values[1234], values[5000], values[5001], values[7000] = -300.0, NAN, INF, -INF
    found = chart.thinned(range(10_000), values, "rnn")
    assert len(found) < 4 * chart.MOST
    assert min(row["y"] for row in found if row["y"] is not None) == -300.0
    assert {row["x"]: row["odd"] for row in found if "odd" in row} == {5000: "NaN", 5001: "Inf", 7000: "exactly zero"}
    assert [row["x"] for row in found] == sorted(row["x"] for row in found)


def test_short_series_are_drawn_point_by_point():
    found = chart.thinned((1, 2, 3), (0.5, None, 0.25), "gate", log=False)
    assert found == [{"x": 1, "y": 0.5, "by": "gate"}, {"x": 3, "y": 0.25, "by": "gate"}]


def test_models_that_share_a_name_once_it_is_harmless_stay_apart():
    long = "m" * 80
    models = [replace(reports.vanishing(), name=f"{long}{i}") for i in range(3)]
    report = reports.report(*models)
    names = chart.names(harmless(report))
    assert len(set(names)) == 3
    assert set(harmless(report).timing.training_step) == set(names)


def test_no_foreign_control_character_reaches_a_chart():
    hostile = CATALOGUE["hostile"]
    for name in CHARTS:
        text = json.dumps([panel.data for panel in panels_of(name, hostile)], ensure_ascii=False) + told(name, hostile)
        assert not {char for char in text if ord(char) < 32 or "\x7f" <= char <= "\x9f" or char in "\u202e\u202c"}


def test_the_profile_says_reach_and_needed_lag():
    report = replace(CATALOGUE["vanishing"], run=replace(CATALOGUE["vanishing"].run, needs_lag=50))
    panel = panels_of("profile", report)[0]
    said = {row.get("said") for found in panel.data.values() for row in found}
    assert {"needed lag", "rnn reaches 7 lags", "1 %: reach ends"} <= said
    assert "reach 7 of 199 lags" in told("profile", report)


def test_the_map_of_pairs_keeps_zero_and_infinity():
    (panel,) = panels_of("heatmap", mapped())
    found = {(row["from"], row["to"]): row for row in next(iter(panel.data.values()))}
    assert found["0", "2"]["v"] == -0.3
    assert found["0", "10"]["said"] == "0"
    assert found["0", "12"]["v"] is None
    assert found["0", "12"]["said"] == "inf"
    assert len(found) == 21


def test_a_learning_curve_is_that_of_the_better_seed_and_says_where_it_counts_as_learned():
    (panel,) = panels_of("learning", probed())
    drawn = panel.data[panel.data.first]
    assert [(row["x"], row["y"]) for row in drawn if row["by"] == "rate 0.01"] == [(0, 0.75), (25, 0.5), (50, 0.02)]
    assert [row["odd"] for row in drawn if row["by"] == "rate 0.1" and row["y"] is None] == ["NaN"]
    assert {"y": 0.1, "what": "learned"} in [row for chart in panel.data.values() for row in chart]
    assert "learned in 1 of 3 runs" in told("learning", probed())
