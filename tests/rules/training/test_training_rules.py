"""GS501 to GS505: on a run where each fires, and on one where it is silent."""

from __future__ import annotations

import math

import pytest

from gradscope.errors import UsageError
from gradscope.records import NonFinite, RunSpec
from gradscope.registry import TRAINING_RULES, load
from gradscope.rules.judge import selected_rules, settings_for_points, trajectory_status, trajectory_with_verdicts
from gradscope.rules.texts import explain
from gradscope.trajectory import Norms, Point, Trajectory, leading
from trajectories import point, run


def clipped(cosine: float, raw: float = 2.0) -> list[Point]:
    return [point(step, norms=Norms(raw, 0.0, cosine)) for step in range(0, 60, 10)]


NOT_FINITE = NonFinite(7, "rnn.l0", "gate.forget", "nan")
FIRING = {
    "GS501": run(point(0, 99), point(10, 70), point(20, 30), point(30, 20)),
    "GS502": run(point(0, share=-1.0), point(10, share=-1.2), point(20, share=-40.0), point(30, share=-39.0)),
    "GS503": run(*clipped(0.2)),
    "GS504": run(point(0), point(10, non_finite=NOT_FINITE)),
    "GS505": run(point(0, 10), point(10, 30), point(20, 20)),
}
SILENT = {
    "GS501": [run(point(0, 99), point(10, 30), point(20, 80)), run(point(0, 10), point(10, 20)), run(point(0))],
    "GS502": [run(point(0, share=-1.0), point(10, share=-2.5), point(20, share=-3.5)), run(point(0, share=-9.0))],
    "GS503": [run(*clipped(0.99)), run(*clipped(0.2, raw=0.0)), run(*clipped(0.1)[:2])],
    "GS504": [run(point(0, loss=1.0, norms=Norms(-math.inf)))],
    "GS505": [run(point(0, 10), point(10, 50), point(20, 20))],
}


def verdict(code: str, trajectory: Trajectory, **settings: object):
    return {v.code: v for v in trajectory_with_verdicts(trajectory, RunSpec(**settings)).verdicts}[code]


@pytest.mark.parametrize("code", TRAINING_RULES)
def test_each_fires(code):
    said = verdict(code, FIRING[code])
    assert said.status == ("fail" if load(TRAINING_RULES[code]).severity == "error" else "warn")
    assert said.message
    assert said.advice


@pytest.mark.parametrize(("code", "trajectory"), [(code, run) for code, runs in SILENT.items() for run in runs])
def test_each_is_silent(code, trajectory):
    said = verdict(code, trajectory)
    assert said.status in ("pass", "skip")
    assert said.message


def test_they_name_the_step():
    assert verdict("GS501", FIRING["GS501"]).first_step == 20
    assert "70 lags at step 10 to 30 at step 20" in verdict("GS501", FIRING["GS501"]).message
    assert verdict("GS502", FIRING["GS502"]).last_step == 20
    said = verdict("GS504", FIRING["GS504"])
    assert "NaN in gate.forget of rnn.l0 at step 7 of the sequence first at step 10" in said.message
    assert "All was finite at step 0" in said.message
    assert verdict("GS505", FIRING["GS505"]).measured == 30


def test_without_a_stated_lag_reach_warns():
    for code in ("GS501", "GS505"):
        trajectory = FIRING[code]
        assert verdict(code, run(*trajectory.points, needed=None)).status == "warn"
        assert verdict(code, run(*trajectory.points, needed=None), needs_lag=50).status == "fail"


def test_a_lag_stated_now_takes_the_place_of_the_recorded_one():
    assert verdict("GS505", FIRING["GS505"], needs_lag=25).status == "pass"


def test_a_share_of_exactly_zero_is_a_collapse():
    found = verdict("GS502", run(point(0, share=-1.0), point(10, share=-math.inf)))
    assert found.status == "fail"
    assert "to zero at step 10" in found.message


def test_a_collapse_that_came_back_is_told_but_does_not_fail():
    found = verdict("GS502", run(point(0, share=-1.0), point(10, share=-9.0), point(20, share=-1.5)))
    assert found.status == "pass"
    assert "came back" in found.message


def test_slow_decay_is_no_collapse_but_neighbours_count_however_far_apart():
    slow = [point(step, share=-1.0 - step / 1000) for step in range(0, 9000, 500)]
    assert verdict("GS502", run(*slow)).status == "pass"
    assert verdict("GS502", run(slow[0], slow[-1])).status == "fail"
    assert verdict("GS502", run(*slow), thresholds={"collapse_window": 5000.0}).status == "fail"


def test_a_loss_and_a_gradient_that_are_not_finite_count():
    assert "The loss is nan" in verdict("GS504", run(point(0), point(10, loss=math.nan))).message
    assert "gradient is not finite" in verdict("GS504", run(point(0, norms=Norms(math.inf)))).message


def test_the_word_for_a_run_is_the_gravest():
    assert trajectory_status(trajectory_with_verdicts(FIRING["GS504"], RunSpec())) == "non-finite"
    assert trajectory_status(trajectory_with_verdicts(FIRING["GS501"], RunSpec())) == "vanishing"
    assert trajectory_status(trajectory_with_verdicts(run(point(0)), RunSpec())) == "healthy"
    assert trajectory_status(trajectory_with_verdicts(run(), RunSpec())) == "inconclusive"


