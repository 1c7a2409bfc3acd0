"""Two questions about the needed lag: whether the gradient arrives there, and what became of combinations like it."""

from __future__ import annotations

import math

import pytest
import torch

import gradscope
from gradscope.records import Report, RunSpec
from gradscope.renderers.screen import render
from gradscope.renderers.view import View
from gradscope.rules.gs1_learning import FIXED_LAGS
from gradscope.rules.judge import with_verdicts
from gradscope.verdicts import fails

EVEN = math.log10(50)
"""An even gradient has a share of 10^-EVEN at lag 49."""


def at(made, share: float, *, growth: float = 0.0, reach: int = 49, spec: RunSpec | None = None, **changed):
    rate = growth / 49
    values = {"rate": rate, "rate_ci": (rate, rate), "needed_lag": 49, "reach": reach, "gradient_share": share}
    return with_verdicts(made(probe=None, **(values | changed)), spec or RunSpec(needs_lag=49))


def outcome(result, code: str) -> str:
    return next(verdict.status for verdict in result.verdicts if verdict.code == code)


@pytest.mark.parametrize(
    ("share", "changed", "status", "gs104"),
    [
        (-EVEN, {}, "healthy", "pass"),
        (-EVEN - 0.99, {}, "healthy", "pass"),
        (-EVEN - 1.01, {}, "inconclusive", "inconclusive"),
        (-5.99, {}, "inconclusive", "inconclusive"),
        (-6.01, {"growth": -20.0, "reach": 9}, "vanishing", "fail"),
        # Growth up to ten times is healthy; more is never vanishing, whatever the share.
        (-EVEN + 0.5, {"growth": 2.2}, "healthy", "pass"),
        (-EVEN + 0.5, {"growth": 2.4}, "inconclusive", "inconclusive"),
        (-12.0, {"growth": 2.8}, "inconclusive", "inconclusive"),
        (-12.0, {"growth": 7.0}, "exploding", "inconclusive"),
        # A reach short of the lag is a warning, for 18 of 42 of these learned.
        (-3.0, {"growth": -6.0, "reach": 39}, "inconclusive", "warn"),
        (-EVEN, {"reach": 39}, "inconclusive", "warn"),
    ],
)
def test_the_status_is_what_arrives_beside_an_even_gradient(made, share, changed, status, gs104):
    result = at(made, share, **changed)
    assert (result.status, outcome(result, "GS104")) == (status, gs104)
    assert fails(result.verdicts, "error") == (status in ("vanishing", "exploding"))
    assert fails(result.verdicts, "warning") == (status in ("vanishing", "exploding") or gs104 == "warn")


@pytest.mark.parametrize("lag", [1, 20, 55, 56, 99, 199])
def test_a_flat_gradient_is_healthy_at_every_lag(lag):
    result = gradscope.analyze(torch.eye(4, dtype=torch.float64).expand(200, 4, 4), needs_lag=lag).models[0]
    assert result.summary.rate == (None if lag == 1 else pytest.approx(0.0, abs=1e-12))
    assert result.status == "healthy"
    assert "recall and adding" in result.outlook.sentence


def test_an_lstm_that_keeps_what_it_heard_is_healthy_over_all_its_lags():
    result = gradscope.analyze("lstm:forget_bias=4,hidden=16", length=200, needs_lag=199, batch=4).models[0]
    assert result.summary.reach == 199
    assert 0.98 < result.summary.gain < 1.0
    assert result.summary.gradient_share < -1.75
    assert result.status == "healthy"
    assert not [verdict for verdict in result.verdicts if verdict.gives]


@pytest.mark.parametrize("gain", [1.05, 1.15])
def test_a_gradient_that_grows_is_never_vanishing(gain):
    word = f"rnn:nonlinearity=linear,init=orthogonal,gain={gain},hidden=8"
    result = gradscope.analyze(word, length=200, needs_lag=20).models[0]
    assert result.summary.rate == pytest.approx(math.log(gain), rel=0.1)
    assert result.status in ("healthy", "inconclusive")
    assert not fails(result.verdicts, "error")


def test_with_spread_lags_no_share_fails_and_one_that_arrives_is_healthy(made):
    spread = {"growth": -20.0, "reach": 9, "spec": RunSpec(needs_lag=49, lags="spread")}
    assert at(made, -9.0, **spread).status == "inconclusive"
    assert "13 of 17 published cells" in at(made, -9.0, **spread).outlook.sentence
    assert at(made, -EVEN, spec=RunSpec(needs_lag=49, lags="spread")).status == "healthy"


@pytest.mark.parametrize(
    ("share", "task", "words"),
    [
        (-EVEN, None, ["of 109 trained", "76 learned", "at lags over 30: recall and adding 7 of 12, copy and xor"]),
        (-EVEN, "copy", ["copy and xor 6 of 19, recall and adding 7 of 12", "capacity"]),
        (-EVEN, "parity", ["parity", "0 of 16"]),
        (-3.0, None, ["28 learned"]),
        (-9.0, None, ["none learned"]),
    ],
)
def test_the_outlook_stands_beside_the_status_and_decides_nothing(made, share, task, words):
    result = at(made, share, spec=RunSpec(needs_lag=49, task=task), growth=-20.0 if share < -6 else 0.0)
    assert all(word in result.outlook.sentence for word in words)
    assert result.outlook.learned <= result.outlook.of
    assert not any("learned" in verdict.message for verdict in result.verdicts)


def test_where_nothing_was_counted_there_is_no_outlook(made):
    assert at(made, -EVEN, spec=RunSpec()).outlook is None
    assert at(made, -EVEN, spec=RunSpec(needs_lag=49, thresholds={"share_fails": -5.0})).outlook is None
    assert at(made, None).outlook is None
    assert at(made, -4.0, spec=RunSpec(needs_lag=49, lags="spread")).outlook is None


def test_the_counts_of_one_word_add_up():
    for band in FIXED_LAGS.values():
        parts = [*band.single, *band.hard]
        assert sum(part.of for part in parts) == band.of
        assert sum(part.learned for part in parts) == band.of - band.failed


def test_an_inconclusive_screen_says_what_the_doubt_is(made):
    from gradscope.renderers import report_wording

    result = at(made, -3.0, growth=-6.0, reach=39)
    assert report_wording.deciding(result).code == "GS104"
    assert report_wording.sentences(result)[0].startswith("Beyond lag 39 of 49")


def test_a_wide_interval_of_two_seeds_does_not_outweigh_what_arrives(made):
    result = at(made, -EVEN, growth=0.1, rate_ci=(-0.5, 0.5))
    assert (result.status, outcome(result, "GS101"), outcome(result, "GS201")) == ("healthy", "pass", "pass")
    assert at(made, -EVEN, spec=RunSpec(), rate_ci=(-0.5, 0.5)).status == "inconclusive"


@pytest.mark.parametrize(("share", "said"), [(-EVEN, "of 109 trained"), (-3.0, "28 of 62"), (-9.0, "none of 45")])
def test_the_screen_has_one_line_for_the_outlook_and_the_rest_behind_v(made, share, said):
    result = at(made, share, growth=-20.0 if share < -6 else 0.0)
    sized = Report(RunSpec(needs_lag=49), {}, (result,))
    lines = [line for line in render(sized, View()).splitlines() if "outlook" in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert len(lines[0]) <= 80
    assert lines[0].endswith("(-v: which, and where)")
    assert result.outlook.sentence in " ".join(render(sized, View(verbose=1)).split())
