from __future__ import annotations

import math

from gradscope.records import Series
from gradscope.renderers.strips import gate_strip, glyph, newest_strip, series_strip
from renderers.reports import series


def profile(*influence: float | None) -> Series:
    """A series whose influence over lags 0, 1, 2 ... is given."""
    return Series(tuple(range(len(influence) + 1)), None, {"log10_influence": influence})


def test_one_glyph_per_range_and_marks_beyond_it():
    shown = [glyph(v, -12.0, 6.0, False) for v in (-math.inf, -12.1, -12.0, -9.0, 0.0, 6.0, 6.1, math.nan, None)]
    assert shown == ["·", "·", "▁", "▂", "▆", "█", "▲", "?", " "]
    in_ascii = [glyph(v, -12.0, 6.0, True) for v in (-13.0, -12.0, 0.0, 6.0, 7.0, math.nan, None)]
    assert in_ascii == ["_", ".", "+", "#", "!", "?", " "]


def test_newest_lagged_step_is_the_reference_not_lag_zero():
    strip = series_strip(profile(5.0, -3.0, -3.0, -16.0), 4, False)
    assert strip is not None
    assert strip.glyphs == "·▆▆▲"
    assert (strip.first, strip.last) == (1, 4)


def test_a_column_shows_the_step_farthest_from_one():
    fading = series_strip(profile(0.0, 0.0, *[0.0] * 97, -20.0), 10, False)
    growing = series_strip(profile(0.0, 0.0, *[0.0] * 97, 20.0), 10, False)
    mixed = series_strip(profile(0.0, 0.0, *[0.0] * 96, 3.0, -20.0), 10, False)
    assert fading is not None
    assert growing is not None
    assert mixed is not None
    assert fading.glyphs == "·" + "▆" * 9
    assert growing.glyphs == "▲" + "▆" * 9
    assert mixed.glyphs[0] == "·"
    assert fading.scale() == "1 column: worst of 10 steps"


def test_nan_beats_everything_in_its_column():
    strip = series_strip(profile(0.0, 0.0, *[0.0] * 16, math.nan, -50.0), 4, False)
    assert strip is not None
    assert strip.glyphs == "?▆▆▆"


def test_few_steps_are_stretched_and_many_are_gathered():
    few, many = series_strip(series(10, -0.1), 78, False), series_strip(series(10_000, -0.1), 78, False)
    assert few is not None
    assert many is not None
    assert (len(few.glyphs), few.scale()) == (78, "1 step = 7 or 8 columns")
    assert (len(many.glyphs), many.scale()) == (78, "1 column: worst of 128 or 129 steps")
    assert few.axis().startswith("step 1 ◂──")
    assert few.axis().endswith("── step 10")
    assert len(few.axis()) == 78


def test_gradients_stand_in_where_there_is_no_influence():
    drawn = Series((0, 1, 2), None, {"log10_grad_state": (-1.0, 0.0, 0.0)})
    strip = series_strip(drawn, 3, False)
    assert strip is not None
    assert strip.of == "log10_grad_state"
    assert (strip.first, strip.last) == (0, 2)
    assert series_strip(Series(), 3, False) is None
    assert series_strip(profile(None, None), 3, False) is None


def test_gates_are_linear_from_zero_to_one():
    gates = Series((0, 1, 2, 3), None, {"gate.forget.mean": (0.0, 0.5, 1.0)})
    strip = gate_strip(gates, "gate.forget.mean", 3, False)
    assert strip is not None
    assert strip.glyphs == "▁▅█"
    assert gate_strip(gates, "gate.input.mean", 3, False) is None


def fading(steps: int) -> Series:
    """Influence that falls by a power of ten every two steps: under 1e-12 beyond 25 of them."""
    return profile(0.0, *[-0.5 * lag for lag in range(steps - 1)])


def test_the_newest_steps_are_enlarged_where_the_whole_hides_them() -> None:
    whole, newest = series_strip(fading(10_000), 78, False), newest_strip(fading(10_000), 78, False)
    assert whole is not None
    assert newest is not None
    assert set(whole.glyphs) == {"·"}
    assert (newest.first, newest.last, newest.scale()) == (9_923, 10_000, "1 column = 1 step")
    assert newest.glyphs.count("·") == 78 - 26
    assert newest.glyphs.endswith("▅▅▆▆▆")


def test_nothing_is_enlarged_where_the_whole_shows_it() -> None:
    assert newest_strip(fading(300), 78, False) is None
    assert newest_strip(profile(*[0.0] * 10_000), 78, False) is None
    assert newest_strip(profile(None, None), 78, False) is None
