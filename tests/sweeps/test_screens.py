"""The phase diagram, the frontier, the best point: on sweeps made by hand."""

from __future__ import annotations

import csv
import json
import math
from io import StringIO

import pytest

from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.registry import SWEEP_FORMATS, load
from gradscope.renderers import sweep_screen, sweep_wording
from gradscope.renderers.view import View
from gradscope.swept import Axis, Sweep, SweepRun, at, cells

FIELDS = ("reach", "needed_lag", "rate")
BIAS = Axis("forget_bias", ("0", "2", "4", "6"), "option")
LENGTH = Axis("length", ("50", "200"))


def made(axes, judged, seeds=(0,), models=("lstm",), **settings):
    """A sweep whose run at values with a seed is what `judged(values, seed)` says: status, reach, needed lag."""
    count = math.prod(len(axis.values) for axis in axes)
    runs = []
    for point in range(count):
        for seed in seeds:
            said = judged(dict(zip((axis.name for axis in axes), at(axes, point), strict=True)), seed)
            if said is None:
                runs.append(SweepRun(point, seed, "failed", reason="its process was killed by SIGSEGV"))
            elif said == "waiting":
                runs.append(SweepRun(point, seed, "waiting"))
            else:
                status, reach, needed = said
                runs.append(SweepRun(point, seed, "done", status, None, (reach, needed, -0.1), seconds=0.5))
    return Sweep("analyze", RunSpec(models=models, **settings), axes, seeds, {}, FIELDS, tuple(runs))


def needing(bias, status="vanishing"):
    """Healthy from a bias on that grows with the length."""

    def judged(values, seed):
        needed = int(values.get("length", 50)) - 1
        enough = float(values["forget_bias"]) >= bias(values)
        return ("healthy", needed, needed) if enough else (status, 7, needed)

    return judged


def sentences(sweep):
    return sweep_wording.sentences(sweep, list(cells(sweep)))


def test_no_two_columns_of_the_data_have_one_name(tmp_path):
    """The axis `gain` is not the gain that was measured, nor a start's file the state of a run."""
    axes = (Axis("gain", ("0.9", "1.1"), "option"), Axis("state", ("a.npy", "b.npy")))
    runs = tuple(SweepRun(point, 0, "done", "healthy", None, (49, 0.5 + point), seconds=0.5) for point in range(4))
    sweep = Sweep("analyze", RunSpec(models=("rnn",)), axes, (0,), {}, ("reach", "gain"), runs)
    rows = list(csv.DictReader(StringIO(load(SWEEP_FORMATS["csv"].renderer)(sweep, View()))))
    assert [(row["gain"], row["run.gain"]) for row in rows] == [
        ("0.9", "0.5"), ("0.9", "1.5"), ("1.1", "2.5"), ("1.1", "3.5")]  # fmt: skip
    assert {(row["state"], row["run.state"], row["seed"]) for row in rows} == {
        ("a.npy", "done", "0"), ("b.npy", "done", "0")}  # fmt: skip
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "s.parquet").write_bytes(load(SWEEP_FORMATS["parquet"].renderer)(sweep, View()))
    table = parquet.read_table(tmp_path / "s.parquet").to_pydict()
    assert (table["gain"], table["run.gain"]) == ([0.9, 0.9, 1.1, 1.1], [0.5, 1.5, 2.5, 3.5])
    assert (table["state"][:2], set(table["run.state"]), table["seed"]) == (["a.npy", "b.npy"], {"done"}, [0] * 4)


def test_one_sentence_where_the_edge_depends_on_nothing_else():
    assert sentences(made((BIAS,), needing(lambda values: 4))) == ["reach 49 needs forget_bias >= 4"]
    assert sentences(made((BIAS, LENGTH), needing(lambda values: 4))) == ["the full reach needs forget_bias >= 4"]
    given = made((BIAS, LENGTH), lambda v, s: ("healthy" if float(v["forget_bias"]) > 1 else "vanishing",
                                               30.0 if float(v["forget_bias"]) > 1 else 3.0, 30.0))  # fmt: skip
    assert sentences(given) == ["reach 30 needs forget_bias >= 2"]


def test_a_sentence_for_each_value_that_the_edge_depends_on():
    width = Axis("hidden", ("8", "16", "32"))
    found = made((BIAS, width, LENGTH), needing(lambda values: 2 if values["length"] == "50" else 6))
    assert sentences(found) == [
        "reach 49 needs forget_bias >= 2 at length=50",
        "reach 199 needs forget_bias >= 6 at length=200",
    ]
    beyond = made((BIAS, LENGTH), needing(lambda values: 2 if values["length"] == "50" else 99))
    assert sentences(beyond) == [
        "reach 49 needs forget_bias >= 2 at length=50",
        "no forget_bias up to 6 gives reach 199 at length=200; the farthest is 7",
        "no forget_bias up to 6 gives a healthy gradient at length=200",
    ]


