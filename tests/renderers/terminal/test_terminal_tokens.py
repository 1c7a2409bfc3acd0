"""Pairs of tokens on the screen."""

from __future__ import annotations

from dataclasses import replace

from gradscope.records import Pair, Path
from gradscope.renderers.screen import render
from gradscope.renderers.view import View
from renderers.reports import attention, report


def text_of(heads: int, **view: bool) -> str:
    paths = (Path("model", "all", 0.0), *(Path(f"l{h}", f"head {h} weight", -1.0 - h % 20) for h in range(heads)))
    pair = Pair("cat", 2, "was", 5, 0.1, 1, 5, paths)
    return render(report(replace(attention(), pairs=(pair,))), View(**view))


def test_many_heads_are_cut_to_the_strongest() -> None:
    text = text_of(40)
    rows = [line for line in text.splitlines() if "weight " in line and "head " in line]
    assert len(rows) == 12
    assert [f"head {h} weight" in text for h in (0, 5, 6, 19, 20, 25, 26, 39)] == [True, True, False, False] * 2
    assert "and 28 weaker heads (-v shows them)" in text
    assert "model   all" in text


def test_few_heads_and_verbose_screens_show_all() -> None:
    assert "weaker heads" not in text_of(12)
    assert "head 39 weight" in text_of(40, verbose=True)
