"""`gradscope selftest`: what it prints and how it exits."""

from __future__ import annotations

import json

import pytest

from gradscope.__main__ import main
from gradscope.models.rnn import SLOPE
from gradscope.selftest import chain_cases, run_selftest
from gradscope.selftest.case import Case, compared

QUICK = tuple(case for case in chain_cases.DERIVATIVES if case.name.endswith(", rnn"))
FAILS = Case("never right", lambda: compared(1.0, 2.0, 0.1, "wrong on purpose"))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(run_selftest, "CASES", QUICK)
    return monkeypatch


def test_the_installation_is_right(gradscope):
    done = gradscope("selftest", "-v")
    lines = done.out.splitlines()
    assert (done.code, done.err) == (0, ""), lines[-1]
    assert lines[0].split() == ["case", "measured", "exact", "error", "limit"]
    rows, sources = lines[1:-2:2], lines[2:-2:2]
    assert [row[:30].strip() for row in rows] == [case.name for case in run_selftest.CASES]
    assert all(row.endswith(" ok") for row in rows)
    assert all(source.startswith("  ") and source.strip() for source in sources)
    assert lines[-1].startswith(f"selftest: all {len(run_selftest.CASES)} cases ok, ")
    assert max(map(len, lines)) <= 80


def test_quiet_prints_the_last_line_only(quick, capsys):
    assert main(["selftest", "-q"]) == 0
    assert capsys.readouterr().out.startswith("selftest: all 2 cases ok, ")


def test_one_failed_case_exits_1_in_every_form(quick, capsys):
    quick.setattr(run_selftest, "CASES", (*QUICK, FAILS))
    assert main(["selftest"]) == 1
    shown = capsys.readouterr().out
    assert shown.splitlines()[3].split() == ["never", "right", "1", "2", "5.0e-01", "1e-01", "FAILED"]
    assert main(["selftest", "--quiet"]) == 1
    assert capsys.readouterr().out == "selftest: 1 of 3 cases FAILED: never right\n"
    assert main(["selftest", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [case["passed"] for case in found["cases"]] == [True, True, False]


def test_broken_numerics_exit_1(quick, capsys):
    quick.setitem(SLOPE, "tanh", lambda z: z.cosh().reciprocal())
    assert main(["selftest", "-q"]) == 1
    assert capsys.readouterr().out == "selftest: 2 of 2 cases FAILED: chain rule, rnn; finite differences, rnn\n"


def test_verbose_says_where_each_answer_comes_from(quick, capsys):
    assert main(["selftest", "-v"]) == 0
    assert "  dL/ds_0 by torch.autograd" in capsys.readouterr().out.splitlines()


def test_an_unknown_format_is_refused_before_anything_runs(capsys):
    assert main(["selftest", "--format", "jsn"]) == 2
    assert "unknown format 'jsn'; did you mean 'json'?" in capsys.readouterr().err
