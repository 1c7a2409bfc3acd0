"""Axes as they are written, and the settings at a point of them."""

from __future__ import annotations

import itertools
import math

import pytest

from gradscope.config.axes import read_axes, spec_at
from gradscope.config.command import command
from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.swept import Axis, Sweep, SweepRun, at, cells, flat


def axes(*words, models=("lstm",)):
    return read_axes(words, models, ("rnn",))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("32,64,128", ["32", "64", "128"]),
        ("0:6:2", ["0", "2", "4", "6"]),
        ("0.8:1.2:0.1", ["0.8", "0.9", "1", "1.1", "1.2"]),
        ("3:1:-1", ["3", "2", "1"]),
        ("0:1:0.4", ["0", "0.4", "0.8"]),
        ("-1:1:1", ["-1", "0", "1"]),
        ("log:1:100:3", ["1", "10", "100"]),
        ("log:0.1:10:5", ["0.1", "0.316228", "1", "3.16228", "10"]),
        ("5,0:2:1", ["5", "0", "1", "2"]),
        ("100:300:100", ["100", "200", "300"]),
    ],
)
def test_lists_and_ranges_hold_both_ends(text, values):
    assert list(axes(f"forget_bias={text}")[0].values) == values


def test_whole_settings_get_whole_numbers_from_a_log_range():
    assert axes("hidden=log:8:64:4")[0].values == ("8", "16", "32", "64")
    assert axes("hidden=log:1:3:9")[0].values == ("1", "2", "3")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["forget_bias=0:6"], "'0:6' is no range"),
        (["forget_bias=0:6:0"], "never gets from 0 to 6"),
        (["forget_bias=0:6:-1"], "never gets from 0 to 6"),
        (["forget_bias=log:0:6:3"], "ends above 0"),
        (["forget_bias=log:1:6"], "is no range"),
        (["forget_bias=1,1"], "has the value 1 twice"),
        (["forget_bias="], "empty value"),
        (["forget_bias=1,,2"], "empty value"),
        (["forget_bias=1", "forget-bias=2"], "is given twice"),
        (["models=1"], "cannot be an axis"),
        (["args=1"], "write args.NAME="),
        (["forget_bias"], "is no axis"),
        (["model=rnn"], "both as MODEL and as the axis"),
        (["length=1:1100:1", "hidden=1:1000:1"], "takes at most 1,000,000"),
        (["forget_bias=0:1e9:1"], "has 1,000,000,001 values"),
    ],
)
def test_wrong_axes_are_refused_in_one_line(words, said):
    with pytest.raises(UsageError) as found:
        axes(*words)
    assert said in str(found.value)
    assert "\n" not in str(found.value)


def test_an_option_that_the_model_settles_cannot_be_moved():
    with pytest.raises(UsageError, match="'hidden' is an axis and also given in 'lstm:hidden=8'"):
        axes("hidden=1,2", models=("lstm:hidden=8",))
    with pytest.raises(UsageError, match="'gain' is an axis"):
        axes("gain=1,2", models=("rnn:gain=1",))


def test_a_name_that_nothing_has_is_refused_for_models_of_the_users_own():
    with pytest.raises(UsageError, match=r"unknown axis 'hiden'.*args\.hiden"):
        axes("hiden=1,2", models=("model.py:Tagger",))
    assert axes("args.hidden=1,2", models=("model.py:Tagger",))[0].kind == "entry"


def test_several_models_are_an_axis_and_so_is_the_word_model():
    named = read_axes(["length=9,19"], ["rnn:gain=2", "lstm"], ("rnn",))
    assert named[0] == Axis("model", ("rnn:gain=2", "lstm"), "model")
    moved = read_axes(["model=rnn,lstm", "gain=1,2"], [], ("gru",))
    assert [(axis.name, axis.kind) for axis in moved] == [("model", "model"), ("gain", "option")]


def test_a_point_has_the_settings_of_its_values():
    base = RunSpec(models=("lstm",), batch=2)
    found = axes("forget_bias=1,2", "init=orthogonal,uniform", "length=10,20", "thresholds.vanishing_share=0.1,0.2")
    spec = spec_at(base, found, ("2", "orthogonal", "20", "0.1"))
    assert spec.models == ("lstm:forget_bias=2,init=orthogonal",)
    assert (spec.length, spec.batch, spec.thresholds) == (20, 2, {"vanishing_share": 0.1})
    own = read_axes(["args.hidden=8", "args.layers=2"], ["m.py:M"], ())
    assert spec_at(RunSpec(models=("m.py:M",)), own, ("8", "2")).args == {"hidden": "8", "layers": "2"}
    words = read_axes(["gain=2"], ["rnn:init=orthogonal", "rnn"], ())
    assert spec_at(base, words, ("rnn:init=orthogonal", "2")).models == ("rnn:init=orthogonal,gain=2",)
    with pytest.raises(UsageError, match="length is 'x' \\(--over length\\)"):
        spec_at(base, axes("length=x"), ("x",))


def test_points_are_counted_with_the_last_axis_moving_fastest():
    found = axes("forget_bias=1,2,3", "length=10,20")
    assert [at(found, point) for point in range(3)] == [("1", "10"), ("1", "20"), ("2", "10")]


def test_the_command_of_a_run_names_what_differs_and_what_is_asked_for():
    spec = RunSpec(models=("m.py:M",), args={"a": "1 2"}, hidden=64, length=9, trust=True, select=("GS1", "GS2"))
    line = "gradscope analyze m.py:M --length 9 --hidden 64 --arg 'a=1 2' --trust --select GS1 --select GS2"
    assert command(spec, always=("hidden",)) == line


def test_summaries_become_numbers_by_name():
    summary = {"rate": -0.5, "rate_ci": [-0.6, -0.4], "reach": None, "lyapunov": [0.1, -0.2], "zero_lags": [],
               "precision_horizon": {"float32": {"lag": 7, "said": "x"}}, "gain": "inf"}  # fmt: skip
    assert flat(summary) == {"rate": -0.5, "rate_ci.low": -0.6, "rate_ci.high": -0.4, "lyapunov": 0.1,
                             "precision_horizon.float32.lag": 7.0, "gain": float("inf")}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ((1.0, 2.0, 6.0), 3.0),
        ((1.0, None, 2.0), 1.5),
        ((None, None, None), None),
        ((-5.0, -math.inf, -9.0), -math.inf),
        ((1.0, math.inf, None), math.inf),
        ((1.0, -math.inf, math.inf), math.nan),
        ((1.0, math.nan, math.inf), math.nan),
    ],
)
def test_a_mean_over_seeds_does_not_depend_on_their_order(values, mean):
    for order in itertools.permutations(values):
        runs = tuple(SweepRun(0, seed, "done", "healthy", None, (value,)) for seed, value in enumerate(order))
        sweep = Sweep("analyze", RunSpec(), (), (0, 1, 2), {}, ("rate",), runs)
        (found,) = next(iter(cells(sweep))).values
        assert found == mean or (found is not None and math.isnan(found) and math.isnan(mean))
