"""How verdicts write numbers, and what explain says to a wrong code."""

from __future__ import annotations

import pytest

from gradscope.errors import UsageError
from gradscope.rules.texts import explain
from gradscope.rules.wording import factor, per_step, percent


@pytest.mark.parametrize(
    ("log10", "shown"),
    [
        (-52.3, "10^-52"),
        (-0.2614, "0.548"),
        (0.0, "1"),
        (2.0, "100"),
        (3.0, "1000"),
        (2.9999999, "1000"),
        (3.7, "5012"),
        (52.0, "10^52"),
    ],
)
def test_factors(log10, shown):
    assert factor(log10) == shown


def test_factors_at_the_ends():
    assert (factor(float("inf")), factor(float("-inf")), factor(float("nan"))) == ("infinity", "0", "an unknown factor")


@pytest.mark.parametrize(
    ("rate", "shown"),
    [
        (-0.6, "0.55"),
        (0.0, "1.00"),
        (-0.0025, "0.9975"),
        (0.0025, "1.0025"),
        (0.1, "1.11"),
        (-3.0, "0.05"),
        (-9, "10^-4"),
    ],
)
def test_the_factor_of_a_step_keeps_its_distance_from_one(rate, shown):
    assert per_step(rate) == shown


def test_percentages():
    assert [percent(share) for share in (0.63, 0.0, 1.0, 0.004)] == ["63 %", "0 %", "100 %", "0.4 %"]


def test_a_wrong_code_is_met_with_the_nearest():
    with pytest.raises(UsageError, match=r"^unknown rule 'GS2001'; did you mean 'GS201'\?"):
        explain("GS2001")


def test_codes_may_be_written_small():
    assert explain(" gs201 ") == explain("GS201")


def test_a_lesson_reads_in_order():
    lesson = explain("GS101")
    headings = [line for line in lesson.splitlines() if line.startswith("#")]
    assert headings == [
        "# GS101 vanishing rate (error with --needs-lag, warning without)",
        "## The maths",
        "## How it is measured",
        "## Threshold",
        "## What to try",
        "## Read more",
    ]
    assert "--threshold vanishing_share=0.01" in lesson


def test_a_rule_without_threshold_says_so():
    assert "None: any one is a finding." in explain("GS401")
    assert "# GS202 chaos (warning)" in explain("GS202")
