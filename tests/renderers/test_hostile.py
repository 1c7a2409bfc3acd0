"""Foreign text in every place that takes text, through every format in the table."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from html.parser import HTMLParser

import pytest

from gradscope.registry import FORMATS, RENDERERS, load
from gradscope.renderers.shown import mimebundle
from gradscope.renderers.view import View
from renderers.reports import HOSTILE, catalogue, hostile, report

REPORTS = {name: saved for name, saved in catalogue().items() if name.startswith("hostile")}
VIEWS = [View(), View(ascii=True), View(width=50, verbose=2, show=("gates",)), View(quiet=True), View(steps="all")]


def live_controls(text: str) -> set[str]:
    """Control, format and surrogate characters other than the line feed."""
    return {char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs"} and char != "\n"}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("style", [name for name in RENDERERS if not FORMATS[name].needs])
def test_no_control_character_gets_through(style, name, view):
    text = load(RENDERERS[style])(REPORTS[name], view)
    assert live_controls(text) == set()
    assert text.isascii() or not view.ascii


@pytest.mark.parametrize("name", ["hostile", "hostile 0"])
def test_no_control_character_gets_into_a_picture(name):
    pytest.importorskip("vl_convert", reason="the extra [report] is not installed")
    text = load(RENDERERS["svg"])(REPORTS[name], View())
    assert live_controls(text) == set()
    assert "<script" not in text


@pytest.mark.parametrize("name", REPORTS)
def test_colour_brings_only_its_own_escapes(name):
    text = load(RENDERERS["text"])(REPORTS[name], View(colour=True))
    assert live_controls(re.sub(r"\x1b\[[0-9;]*m", "", text)) == set()
    assert "[/red][bold]" in text.replace("\n", "").replace(" ", "")


def test_markdown_holds_no_live_markup():
    text = load(RENDERERS["markdown"])(hostile(), View())
    outside = re.sub(r"```text\n.*?\n```", "", text, flags=re.DOTALL)
    assert set(re.findall(r"</?[a-z]+", outside)) == {"<code", "</code"}
    assert "@someone" not in outside
    assert "http://" not in outside
    assert not re.search(
        r"(?<!\\)[\[\]`*]", outside.replace("<code>", "").replace("**random input", "").replace("data**", "")
    )
    for block in re.findall(r"```text\n(.*?)\n```", text, flags=re.DOTALL):
        assert "```" not in block
    rows = [line for line in outside.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {3, 6, 7, 9}


def test_csv_runs_no_formula_and_keeps_its_shape():
    rows = list(csv.reader(io.StringIO(load(RENDERERS["csv"])(hostile(), View()))))
    assert len({len(row) for row in rows}) == 1
    for row in rows:
        assert not any(cell.startswith(("=", "+", "@")) for cell in row)
        assert all(not cell.startswith("-") or cell == "-inf" or float(cell) <= 0 for cell in row)
    assert {row[0] for row in rows[1:]} >= {"'=1+1"}
    assert "'=cmd|'/c calc'!A1" in {row[3] for row in rows}


def test_json_gives_foreign_text_back_unchanged():
    data = json.loads(load(RENDERERS["json"])(hostile(), View()))
    assert data["models"][0]["name"] == "".join(HOSTILE)
    assert data["models"][0]["series"]["token"] == list(HOSTILE)


def test_notebook_page_has_only_its_own_tags():
    found = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.add(tag)
            assert {name for name, _ in attrs} == ({"alt", "src", "style"} if tag == "img" else {"style"})

    for saved in REPORTS.values():
        bundle = mimebundle(saved)
        Tags().feed(bundle["text/html"])
        assert live_controls(bundle["text/html"] + bundle["text/plain"]) == set()
    assert found - {"img"} == {"pre", "span"}


def test_lone_surrogates_survive_as_escapes():
    odd = hostile().models[0]
    object.__setattr__(odd, "name", "x\ud800y")
    for form in (form for form in FORMATS.values() if not form.needs):
        text = load(form.renderer)(report(odd), View())
        assert "x\\ud800y" in text.replace("\\\\", "\\")
        text.encode()
