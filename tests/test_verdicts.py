"""The statuses: one table that every format, sweep, Monitor and remedy asks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

import gradscope
from gradscope.records import Status
from gradscope.swept import LOOKS
from gradscope.verdicts import FOR_GOOD, GRAVEST_FIRST, STATUSES, gravest, is_better

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
    assert found == ["wording.py"]  # one sentence for each, which is the renderer's own
