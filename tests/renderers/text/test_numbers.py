from __future__ import annotations

import math

import pytest

from gradscope.renderers import numbers


@pytest.mark.parametrize(
    ("log10", "shown"),
    [
        (-399.5, "3.2e-400"),
        (-400.0, "1.0e-400"),
        (-52.136677, "7.3e-53"),
        (0.0, "1.0e+00"),
        (-0.000001, "1.0e+00"),
        (308.9, "7.9e+308"),
        (5000.0, "1.0e+5000"),
        (-math.inf, "0"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (None, "-"),
    ],
)
def test_scientific_notation_survives_what_floats_do_not(log10, shown):
    assert numbers.scientific(log10) == shown


@pytest.mark.parametrize(
    ("log10", "shown"),
    [
        (math.log10(0.548), "0.548"),
        (0.0, "1.000"),
        (math.log10(28.84), "28.8"),
        (math.log10(999), "999"),
        (-3, "1.0e-03"),
    ],
)
def test_readable_writes_everyday_numbers_plainly(log10, shown):
    assert numbers.readable(log10) == shown


@pytest.mark.parametrize(
    ("log10", "shown"),
    [
        (-52.0, "10^-52"),
        (math.log10(0.0046), "0.46 %"),
        (0.0, "100 %"),
        (-math.inf, "nothing"),
        (None, "-"),
        (-400.2, "10^-400"),
    ],
)
def test_share_is_percent_or_an_order_of_magnitude(log10, shown):
    assert numbers.share(log10) == shown


@pytest.mark.parametrize(
    ("rate", "shown"),
    [
        (math.log(0.55), "0.55"),
        (0.0, "1.0000"),
        (-0.0009, "0.9991"),
        (math.log(1.06), "1.06"),
        (-200.0, "1.4e-87"),
        (None, "-"),
    ],
)
def test_gain_tells_almost_one_from_one(rate, shown):
    assert numbers.gain(rate) == shown


def test_percent_and_plain():
    assert [numbers.percent(value) for value in (1.0, 0.0351, 0.25, None)] == ["100 %", "3.5 %", "25 %", "-"]
    assert [numbers.plain(value) for value in (4761.9, 0.597, 1e-9, math.nan)] == ["4762", "0.597", "1e-09", "nan"]
    assert [numbers.milliseconds(value) for value in (0.0213, 0.0012, 2.5)] == ["21", "1.2", "2500"]


def test_loosely_typed_numbers_are_read_as_the_file_spells_them():
    assert numbers.as_number("inf") == math.inf
    assert math.isnan(numbers.as_number("nan") or 0.0)
    assert numbers.as_number(3) == 3.0
    assert numbers.as_number("3") is None
    assert numbers.as_number(True) is None


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (99.4, 2, "99"), (99.7, 2, "100"), (-99.7, 2, "-100"), (999.6, 3, "1000"), (999.4, 3, "999"),
        (1e3, 3, "1000"), (123456.0, 3, "123456"), (1e7, 3, "1e+07"), (0.00001, 2, "1e-05"),
    ],
)  # fmt: skip
def test_no_everyday_number_is_rounded_into_an_exponent(value, digits, shown):
    assert numbers.plain(value, digits) == shown
