from __future__ import annotations

import ast
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradscope
from gradscope.text import counted, encoded, in_ascii, safe_text


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


@pytest.mark.parametrize(("count", "said"), [(0, "0 lags"), (1, "1 lag"), (2, "2 lags"), (2000, "2,000 lags")])
def test_things_are_counted_in_words(count, said):
    assert counted(count, "lag") == said


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


def signs():
    """Every sign outside ASCII that rules, their pages and remedies write; of code strings alone."""
    found = set()
    for room in ("rules", "fixes"):
        for path in (Path(gradscope.__file__).parent / room).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            words = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
            found |= {char for word in words if isinstance(word, str) for char in word if ord(char) > 127}
        for page in (Path(gradscope.__file__).parent / room).rglob("*.md"):
            found |= {char for char in page.read_text(encoding="utf-8") if ord(char) > 127}
    return found


def test_every_sign_of_ours_has_a_stand_in_in_ascii():
    assert len(signs()) > 10
    assert {sign for sign in signs() if "\\" in in_ascii(sign)} == set()


def test_powers_and_indices_stay_numbers():
    assert in_ascii("10⁻¹⁰ λ₁² ∂h/∂x ≠ √2") == "10^-10 lambda1^2 dh/dx != sqrt2"
    assert in_ascii("é 猫") == "\\xe9 \\u732b"


def test_an_encoding_keeps_what_it_has():
    assert encoded("é χ² \ud800", "latin-1") == b"\xe9 chi\xb2 \\ud800"
    assert encoded("é χ²", "utf-8") == "é χ²".encode()
