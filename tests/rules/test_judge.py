"""Which rules run, how hard they count, and what their verdicts sum up to."""

from __future__ import annotations

import pytest

from gradscope.errors import UsageError
from gradscope.records import NonFinite, RunSpec, Verdict
from gradscope.registry import RULES
from gradscope.renderers import report_wording
from gradscope.rules.judge import judge, selected_rules, status_of_verdicts, with_verdicts
from gradscope.verdicts import worst

STATED = RunSpec(needs_lag=199)
VANISHING = {"rate": -0.59, "rate_ci": (-0.61, -0.57), "reach": 9}
EXPLODING = {"rate": 0.1, "rate_ci": (0.09, 0.11)}
NAN = {"non_finite": NonFinite(17, "l0", "state", "nan")}


def said(result, spec=STATED):
    return {verdict.code: verdict.status for verdict in judge(result, spec)}


def overall(result, spec=STATED):
    return status_of_verdicts(judge(result, spec))


def codes(**chosen):
    return [rule.code for rule in selected_rules(RunSpec(**chosen))]


def test_all_rules_in_the_order_of_the_table(made):
    assert list(said(made())) == list(RULES)


def test_a_healthy_model_passes_everything(made):
    assert set(said(made()).values()) == {"pass"}
    assert overall(made()) == "healthy"
    assert worst(judge(made(), STATED)) is None


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (NAN | EXPLODING | {"directions": 1}, "non-finite"),
        (EXPLODING | {"zero_lags": (20, 180), "reach": 9, "directions": 1}, "exploding"),
        (VANISHING | {"directions": 1}, "vanishing"),
        (VANISHING | {"cut": 120}, "vanishing"),
        ({"zero_lags": (20, 180)}, "vanishing"),
        ({"directions": 1, "rate": -0.03, "rate_ci": (-0.05, -0.01)}, "degenerate"),
        ({"cut": 120}, "degenerate"),
        ({"rate": -0.03, "rate_ci": (-0.05, -0.01)}, "inconclusive"),
        ({"rate": 0.03, "rate_ci": (0.01, 0.05)}, "inconclusive"),
        ({"saturation": {"activation": 0.9}}, "healthy"),
        ({"lyapunov": (0.1,), "lyapunov_ci": (0.05, 0.15)}, "healthy"),
        ({"lyapunov": (0.1,), "lyapunov_ci": (-0.05, 0.25)}, "healthy"),
    ],
)
def test_precedence(made, changed, expected):
    assert overall(made(**changed)) == expected


def test_zeros_and_a_short_reach_behind_a_cut_are_degenerate_but_still_fail(made):
    result = made(cut=120, zero_lags=(81, 119), reach=80)
    assert overall(result) == "degenerate"
    assert {code for code, verdict in said(result).items() if verdict == "fail"} == {"GS102", "GS104", "GS401"}


def test_without_a_stated_lag_vanishing_warns_and_is_vanishing_all_the_same(made):
    result = made(**VANISHING, zero_lags=(190, 10))
    verdicts = {verdict.code: verdict for verdict in judge(result, RunSpec())}
    assert {code for code, verdict in verdicts.items() if verdict.status == "warn"} == {"GS101", "GS102", "GS104"}
    assert {verdicts[code].severity for code in ("GS101", "GS102", "GS104")} == {"warning"}
    assert worst(verdicts.values()) == "warning"
    assert status_of_verdicts(verdicts.values()) == "vanishing"


def test_with_a_stated_lag_vanishing_is_an_error(made):
    result = made(**VANISHING, zero_lags=(190, 10))
    assert {code for code, verdict in said(result).items() if verdict == "fail"} == {"GS101", "GS102", "GS104"}
    assert worst(judge(result, STATED)) == "error"


def test_a_short_reach_alone_is_vanishing_only_if_the_lag_was_stated(made):
    assert overall(made(reach=50), STATED) == "vanishing"
    assert overall(made(reach=50), RunSpec()) == "healthy"
    assert said(made(reach=50), RunSpec())["GS104"] == "warn"


def test_exploding_and_non_finite_fail_with_or_without_a_stated_lag(made):
    assert said(made(**EXPLODING), RunSpec())["GS201"] == "fail"
    assert said(made(**NAN), RunSpec())["GS301"] == "fail"
    assert said(made(cut=120), RunSpec())["GS401"] == "fail"


def test_inconclusive_counts_as_nothing(made):
    verdicts = judge(made(rate=-0.03, rate_ci=(-0.05, -0.01)), STATED)
    assert verdicts[0].status == "inconclusive"
    assert worst(verdicts) is None


def test_a_model_of_which_no_gradient_was_judged_is_not_called_healthy(made):
    result = made(rate=None, rate_ci=None, reach=None, zero_lags=None)
    assert overall(result) == "inconclusive"
    assert overall(made(lyapunov=None), RunSpec(select=("GS202",))) == "inconclusive"
    assert overall(made(), RunSpec(select=("GS301",))) == "inconclusive"


