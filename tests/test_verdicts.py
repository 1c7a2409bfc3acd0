"""The statuses: one table that every format, sweep, Monitor and remedy asks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

import gradscope
from gradscope.records import Fix, Status
from gradscope.swept import LOOKS
from gradscope.verdicts import FOR_GOOD, GRAVEST_FIRST, STATUSES, best_remedy, gravest, is_better

HOME = Path(gradscope.__file__).parent


def test_every_status_stands_in_the_table_once_and_in_the_order_of_gravity():
    assert set(STATUSES) == set(get_args(Status))
    assert GRAVEST_FIRST == ("non-finite", "exploding", "vanishing", "degenerate", "inconclusive", "healthy")
    assert FOR_GOOD == ("non-finite", "exploding", "vanishing")
    assert gravest(["healthy", None, "degenerate", "vanishing"]) == "vanishing"
    assert gravest([None]) is None
    assert is_better("inconclusive", "vanishing")
    assert not is_better("vanishing", "vanishing")


@pytest.mark.parametrize("part", ["short", "glyph", "letter"])
def test_what_stands_alone_in_a_cell_tells_all_statuses_apart(part):
    shown = [getattr(look, part) for look in LOOKS.values()]
    assert len(set(shown)) == len(shown)
    assert all(look.letter.isascii() for look in LOOKS.values())


def test_no_other_file_lists_the_statuses_for_itself():
    listed = re.compile(r'"vanishing"[^\n]*[,:][^\n]*\n?[^\n]*"exploding"[^\n]*\n?[^\n]*"non-finite"')
    inverse = re.compile(r'"non-finite"[^\n]*,[^\n]*\n?[^\n]*"exploding"')
    files = [path for path in sorted(HOME.rglob("*.py")) if path.name not in ("records.py", "verdicts.py")]
    found = [path.name for path in files for text in [path.read_text()] if listed.search(text) or inverse.search(text)]
    assert found == ["report_wording.py"]  # one sentence for each, which is the renderer's own


@pytest.mark.parametrize(
    ("status", "share", "fixes", "best"),
    [
        # A remedy of an exploding model has a smaller share, for what explodes has all of it at the oldest lags.
        ("exploding", -0.1, [("flossing", "exploding", -0.09), ("critical", "healthy", -2.0)], "critical"),
        ("exploding", -0.1, [("flossing", "exploding", -0.0), ("leaky", "vanishing", -9.0)], None),
        ("vanishing", -52.0, [("leaky", "vanishing", -50.0), ("norm", "vanishing", -51.9)], "leaky"),
        ("vanishing", -9.0, [("norm", "vanishing", -8.9), ("gates", "inconclusive", -9.5)], "gates"),
        ("vanishing", -9.0, [("chrono", "exploding", -1.0)], None),
        ("inconclusive", -4.0, [("norm", "inconclusive", -2.0), ("gates", "healthy", -2.1)], "gates"),
        ("healthy", -2.0, [("gates", "healthy", -1.0)], None),
        ("vanishing", -9.0, [("not measured", "healthy", None)], None),
    ],
)
def test_the_remedy_to_recommend_has_a_better_status(status, share, fixes, best):
    listed = [Fix(name, "change", 9, -0.1, word, gradient_share=of) for name, word, of in fixes]
    found = best_remedy(listed, status, share)
    assert (found.name if found else None) == best


def test_what_was_learned_with_comes_before_what_was_measured():
    listed = [Fix("gates", "bias 5", 9, 0.0, "healthy", -2.0), Fix("norm", "x", 9, 0.0, "healthy", -3.0, 4, 100, 6)]
    assert best_remedy(listed, "vanishing", -9.0).name == "norm"