def test_health_is_told_apart_from_reach_where_it_differs():
    gain = Axis("gain", ("0.8", "1", "1.2", "1.4"), "option")

    def judged(values, seed):
        size = float(values["gain"])
        return ("vanishing", 5.0, 49.0) if size < 1 else ("exploding" if size > 1.2 else "healthy", 49.0, 49.0)

    assert sentences(made((gain,), judged)) == [
        "reach 49 needs gain >= 1",
        "a healthy gradient needs gain from 1 to 1.2",
    ]


def test_what_depends_on_too_much_is_summed_up():
    width, depth = Axis("hidden", ("8", "16", "32")), Axis("layers", ("1", "2", "3"))
    found = sentences(made((BIAS, width, depth), needing(lambda v: 2 * (int(v["hidden"]) // 8 + int(v["layers"])) % 7)))
    assert found == ["reach 49 turns at forget_bias 2 to 6, depending on hidden and layers"]


def test_a_turn_at_one_value_is_one_number_and_what_comes_and_goes_is_counted():
    width, depth = Axis("hidden", ("4", "6", "8")), Axis("layers", ("1", "2", "3"))
    enough = {("4", "1"): "246", ("6", "1"): "246", ("8", "2"): "246", ("4", "3"): "06"}

    def judged(values, seed):
        held = values["forget_bias"] in enough.get((values["hidden"], values["layers"]), "")
        return ("healthy" if held else "vanishing", 49.0 if held else 7.0, 49.0)

    assert sentences(made((BIAS, width, depth), judged)) == [
        "reach 49 turns at forget_bias 2, depending on hidden and layers; no value of it is enough in 5 of 9 cases; "
        "it comes and goes in 1 of 9"
    ]


def test_the_heading_says_nothing_of_what_varies_whatever_the_projects_file_says(tmp_path, monkeypatch):
    """Of hidden = 8 in the file a sweep over 4 and 6 has nothing, and two seeds are no `--seeds 1`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gradscope.toml").write_text("hidden = 8\nlength = 10\nseeds = 2\nseed = 3\n")
    sweep = made((Axis("hidden", ("4", "6")),), lambda v, s: ("healthy", 9.0, 9.0), (3, 4), length=10, hidden=8, seed=3)
    assert sweep_wording.heading(sweep) == "lstm · 2 points · seeds 3-4 · --length 10"
    alone = made((Axis("hidden", ("4", "6")),), lambda v, s: ("healthy", 9.0, 9.0), (3,), length=10, seed=3)
    assert sweep_wording.heading(alone) == "lstm · 2 points · --length 10 --seed 3"
    file = made(
        (Axis("gain", ("1", "2"), "option"),), lambda v, s: ("healthy", 9.0, 9.0), (3,), ("m.py:Net",), hidden=8
    )
    assert sweep_wording.heading(file) == "m.py:Net · 2 points · --seed 0"


def test_nothing_is_said_of_what_never_turns_or_was_not_measured():
    assert sentences(made((BIAS,), lambda values, seed: ("healthy", 9.0, 9.0))) == []
    assert sentences(made((BIAS,), lambda values, seed: None)) == []
    assert sentences(made((Axis("init", ("orthogonal", "uniform"), "option"),), lambda v, s: ("healthy", 9, 9))) == []


def test_the_best_point_is_healthy_in_most_seeds_and_reaches_farthest():
    def judged(values, seed):
        if values["forget_bias"] == "6" and seed == 1:
            return "exploding", 199.0, 199.0
        return ("healthy", 20.0 if values["forget_bias"] == "4" else 10.0, 199.0)

    sweep = made((BIAS,), judged, seeds=(0, 1), hidden=8)
    first = sweep_wording.ranked(sweep, list(cells(sweep)))[0]
    assert sweep.at(first.point) == ("4",)
    assert sweep_wording.reproduced(sweep, first) == "gradscope analyze lstm:forget_bias=4 --hidden 8 --seeds 2"
    assert sweep_wording.best_point(made((BIAS,), lambda v, s: None), []) is None


def test_cells_hold_word_glyph_and_how_many_seeds_say_so():
    def judged(values, seed):
        return {"0": ("vanishing", 1, 9), "2": ("healthy", 9, 9) if seed else ("vanishing", 1, 9),
                "4": None, "6": "waiting"}[values["forget_bias"]]  # fmt: skip

    sweep = made((BIAS,), judged, seeds=(0, 1, 2))
    screen = load(SWEEP_FORMATS["text"].renderer)(sweep, View())
    assert " 0  ▼ vanishing\n" in screen
    assert " 2  ✓ healthy 2/3\n" in screen
    assert " 4  ✗ failed\n" in screen
    assert " 6  · waiting\n" in screen
    assert "≈ 1 of 4 points is healthy; 1 failed, 1 vanishing, 1 waiting" in screen
    assert "forget_bias=4 (first of 3): its process was killed by SIGSEGV" in screen
    assert " ! 3 of 12 runs are still to be done; the same command goes on\n" in screen
    plain = load(SWEEP_FORMATS["text"].renderer)(sweep, View(ascii=True))
    assert plain.isascii()
    assert " 2  + healthy 2/3\n" in plain


@pytest.mark.parametrize(("columns", "shown"), [(4, "✓ healthy"), (9, "✓ ok"), (22, " ✓ ")])
def test_words_give_way_to_short_ones_and_to_glyphs_where_they_do_not_fit(columns, shown):
    wide = Axis("length", tuple(str(50 + step) for step in range(columns)))
    tall = Axis("forget_bias", tuple(str(step) for step in range(columns + 1)), "option")
    screen = load(SWEEP_FORMATS["text"].renderer)(made((tall, wide), needing(lambda values: 2)), View())
    assert shown in screen
    rows = [line for line in screen.splitlines() if "▼" in line]
    assert all(len(line) <= 80 for line in screen.splitlines())
    assert len(rows) >= 2
    assert ("▼ van = vanishing" in screen) == (columns != 4)


def test_axes_go_where_they_are_asked_for_and_the_others_make_planes():
    width = Axis("hidden", ("8", "16", "32"))
    sweep = made((BIAS, width, LENGTH), needing(lambda values: 2))
    drawn = sweep_screen.planes(sweep, list(cells(sweep)), View(x="forget_bias", y="length"))
    assert [plane.fixed for plane in drawn] == [(("hidden", value),) for value in width.values]
    assert (drawn[0].down, drawn[0].across) == (LENGTH, BIAS)
    assert [[cell.status for cell in row] for row in drawn[1].rows] == [["vanishing", *["healthy"] * 3]] * 2
    assert [sweep.at(cell.point) for cell in drawn[1].rows[1]] == [(bias, "16", "200") for bias in BIAS.values]
    for view in (View(x="nothing"), View(x="length", y="length")):
        with pytest.raises(UsageError):
            sweep_screen.planes(sweep, list(cells(sweep)), view)
    one = sweep_screen.planes(made((BIAS,), needing(lambda v: 2)), [], View())
    assert one[0].across is None


def test_a_number_shades_the_cells_from_least_to_most():
    sweep = made((BIAS,), lambda v, s: ("healthy", 10.0 * float(v["forget_bias"]), 99.0))
    screen = load(SWEEP_FORMATS["text"].renderer)(sweep, View(shade="reach"))
    for row in (" 0  ░ 0\n", " 2  ▒ 20\n", " 4  ▓ 40\n", " 6  █ 60\n"):
        assert row in screen


@pytest.mark.parametrize("name", SWEEP_FORMATS)
def test_every_form_takes_every_view_and_hostile_names(name):
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow, of the extra [parquet], is not installed")
    evil = Axis("model", ("a\x1b[31m.py:M", "=cmd|x.py:M", "<b>.py:M"), "model")
    sweep = made((evil, LENGTH), lambda v, s: None if v["length"] == "50" else ("healthy", math.inf, 9.0))
    for view in (View(), View(width=30, ascii=True, colour=True), View(quiet=True, steps="all", shade="reach")):
        content = load(SWEEP_FORMATS[name].renderer)(sweep, view)
        assert content
        if name in ("text", "markdown", "csv"):
            assert "\x1b[31m.py" not in content
    if name == "csv":
        rows = list(csv.DictReader(StringIO(content)))
        assert rows[2]["model"] == "'=cmd|x.py:M"
        assert rows[1]["reach"] == "inf"
        assert (rows[0]["state"], rows[0]["reach"]) == ("failed", "")
    if name == "json":
        data = json.loads(content)
        assert data["runs"][1]["values"][0] == "inf"
        assert data["runs"][0]["reason"] == "its process was killed by SIGSEGV"
    if name == "markdown":
        assert "<b>" not in content


def test_many_points_leave_the_table_to_the_best_and_many_planes_are_cut():
    axes = (Axis("forget_bias", tuple(map(str, range(5))), "option"), Axis("hidden", tuple(map(str, range(1, 5)))),
            Axis("batch", tuple(map(str, range(1, 15)))))  # fmt: skip
    sweep = made(axes, needing(lambda values: 2))
    screen = load(SWEEP_FORMATS["text"].renderer)(sweep, View(x="forget_bias", y="hidden"))
    assert "the best 8 of 280 points; --steps all shows every one" in screen
    assert "and 2 more planes; --steps all shows every one" in screen
    whole = load(SWEEP_FORMATS["text"].renderer)(sweep, View(x="forget_bias", y="hidden", steps="all"))
    assert whole.count("✓ healthy") == 2 * 280 * 3 // 5