@pytest.mark.parametrize(
    ("asked", "left_out"),
    [
        ({"ignore": ("GS1",)}, "vanishing"),
        ({"select": ("GS2",)}, "vanishing"),
        ({"ignore": ("GS201",)}, "exploding"),
        ({"select": ("GS3",)}, "vanishing or exploding"),
    ],
)
def test_what_was_not_judged_is_never_called_healthy(made, asked, left_out):
    result = with_verdicts(made(probe=None), RunSpec(**asked))
    assert result.status == "inconclusive"
    assert report_wording.sentences(result) == [
        f"It was not judged for {left_out}: --select or --ignore leaves those rules out."
    ]
    assert with_verdicts(made(probe=None), RunSpec(ignore=("GS101",))).status == "healthy", (
        "GS102 and GS104 judge it too"
    )


def test_a_value_that_is_no_number_is_never_a_pass(made):
    found = judge(made(rate=float("nan")), STATED)
    assert [v.status for v in found if v.code in ("GS101", "GS201")] == ["skip", "skip"]
    assert found[0].message == "rate is not a number"


def test_worst():
    def of(*statuses):
        return worst(Verdict("GS101", "t", "error", said, "m") for said in statuses)

    assert of("pass", "warn", "fail") == "error"
    assert of("pass", "warn", "skip") == "warning"
    assert of("pass", "skip", "inconclusive") is None
    assert of() is None


def test_select_and_ignore_take_prefixes():
    assert codes(select=("GS1",)) == ["GS101", "GS102", "GS103", "GS104", "GS105"]
    assert codes(select=("GS2", "GS301")) == ["GS201", "GS202", "GS203", "GS204", "GS301"]
    assert codes(select=("gs401",)) == ["GS401"]
    assert codes(ignore=("GS1", "GS3")) == ["GS201", "GS202", "GS203", "GS204", "GS401", "GS402", "GS403", "GS405"]
    assert codes(ignore=("GS303",)) == [code for code in RULES if code != "GS303"]


def test_the_longer_prefix_wins_and_ignore_wins_a_tie():
    assert codes(select=("GS1",), ignore=("GS104",)) == ["GS101", "GS102", "GS103", "GS105"]
    assert codes(select=("GS2", "GS101"), ignore=("GS1",)) == ["GS101", "GS201", "GS202", "GS203", "GS204"]
    assert codes(select=("GS1", "GS2"), ignore=("GS1",)) == ["GS201", "GS202", "GS203", "GS204"]


@pytest.mark.parametrize("side", ["select", "ignore"])
def test_an_unknown_prefix_is_refused_with_the_nearest_code(side):
    with pytest.raises(UsageError, match=r"^unknown rule 'GS11'; did you mean 'GS101'\? \(one of: GS101, "):
        codes(**{side: ("GS11",)})


def test_an_empty_prefix_is_refused():
    with pytest.raises(UsageError, match="unknown rule ''"):
        codes(ignore=("",))


def test_nothing_left_to_judge_is_refused():
    with pytest.raises(UsageError, match="no rule is left"):
        codes(select=("GS1",), ignore=("GS1",))
    with pytest.raises(UsageError, match="no rule is left"):
        codes(ignore=("GS",))


@pytest.mark.parametrize(
    ("select", "said"), [(("GS502",), "GS502 judges a training run"), (("GS5",), "GS501 GS502 GS503 GS504 GS505 judge")]
)
def test_rules_of_training_alone_judge_no_single_report_and_a_run_all_the_same(select, said):
    with pytest.raises(UsageError, match=rf"no rule is left to judge: {said}.*gradscope track"):
        codes(select=select)
    assert selected_rules(RunSpec(select=select), of_training=True) == ()
    with pytest.raises(UsageError, match="--ignore takes away all"):
        selected_rules(RunSpec(select=select, ignore=("GS5", "GS502")), of_training=True)


def test_a_threshold_moves_the_verdict(made):
    result = made(rate=-0.02, rate_ci=(-0.021, -0.019), reach=150)  # e^(-0.021 * 199) = 0.0153, just above 0.01
    assert said(result)["GS101"] == "pass"
    assert said(result, RunSpec(needs_lag=199, thresholds={"vanishing_share": 0.1}))["GS101"] == "fail"


def test_thresholds_of_other_rules_move_theirs_alone(made):
    result = made(directions=3, saturation={"activation": 0.4}, reach=150)
    spec = RunSpec(thresholds={"collapsed_directions": 3, "saturated_share": 0.3, "reach_part": 0.75})
    assert said(result, RunSpec())["GS104"] == "warn"
    found = said(result, spec)
    assert (found["GS103"], found["GS303"], found["GS104"]) == ("warn", "warn", "pass")


def test_an_unknown_threshold_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"^unknown threshold 'vanish_share'; did you mean 'vanishing_share'\?"):
        codes(thresholds={"vanish_share": 0.1})


@pytest.mark.parametrize(
    ("name", "value"),
    [("vanishing_share", 0.0), ("vanishing_share", 1.0), ("vanishing_share", float("nan")), ("exploding_factor", 1.0)],
)
def test_a_threshold_without_meaning_is_refused(name, value):
    with pytest.raises(
        UsageError, match=rf"^threshold {name}=\S+ cannot be: give a number (between|above) \S+ .*default"
    ):
        codes(thresholds={name: value})
