from __future__ import annotations

from dataclasses import replace

from gradscope.records import NonFinite, Series
from gradscope.renderers.strips import Timeline, telling_rows
from gradscope.renderers.view import View
from renderers.reports import WORDS, paired, vanishing

TWO = Series(
    (0, 1, 2),
    ("a", "b"),
    {"log10_grad_state": (-2.0, -1.0, 0.0), "log10_grad_input": (-1.5, -0.5), "log10_influence": (-0.5, -1.5)},
)


def test_every_series_ends_at_the_last_step_and_influence_runs_backwards():
    timeline = Timeline(TWO)
    assert [timeline.at("log10_grad_state", i) for i in range(3)] == [-2.0, -1.0, 0.0]
    assert [timeline.at("log10_grad_input", i) for i in range(3)] == [None, -1.5, -0.5]
    assert [timeline.at("log10_influence", i) for i in range(3)] == [None, -1.5, -0.5]
    assert [timeline.token(i) for i in range(3)] == [None, "a", "b"]
    assert [timeline.lag(i) for i in range(3)] == [2, 1, 0]
    assert timeline.over("log10_influence") == (1, (-1.5, -0.5))
    assert timeline.at("unknown", 1) is None


def test_telling_rows_hold_ends_reach_and_extremes():
    model = vanishing()
    rows = telling_rows(model, Timeline(model.series), View())
    assert {0, 1, 100, 199, 200} <= set(rows)
    assert rows[193] == "◂ reach ends (1 %)"
    assert sorted(rows.values())[-2:] == ["◂ reach ends (1 %)", "◂ smallest ‖J‖"]
    assert len(rows) <= 9


def test_first_bad_step_cut_and_needed_lag_are_marked():
    model = vanishing()
    summary = replace(model.summary, cut=50, needed_lag=120, non_finite=NonFinite(60, "l0", "state", "inf"))
    rows = telling_rows(replace(model, summary=summary), Timeline(model.series), View())
    assert rows[50] == "◂ gradient cut"
    assert rows[60] == "◂ first inf"
    assert rows[80] == "◂ needed lag"


def test_all_a_range_and_short_sequences():
    model, words = vanishing(), paired(WORDS)
    timeline = Timeline(model.series)
    assert list(telling_rows(model, timeline, View(steps="all"))) == list(range(201))
    assert list(telling_rows(model, timeline, View(steps="10:12"))) == [10, 11, 12]
    assert list(telling_rows(model, timeline, View(steps="199:"))) == [199, 200]
    assert list(telling_rows(model, timeline, View(steps="900:"))) == []
    assert list(telling_rows(words, Timeline(words.series), View())) == list(range(17))
    assert telling_rows(model, Timeline(Series()), View()) == {}
