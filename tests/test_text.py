from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradscope.text import safe_text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain", "plain"),
        ("naïve 猫 ‖J‖ · ✓", "naïve 猫 ‖J‖ · ✓"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]8;;http://x\x07", "\\x1b]8;;http://x\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
        ("nul\0", "nul\\x00"),
        ("\u202eabc\u202c", "\\u202eabc\\u202c"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("line\u2028sep", "line\\u2028sep"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        (42, "42"),
    ],
)
def test_what_is_shown(raw, shown):
    assert safe_text(raw) == shown


def test_long_text_ends_in_an_ellipsis():
    assert safe_text("x" * 200) == "x" * 200
    assert safe_text("x" * 201) == "x" * 199 + "…"
    assert safe_text("\n" * 5, limit=6) == "\\n\\n\\…"


@given(st.text(st.characters(codec=None)), st.integers(1, 50))
def test_nothing_alive_is_left(raw, limit):
    shown = safe_text(raw, limit)
    assert len(shown) <= limit
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    shown.encode()
