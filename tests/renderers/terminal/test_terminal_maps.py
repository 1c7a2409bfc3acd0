"""Maps of step pairs and attention on the screen, at every width and in ASCII."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gradscope.renderers.screen import render
from gradscope.renderers.view import View
from renderers.reports import WORDS, attention, healthy, report, vanishing


def mapped(blocks: int = 32, slope: float = -0.5):
    norms = [[slope * (i - j + 1) for j in range(i + 1)] for i in range(blocks)]
    norms[-1][0], norms[-1][1] = math.nan, 9.0
    return replace(vanishing(), step_pairs={"step": [6 * i for i in range(blocks + 1)], "log10_norm": norms})


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_pairs_of_steps_are_a_triangle_of_shades(width, ascii_only):
    text = render(report(mapped()), View(width=width, show=("steps",), ascii=ascii_only))
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    cell = 2 if width >= 80 else 1
    shades = "#+-._" if ascii_only else "█▓▒░·"
    rows = [line for line in lines if line[:8].strip().isdigit() and set(line[9:].strip()) <= {*shades, "?", "!"}]
    assert [int(row[:8]) for row in rows] == list(range(6, 193, 6))
    assert rows[0][9:] == shades[0] * cell
    assert rows[-1][9:].startswith("?" * cell + "!" * cell + shades[4] * cell)
    assert "over 0.1" in " ".join(text.split())
    assert "? not a number" in " ".join(text.split())
    assert text.isascii() or not ascii_only


def test_a_model_without_a_map_says_why():
    assert "no map of step pairs" in render(report(healthy()), View(show=("steps",)))
    assert "no attention weights" in render(report(healthy()), View(show=("attention",)))


def test_attention_can_be_asked_for_without_a_text():
    text = render(report(attention(length=20)), View(show=("attention",)))
    assert "where each token looks" in text
    assert text.count("where each token looks") == 1
    short = render(report(attention(WORDS), vanishing(16)), View(show=("attention",)))
    assert "where each token looks" in short


def test_gates_are_strips_in_ascii_too():
    text = render(report(healthy()), View(show=("gates",), ascii=True))
    assert " forget  ####" in text
    assert text.isascii()