def test_select_and_ignore_reach_both_kinds_of_rules():
    spec = RunSpec(select=("GS50", "GS101"), ignore=("GS505",))
    assert [v.code for v in trajectory_with_verdicts(FIRING["GS501"], spec).verdicts] == [
        "GS501",
        "GS502",
        "GS503",
        "GS504",
    ]
    assert [rule.code for rule in selected_rules(settings_for_points(spec))] == ["GS101"]
    assert len(selected_rules(settings_for_points(RunSpec(select=("GS501",))))) > 5


def test_words_that_no_rule_has_are_refused():
    with pytest.raises(UsageError, match="GS505"):
        selected_rules(RunSpec(ignore=("GS599",)))
    with pytest.raises(UsageError, match="clip_cosine"):
        selected_rules(RunSpec(thresholds={"clip_cosin": 0.1}))


@pytest.mark.parametrize("code", TRAINING_RULES)
def test_each_is_explained(code):
    lesson = explain(code)
    rule = load(TRAINING_RULES[code])
    assert lesson.startswith(f"# {code} {rule.title}")
    assert all(f"`{name} = " in lesson for name in rule.thresholds)
    assert all(part in lesson for part in (*sum(rule.page.sections.values(), ()), *rule.page.papers))


def test_a_point_of_the_whole_model_is_enough():
    whole = [Point(step, "analysis", length=100, reach=reach) for step, reach in ((0, 99), (10, 5))]
    assert verdict("GS501", run(*whole)).status == "fail"


def short(step: int, **more: object) -> Point:
    """A point over sequences of 20 steps, where lag 50 is needed."""
    lags = {"lags": (0, 1, 19), "log10_influence": (0.0, 0.0, -0.1)}
    return point(step, 19, length=20, needed_lag=19, status="inconclusive", **{**lags, **more})


def test_a_reach_that_ends_with_its_sequence_is_no_fall_and_no_failure():
    for code in ("GS501", "GS505"):
        assert verdict(code, run(point(0, 99), short(10))).status == "pass"
        found = verdict(code, run(short(0), short(10)))
        assert found.status == "skip"
        assert "lag 50 is needed, and no gradient goes back more than 19 steps" in found.message
    assert verdict("GS505", run(point(0, 30), short(10))).status == "fail"
    assert trajectory_status(trajectory_with_verdicts(run(short(0), short(10)), RunSpec())) == "inconclusive"


def of_length(step: int, length: int, reach: int) -> Point:
    """A point of sequences of `length` steps, all of whose lags count where none is stated."""
    lags = tuple(range(length))
    return point(step, reach, length=length, needed_lag=length - 1, lags=lags, log10_influence=(0.0,) * length)


def test_reaches_of_batches_of_different_length_are_no_fall_where_no_lag_is_lost():
    """Nothing fell where 11 of 11 lags are followed by 50 of 59."""
    mixed = run(*(of_length(i, *((60, 50) if i % 2 else (12, 11))) for i in range(6)), needed=None)
    said = verdict("GS501", mixed)
    assert said.status == "pass"
    assert "50 lags at step 5 are short of the 59" in said.message


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([(60, 59), (12, 11), (60, 20)], "from 59 lags at step 0 to 20 at step 2: below the 59 that are needed"),
        ([(12, 11), (60, 7)], "from 11 lags at step 0 to 7 at step 1: below the 11 that are needed"),
        ([(60, 59), (12, 5), (60, 8)], "from 59 lags at step 0 to 5 at step 1: below the 11 that are needed"),
    ],
)
def test_a_fall_over_batches_of_different_length_is_of_a_lag_that_both_have(points, words):
    trajectory = run(*(of_length(step, *one) for step, one in enumerate(points)), needed=None)
    assert verdict("GS501", trajectory).status == "warn"
    assert words in verdict("GS501", trajectory).message


def test_shares_at_different_lags_are_no_collapse():
    assert verdict("GS502", run(point(0, share=-9.0), short(1, share=-1.0), point(2, share=-9.0))).status == "pass"
    assert verdict("GS502", run(point(0, share=-1.0), short(1, share=-1.0), point(2, share=-9.0))).status == "fail"


def test_a_layer_of_short_sequences_leads_only_where_there_is_no_other():
    both = run(point(0, 99, layer="long"), short(0, layer="short"), point(10, 99, layer="long"))
    assert {p.layer for p in leading(both)} == {"long"}
    assert trajectory_status(trajectory_with_verdicts(both, RunSpec())) == "healthy"
    assert {p.layer for p in leading(run(short(0, layer="short")))} == {"short"}


def test_what_exploded_before_it_was_not_finite_is_sent_to_the_recurrence():
    exploding = point(0, loss=math.inf, status="exploding")
    said = verdict("GS504", run(exploding, point(10, loss=math.nan, status="non-finite")))
    assert "recurrent weights" in said.advice
    assert "checkpoint" not in said.advice
    calm = verdict("GS504", run(point(0, status="healthy"), point(10, loss=math.nan, status="non-finite")))
    assert "last finite checkpoint" in calm.advice
    assert "recurrent weights" not in calm.advice
