"""Contracts over every table: a new entry is tested before its author writes a line of test."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

import gradscope
from gradscope import registry
from gradscope.cli.commands import COMMANDS
from gradscope.pipeline import diagnose
from gradscope.records import Report, RunSpec, Summary
from gradscope.registry import FAMILIES, FORMATS, RENDERERS, RULES, SUFFIXES, load
from gradscope.renderers.view import View
from gradscope.saved import read_report

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "gradscope"
TABLES = {
    name: table
    for name, table in vars(registry).items()
    if name.isupper() and isinstance(table, Mapping) and not name.endswith(("FORMATS", "SUFFIXES"))
}
TABLES["SWEEP_FORMATS"] = {name: form.renderer for name, form in registry.SWEEP_FORMATS.items()}
TABLES["FLOW_FORMATS"] = {name: form.renderer for name, form in registry.FLOW_FORMATS.items()}
TABLES["COMMANDS"] = COMMANDS


@pytest.fixture(scope="module", params=FAMILIES)
def report(request) -> Report:
    spec = RunSpec(models=(f"{request.param}:hidden=4",), length=9, batch=2)
    return diagnose(spec)


@pytest.mark.parametrize(("table", "name"), [(table, name) for table, entries in TABLES.items() for name in entries])
def test_every_entry_leads_somewhere_documented(table, name):
    reference = TABLES[table][name]
    for module in ("altair", "vl_convert") if reference.startswith("gradscope.charts.") else ():
        pytest.importorskip(module, reason="the extra [report] is not installed")
    found = load(reference)
    assert found is not None
    module = sys.modules[reference.partition(":")[0]]
    assert module.__doc__
    if callable(found) and not isinstance(found, type):
        assert found.__doc__, f"{reference} says nothing about itself"


@pytest.mark.parametrize("name", FAMILIES)
def test_families_have_options_with_defaults(name):
    family = load(FAMILIES[name])
    assert family.name == name
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(family.options))


@pytest.mark.parametrize("code", RULES)
def test_rules_say_who_they_are_and_what_to_do(code):
    rule = load(RULES[code])
    assert rule.code == code
    assert re.fullmatch(r"GS[1-5]\d\d", code)
    assert rule.page.papers
    assert set(rule.requires) <= {field.name for field in dataclasses.fields(Summary)}


def test_every_suffix_has_its_renderer():
    assert set(SUFFIXES.values()) <= set(RENDERERS)
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in SUFFIXES)


def needs_extra(name):
    """Skip what needs an extra that is not installed."""
    for module in FORMATS[name].needs:
        pytest.importorskip(module, reason=f"the extra [{FORMATS[name].extra}] is not installed")


@pytest.mark.parametrize("name", RENDERERS)
def test_every_format_is_the_same_after_a_round_trip(report, name, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(load(RENDERERS["json"])(report, View()), encoding="utf-8")
    again = read_report(str(path))
    needs_extra(name)
    views = (View(), View(width=40, ascii=True, verbose=1, steps="all", show=("gates",)))
    for view in views[: 1 if FORMATS[name].needs else 2]:
        shown = load(RENDERERS[name])(report, view)
        assert shown
        assert load(RENDERERS[name])(again, view) == shown


def test_every_rule_judges_every_family_or_says_why_not(report):
    verdicts = report.models[0].verdicts
    assert [verdict.code for verdict in verdicts] == [code for code in RULES if not load(RULES[code]).only_after_probe]
    assert all(verdict.message for verdict in verdicts)


def test_every_absent_value_has_a_reason(report):
    model = report.models[0]
    reasons = set(model.skipped)
    metrics = set(registry.SUMMARY_METRICS)
    nothing_found = {"cut", "input_cut", "made_anew", "zeroed", "anew_by", "mixed", "axes_guessed", "rank_lost_at"}
    clean = {"parameters", "rate_ci", "lyapunov_ci", "reach"} | nothing_found | reasons
    absent = {name for name in metrics if getattr(model.summary, name) is None}
    assert absent <= clean


def test_the_import_alone_is_light_and_the_names_come_when_used():
    code = (
        "import sys, gradscope; light = 'torch' not in sys.modules; gradscope.Report; "
        "still = 'torch' not in sys.modules; gradscope.analyze, gradscope.compare; "
        "print(light, still, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True True True\n"


def test_an_unknown_public_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="it has analyze, compare, check, Report"):
        _ = gradscope.analyse
    assert {"analyze", "compare", "check", "Report", "__version__"} <= set(dir(gradscope))


def test_no_page_sends_readers_to_the_other_package():
    pages = [path for pattern in ("*.md", "docs/**/*.md") for path in ROOT.glob(pattern)]
    assert pages
    for page in pages:
        assert not re.search(r"(pip|uv|pipx|uvx) (tool )?(install|run) gradscope\b(?!-)", page.read_text("utf-8")), page


def test_the_page_on_architecture_has_the_floors_that_are_held() -> None:
    """docs/architecture.md names every floor of the contract in its order, and only files that exist."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = [sorted(floor.split(" | ")) for floor in project["tool"]["importlinter"]["contracts"][0]["layers"]]
    table = page.split("## Rooms, from the top")[1].split("\n## ")[0]
    named = [sorted(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table.splitlines() if row.startswith("| `")]
    assert named == floors
    paths = [path for path in re.findall(r"`([\w/]+(?:\.py|/))`", page) if "NAME" not in path]
    assert len(paths) > 20
    assert [path for path in paths if not ((SOURCE / path).exists() or (ROOT / path).exists())] == []
