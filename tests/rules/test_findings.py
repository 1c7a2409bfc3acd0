"""What single rules say: their numbers, their edges, and the steps they point at."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gradscope.records import NonFinite, RunSpec
from gradscope.rules.judge import judge

STATED = RunSpec(needs_lag=199)
LN_001, LN_1000 = -4.605170185988091, 6.907755278982137


def verdict(code, result, spec=STATED):
    (found,) = judge(result, replace(spec, select=(code,)))
    return found


def test_vanishing_in_one_plain_sentence(made):
    found = verdict("GS101", made(rate=-0.6, rate_ci=(-0.61, -0.59), reach=9), RunSpec())
    # e^-0.6 = 0.5488; -0.6 * 199 / ln 10 = -51.85
    expected = "Each step back multiplies the gradient by 0.55: over the 199 lags of this sequence that is 10^-52."
    assert found.message == expected
    assert found.measured == pytest.approx(-119.4)
    assert found.threshold == pytest.approx(LN_001)
    assert (found.first_step, found.last_step) == (1, 190)


def test_the_message_says_need_when_the_lag_was_stated(made):
    found = verdict("GS101", made(rate=-0.6, rate_ci=(-0.61, -0.59), reach=9, needed_lag=50), RunSpec(needs_lag=50))
    assert found.message.endswith("over the 50 lags you need that is 10^-13.")


def test_a_single_sequence_lets_the_point_decide_and_says_so(made):
    reason = {"rate_ci": "one sequence and one seed, so there is no interval"}
    found = verdict("GS101", made(rate=-0.6, rate_ci=None, reach=9, skipped=reason))
    assert found.status == "fail"
    assert "one sequence" in found.message
    assert verdict("GS101", made(rate=-0.01, rate_ci=None)).status == "pass"
    assert "one sequence" in verdict("GS201", made(rate=0.1, rate_ci=None, skipped=reason)).message


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((-0.05, -0.0232), "fail"),  # -0.0232 * 199 = -4.617, below ln 0.01 = -4.605
        ((-0.05, -0.0231), "inconclusive"),  # -4.597
        ((-0.0231, 0.0), "pass"),
        ((-0.0232, 0.0), "inconclusive"),
    ],
)
def test_the_upper_end_must_lie_below_ln_001(made, interval, expected):
    assert verdict("GS101", made(rate=-0.0232, rate_ci=interval, reach=100)).status == expected


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.0348, 0.05), "fail"),  # 0.0348 * 199 = 6.925, above ln 1000 = 6.908
        ((0.0347, 0.05), "inconclusive"),  # 6.905
        ((0.0, 0.0347), "pass"),
        ((0.0, 0.0348), "inconclusive"),
    ],
)
def test_the_lower_end_must_lie_above_ln_1000(made, interval, expected):
    found = verdict("GS201", made(rate=0.0347, rate_ci=interval))
    assert found.status == expected
    assert found.threshold == pytest.approx(LN_1000)


def test_a_straddling_interval_shows_both_ends(made):
    message = verdict("GS101", made(rate=-0.03, rate_ci=(-0.05, -0.01))).message
    # e^(-0.05 * 199) = 4.77e-5, e^(-0.01 * 199) = 0.1367
    assert message.startswith("The interval allows anything from 10^-4 to 0.137 over the 199 lags you need")


def test_a_steep_slope_whose_reach_covers_the_lag_is_no_verdict(made):
    found = verdict("GS101", made(rate=-0.05, rate_ci=(-0.06, -0.04), reach=199))
    assert found.status == "inconclusive"
    assert "the reach is 199 lags" in found.message


@pytest.mark.parametrize(("factor", "even"), [(0.25, True), (0.1, False)])
def test_an_even_decay_that_reaches_the_last_lag_from_the_first_is_called_no_other(made, factor, even):
    # Over 4 lags 0.25^4 = 0.4 % of the gradient is left; of the first lag, 0.25^3 = 1.6 %, so the reach is all 4.
    result = made(rate=math.log(factor), rate_ci=None, length=5, needed_lag=4, reach=4)
    found = verdict("GS101", result, RunSpec())
    assert found.status == "inconclusive"
    assert ("the reach is 4 lags, counted from lag 1." in found.message) == even
    assert ("not exponential" in found.message) != even


def test_a_slightly_positive_rate_is_healthy(made):
    result = made("lstm:forget_bias=6", rate=0.004, rate_ci=(0.003, 0.005), length=100, needed_lag=99, reach=99)
    assert {found.status for found in judge(result, RunSpec())} == {"pass"}


def test_extreme_rates_do_not_overflow(made):
    assert "10^86425" in verdict("GS201", made(rate=1000.0, rate_ci=None)).message  # 1000 * 199 / ln 10 = 86424.7
    assert "that is infinity" in verdict("GS201", made(rate=float("inf"), rate_ci=None)).message
    assert "that is 0" in verdict("GS101", made(rate=float("-inf"), rate_ci=None, reach=9)).message


def test_zeros_within_the_needed_lag_alone_count(made):
    found = verdict("GS102", made(zero_lags=(180, 20)))
    assert found.message == "20 of 199 lags receive a gradient of exactly zero, the first at lag 180 (step 20)."
    assert (found.first_step, found.last_step, found.measured) == (1, 20, 20)
    beyond = made(zero_lags=(180, 20), needed_lag=100)
    assert verdict("GS102", beyond, RunSpec(needs_lag=100)).status == "pass"


def test_directions_of_a_state_of_one_number_are_not_judged(made):
    found = verdict("GS103", made(size=1, directions=1))
    assert found.status == "skip"
    assert "nothing to collapse" in found.message
    assert verdict("GS103", made(size=2, directions=1)).status == "warn"
    assert verdict("GS103", made(size=2, directions=0)).status == "warn"
    assert verdict("GS103", made(size=2, directions=2)).status == "pass"


def test_reach_points_at_the_steps_it_misses(made):
    found = verdict("GS104", made(reach=9))
    assert found.message == "Beyond lag 9 of 199 no step has even 1 % of the influence of the newest lagged one."
    assert (found.first_step, found.last_step, found.measured, found.threshold) == (1, 190, 9, 199)
    assert verdict("GS104", made(reach=50, needed_lag=50), RunSpec(needs_lag=50)).status == "pass"


def test_a_needed_lag_that_the_summary_does_not_hold_comes_from_the_run(made):
    assert verdict("GS104", made(reach=60, needed_lag=None), RunSpec(needs_lag=50)).status == "pass"
    assert verdict("GS104", made(reach=60, needed_lag=None), RunSpec()).threshold == 199


def test_chaos_needs_an_exponent_above_zero_and_growth_that_matters(made):
    assert verdict("GS202", made(lyapunov=(0.1, -1.0), lyapunov_ci=(0.05, 0.15))).status == "warn"
    assert verdict("GS202", made(lyapunov=(0.1, -1.0), lyapunov_ci=None)).status == "warn"
    assert verdict("GS202", made(lyapunov=(0.1, -1.0), lyapunov_ci=(-0.01, 0.21))).status == "inconclusive"
    # 0.03 * 199 = 5.97, below ln 1000
    assert verdict("GS202", made(lyapunov=(0.03,), lyapunov_ci=(0.02, 0.04))).status == "pass"
    assert verdict("GS202", made(lyapunov=(None, -1.0))).status == "skip"
    assert verdict("GS202", made(lyapunov=())).status == "skip"


def test_non_finite_values_are_placed(made):
    found = verdict("GS301", made(non_finite=NonFinite(17, "l0", "gate.forget", "nan")))
    assert (
        found.message == "NaN first appears at step 17, in gate.forget of layer l0: no gradient exists from there on."
    )
    assert (found.first_step, found.last_step) == (17, 200)
    weights = verdict("GS301", made(non_finite=NonFinite(0, "l1", "weights", "-inf")))
    assert weights.message == "The weights of l1 hold -Inf: nothing computed from them can be trusted."
    assert weights.first_step is None


def test_foreign_names_are_made_harmless(made):
    found = verdict("GS301", made(non_finite=NonFinite(3, "\x1b[31mred", "state", "inf")))
    assert "\x1b" not in found.message
    assert "\\x1b[31mred" in found.message


@pytest.mark.parametrize(
    "name", ["gate.forget.open", "gate.input.open", "gate.output.open", "gate.update.open", "gate.reset.closed"]
)
def test_the_harmless_end_of_a_gate_is_not_reported(made, name):
    assert verdict("GS303", made(saturation={name: 1.0, "gate.forget.closed": 0.0})).status == "pass"
    assert verdict("GS303", made(saturation={name: 1.0})).status == "skip"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("activation", "63 % of the activations lie beyond"),
        ("gate.forget.closed", "63 % of the forget gate is closed, so the cell is erased"),
        ("gate.input.closed", "63 % of the input gate is closed, so nothing new is written"),
        ("gate.output.closed", "63 % of the output gate is closed, so the cell is hidden"),
        ("gate.update.closed", "63 % of the update gate is closed, so the state is overwritten"),
    ],
)
def test_the_harmful_end_is_reported_with_its_harm(made, name, words):
    found = verdict("GS303", made(saturation={name: 0.63, "gate.reset.open": 0.9}))
    assert found.status == "warn"
    assert found.message.startswith(words)
    assert found.measured == 0.63


def test_several_saturations_come_worst_first(made):
    found = verdict("GS303", made(saturation={"gate.input.closed": 0.6, "gate.forget.closed": 0.9}))
    assert found.message.index("forget gate") < found.message.index("input gate")
    assert "forget_bias" in found.advice


def test_a_cut_says_how_far_the_gradient_gets(made):
    found = verdict("GS401", made(cut=120))
    assert found.message.endswith("nothing further back than lag 80 receives any.")
    assert (found.first_step, found.last_step) == (0, 119)
