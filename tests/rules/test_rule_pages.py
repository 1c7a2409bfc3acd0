"""The pages of rules: one a rule, read strictly, true to the counts, packed in the wheel; and a rule from outside."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from gradscope.__main__ import main
from gradscope.errors import UsageError
from gradscope.pipeline import diagnose
from gradscope.records import RunSpec
from gradscope.registry import RENDERERS, RULES, load
from gradscope.renderers.view import View
from gradscope.rules.gs1_learning import FIXED_LAGS, SHARE_FAILS, TRAIN_STEPS
from gradscope.rules.texts import PAGES, every_rule, explain, read_page

GOOD = """---
code: GS199
title: toy
severity: warning
papers:
- "Somebody (2020), Toys: an overview, Journal 1(2)"
---

A paragraph that is
wrapped - twice.

## The maths

    a = b
    c = d

## How it is measured

By hand.

## What to try

- One thing, `gradscope analyze
  rnn`
- Another
"""

RULE = """
from pathlib import Path

from gradscope.rules.rule import Finding, Rule


def judge(result, spec):
    return Finding("found", f"A toy lies at lag {result.summary.needed_lag}.", "Put it away.", measured=3)


TOY = Rule(code="GS199", pages=Path(__file__).parent, requires=("needed_lag",), judge=judge)
"""


@pytest.fixture
def page(tmp_path):
    """Read the good page with one text in place of another."""

    def read(old: str = "", new: str = "", name: str = "GS199.md"):
        file = tmp_path / name
        file.write_text(GOOD.replace(old, new) if old else GOOD, encoding="utf-8")
        return read_page(file)

    return read


def test_every_rule_has_its_page_and_every_page_its_rule():
    assert sorted(file.name for file in PAGES.iterdir()) == sorted(f"{code}.md" for code in every_rule())
    for code, reference in every_rule().items():
        assert load(reference).page.code == code


def test_a_page_is_read_as_it_is_written(page):
    read = page()
    assert (read.code, read.title, read.severity) == ("GS199", "toy", "warning")
    assert read.papers == ("Somebody (2020), Toys: an overview, Journal 1(2)",)
    assert read.sections == {
        "": ("A paragraph that is wrapped - twice.",),
        "The maths": ("    a = b\n    c = d",),
        "How it is measured": ("By hand.",),
        "What to try": ("- One thing, `gradscope analyze rnn`\n- Another",),
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title:", "titel:", "GS199.md: unknown key 'titel'; did you mean 'title'?"),
        ("title: toy\n", "", "GS199.md: title is missing"),
        ("title: toy", "title:", "GS199.md: title is missing"),
        ("severity: warning", "severity: warn", "GS199.md: unknown severity 'warn'; did you mean 'warning'?"),
        ("code: GS199", "code: GS198", "GS199.md: its code is GS198"),
        ("papers:\n", "", "GS199.md: unknown key '- \"Somebody"),
        ('- "Somebody', "- Somebody", "GS199.md: unknown key '- Somebody"),
        ("## The maths", "## Maths", "GS199.md: sections Maths, How it is measured, What to try; expected text, then"),
        ("## The maths", "# The maths", "GS199.md: sections # The maths, How"),
        ("By hand.\n\n", "", "none of them empty"),
        ("A paragraph that is\nwrapped - twice.\n\n", "", "none of them empty"),
        ("---\n\nA", "\nA", "GS199.md: a page begins with a line `---`"),
        ("---\ncode", "code", "GS199.md: a page begins with a line `---`"),
    ],
)
def test_a_fault_of_a_page_is_named(page, old, new, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        page(old, new)


def test_a_work_is_cited_alike_on_every_page():
    cited = {paper for reference in every_rule().values() for paper in load(reference).page.papers}
    works = [paper.partition("), ")[0] for paper in cited]
    assert all(re.fullmatch(r".+ \((19|20)\d\d", work) for work in works)
    assert len(works) == len(set(works))


def test_the_page_of_the_reach_tells_the_counts_of_the_calibration():
    counts = {word: f"{band.of - band.failed} of {band.of}" for word, band in FIXED_LAGS.items()}
    assert (
        f"so many learned in {TRAIN_STEPS} steps: {counts['fails']} with S < −6, {counts['open']} between, "
        f"{counts['arrives']} that arrive."
    ) in explain("GS104")
    assert f"under S = {SHARE_FAILS:g}." in explain("GS104")


def test_the_wheel_holds_the_pages(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling, which builds the wheel, is not here")
    root = Path(__file__).parents[2]
    (built,) = wheel.WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(built).namelist()
    assert {f"gradscope/rules/texts/{code}.md" for code in every_rule()} <= set(names)


def test_a_rule_from_outside_is_seen_wherever_rules_are(tmp_path, monkeypatch, capsys, page):
    page()
    (tmp_path / "toy_rule.py").write_text(RULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(RULES, "GS199", "toy_rule:TOY")
    report = diagnose(RunSpec(models=("rnn:hidden=4",), length=9, batch=2))
    shown = {name: load(RENDERERS[name])(report, View(width=100)) for name in ("text", "json", "sarif", "markdown")}
    for text in shown.values():
        assert "A toy lies at lag 8." in text
        assert "GS199" in text
    judged = {verdict["code"]: verdict for verdict in json.loads(shown["json"])["models"][0]["verdicts"]}
    assert judged["GS199"]["status"] == "warn"
    assert judged["GS199"]["title"] == "toy"
    (run,) = json.loads(shown["sarif"])["runs"]
    assert {"GS199"} <= {found["ruleId"] for found in run["results"]}
    assert main(["explain", "gs199"]) == 0
    assert "# GS199 toy (warning)\n\nA paragraph that is wrapped - twice." in capsys.readouterr().out
    assert main(["rules"]) == 0
    assert "GS199  warning  toy" in capsys.readouterr().out
