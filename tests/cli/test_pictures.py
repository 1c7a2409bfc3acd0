"""Pages and pictures from the command line: written, refused in one line, and told when the extra is missing."""

from __future__ import annotations

import json
import shutil

import pytest

from gradscope.cli.measure import can_draw
from gradscope.records import RunSpec
from gradscope.registry import CHARTS, FAMILIES

MISSING = """
import sys
sys.modules["altair"] = None
import importlib.util
real = importlib.util.find_spec
there = {"altair": None, "vl_convert": object(), "jinja2": object()}
importlib.util.find_spec = lambda name, *more: there[name] if name in there else real(name, *more)
from gradscope.__main__ import main
sys.exit(main([*sys.argv[1:], "-o", "page.html"]))
"""


def test_a_saved_report_becomes_a_page_and_pictures_without_tensors(gradscope, python, report, tmp_path):
    pytest.importorskip("vl_convert", reason="the extra [report] is not installed")
    shutil.copy(report, tmp_path / "report.json")
    code = (
        "import sys; from gradscope.__main__ import main\n"
        "files = ['-o', 'p.html', '-o', 'p.svg', '-o', 'p.png']\n"
        "code = main(['show', 'report.json', '-q', *files, '--chart', 'heatmap'])\n"
        "print(code, sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    done = python(code)
    assert (done.out.splitlines()[-1], done.err) == ("0 []", "")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert 'id="heatmap-0"' in page
    assert 'id="profile-0"' not in page
    assert (tmp_path / "p.svg").read_text(encoding="utf-8").startswith("<svg")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(report.read_text())["models"][0]["step_pairs"]["step"][0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--chart", "heatmaps", "-o", "x.svg"), "unknown chart 'heatmaps'; did you mean 'heatmap'?"),
        (("--chart", "heatmap"), "--chart heatmap needs a file to draw it in; add -o heatmap.svg (or .png, .html)"),
        (
            ("--chart", "attention", "-o", "x.svg"),
            "nothing to draw for --chart attention: this report has no attention",
        ),
        (
            (
                "--show",
                "step",
            ),
            "unknown picture 'step'; did you mean 'steps'?",
        ),
    ],
)
def test_what_cannot_be_drawn_is_one_line(gradscope, report, words, said):
    pytest.importorskip("vl_convert", reason="the extra [report] is not installed")
    done = gradscope("show", str(report), *words)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert said in done.err


def test_what_no_report_of_a_family_holds_is_refused_before_measuring():
    pytest.importorskip("altair", reason="the extra [report] is not installed")
    from gradscope.charts.draw import panels_of
    from gradscope.examine import full_report

    for name in FAMILIES:
        spec = RunSpec(models=(name,), length=6, hidden=4, batch=2)
        report = full_report(spec, detail=True)
        for chart in CHARTS:
            assert bool(panels_of(chart, report)) == can_draw(chart, spec, compare=False), (name, chart)


def test_docstrings_that_pictures_need_are_asked_for(gradscope, report):
    pytest.importorskip("altair", reason="the extra [report] is not installed")
    done = gradscope("show", str(report), "-o", "x.svg", PYTHONOPTIMIZE="2")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "gradscope: svg needs altair, which needs its docstrings; run without PYTHONOPTIMIZE=2 (python -OO)\n"
    )


@pytest.mark.parametrize("words", [["analyze", "rnn:hidden=4", "--length", "9"], ["track", "*.pt"]])
def test_without_the_extra_nothing_is_measured_and_the_remedy_is_said(python, words):
    done = python(MISSING.replace("*sys.argv[1:]", f"*{words}"))
    assert done.code == 2
    assert done.err == (
        "gradscope: html needs altair, which is not installed; add the extra: pip install 'gradscope-bptt[report]'\n"
    )
    assert done.out == ""


def test_the_help_of_the_lesson_is_instant(python):
    code = (
        "import sys; from gradscope.__main__ import main\n"
        "main(['lesson', '--help'])\n"
        "print(sorted({'torch', 'numpy', 'altair'} & set(sys.modules)))"
    )
    assert python(code).out.splitlines()[-1] == "[]"
