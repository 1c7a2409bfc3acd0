"""Judging and showing outcomes, without measuring anything."""

from __future__ import annotations

import json
import math

import pytest
import torch

from gradscope.selftest import run_selftest
from gradscope.selftest.case import Case, compared, largest
from gradscope.selftest.run_selftest import run


def broken():
    raise RuntimeError("no\nsuch \x1b[31mfactor")


GOOD = Case("good", lambda: compared([0.5, 2.0], [0.5, 2.0], 1e-12, "halves"))
OFF = Case("off", lambda: compared([1.0, 200.0], [1.0, 100.0], 0.5, "a hundred"))
RAISES = Case("raises", broken)


@pytest.mark.parametrize(
    ("measured", "exact", "error"),
    [
        (1.5, 1.0, 0.5),
        (150.0, 100.0, 0.5),
        (0.0, 0.25, 0.25),
        (-math.inf, -math.inf, 0.0),
        (-math.inf, 0.0, math.inf),
        (math.nan, 1.0, math.inf),
    ],
)
def test_errors_are_relative_to_at_least_one(measured: float, exact: float, error: float) -> None:
    assert compared(measured, exact, 0.1, "").errors() == (error,)


def test_a_missing_number_is_a_failure_not_a_match() -> None:
    (outcome,) = run([Case("short", lambda: compared([1.0], [1.0, 2.0], 0.1, ""))])
    assert not outcome.passed
    assert outcome.reason.startswith("ValueError")


def test_a_list_without_numbers_does_not_pass() -> None:
    (outcome,) = run([Case("empty", lambda: compared([], [], 0.1, ""))])
    assert not outcome.passed


def test_the_largest_difference_is_nan_wherever_nan_stands() -> None:
    assert largest([1.0, 3.0, 2.0]) == 3.0
    assert math.isnan(largest([1.0, math.nan]))
    assert math.isnan(largest([math.nan, 1.0]))


def test_a_case_that_raises_has_failed_and_the_rest_still_run() -> None:
    seen = []
    outcomes = run([RAISES, GOOD], progress=lambda *state: seen.append(state))
    assert [outcome.passed for outcome in outcomes] == [False, True]
    assert outcomes[0].reason == "RuntimeError: no\\nsuch \\x1b[31mfactor"
    assert seen == [("raises", 0, 2), ("good", 1, 2)]


def test_full_takes_the_longer_variant() -> None:
    case = Case("two", lambda: compared(1.0, 1.0, 0.1, "brief"), full=lambda: compared(2.0, 2.0, 0.1, "long"))
    assert [run([case], full)[0].source for full in (False, True)] == ["brief", "long"]
    assert run([GOOD], full=True)[0].source == "halves"


def test_the_random_state_and_the_threads_stay_as_they_were() -> None:
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run([Case("random", lambda: compared(torch.rand(1), 0.0, 1.0, ""))])
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_text_shows_the_first_number_or_the_one_that_is_off() -> None:
    lines = run_selftest.text(run([GOOD, OFF, RAISES]), 1.25).splitlines()
    assert lines == [
        "case                               measured        exact    error   limit",
        "good                            0.500000000  0.500000000  0.0e+00   1e-12 ok",
        "off                                     200          100  1.0e+00   5e-01 FAILED",
        "raises                                    -            -        -       - FAILED",
        "  RuntimeError: no\\nsuch \\x1b[31mfactor",
        "",
        "selftest: 2 of 3 cases FAILED: off; raises",
    ]
    assert max(map(len, lines)) <= 80


def test_quiet_is_the_last_line_and_sources_are_said_on_request() -> None:
    outcomes = run([GOOD])
    assert run_selftest.text(outcomes, 1.25, quiet=True) == "selftest: all 1 cases ok, 1.2 s\n"
    assert "  halves" in run_selftest.text(outcomes, 1.25, sources=True).splitlines()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-526.80257828913150614, "-526.8025783"),
        (0.9624236501192069, "0.962423650"),
        (-98.34739905318732, "-98.34739905"),
        (1.75846671252247e-14, "1.76e-14"),
        (-1386294.3611198906, "-1386294.361"),
        (4.5, "4.500000000"),
        (44.0, "44"),
        (1e200, "1.00e+200"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
    ],
)
def test_numbers_fit_their_column(value: float, shown: str) -> None:
    (outcome,) = run([Case("n", lambda: compared(value, value, 1.0, ""))])
    row = run_selftest.text([outcome], 0.0).splitlines()[1]
    assert row.split()[1] == shown
    assert len(row) <= 80


def test_json_holds_every_number_and_spells_what_json_cannot() -> None:
    odd = Case("odd", lambda: compared([-math.inf, math.nan], [-math.inf, 0.0], 0.1, "none"))
    found = json.loads(run_selftest.as_json(run([GOOD, odd, RAISES]), 1.25))
    assert (found["schema"], found["passed"]) == ("gradscope.selftest/1", False)
    assert found["timing"] == {"seconds": 1.25}
    good, odd_one, raised = found["cases"]
    assert good == {
        "name": "good",
        "measured": [0.5, 2.0],
        "exact": [0.5, 2.0],
        "errors": [0.0, 0.0],
        "error": 0.0,
        "tolerance": 1e-12,
        "source": "halves",
        "reason": None,
        "passed": True,
    }
    assert odd_one["measured"] == ["-inf", "nan"]
    assert (odd_one["error"], odd_one["passed"]) == ("inf", False)
    assert (raised["error"], raised["passed"]) == (None, False)
