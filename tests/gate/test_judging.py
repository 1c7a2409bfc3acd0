"""Limits and baselines on made-up numbers: what misses, what got worse, what is accepted, what may be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gradscope.config.setup import setup_of
from gradscope.errors import UsageError
from gradscope.gate.baseline import Baseline, entry_of, parse_baseline, refuse_other_setup, updated
from gradscope.gate.compare import is_better, judge_against
from gradscope.gate.limits import judge_limits
from gradscope.records import Limits, Loaded, ModelResult, RunSpec, Series, Summary, Verdict
from gradscope.verdicts import fails

VERSIONS = {"gradscope": "0.1.0", "torch": "2.13.0", "python": "3.11.7", "platform": "x86_64", "threads": "1"}
FOUND = Verdict("GS101", "vanishing rate", "error", "fail", "It vanishes.")


def result(*verdicts: Verdict, status: Any = "healthy", **summary: Any) -> ModelResult:
    given = {"rate": -0.01, "rate_ci": (-0.012, -0.008), "reach": 100, "coverage": 0.5, "needed_lag": 100, **summary}
    return ModelResult(
        "net", "recurrent", status, 8, 200, Loaded("built"), Summary(**given), Series(), verdicts=verdicts
    )


def entry(found: ModelResult, spec: RunSpec | None = None, tmp_path: Any = "."):
    return entry_of(setup_of(spec or RunSpec(), tmp_path), found, VERSIONS)


def against(now: ModelResult, before: ModelResult, max_drop: float = 0.1) -> ModelResult:
    return judge_against(now, entry(before), max_drop)


@pytest.mark.parametrize(
    ("limits", "summary", "status"),
    [
        (Limits(min_reach=100), {}, "pass"),
        (Limits(min_reach=101), {}, "fail"),
        (Limits(min_reach=1), {"reach": None}, "fail"),
        (Limits(rate=(-0.02, 0.0)), {}, "pass"),
        (Limits(rate=(-0.009, 0.0)), {}, "inconclusive"),
        (Limits(rate=(-0.005, 0.0)), {}, "fail"),
        (Limits(rate=(-0.03, -0.02)), {}, "fail"),
        (Limits(rate=(-0.0095, 0.0)), {"rate_ci": None}, "fail"),
        (Limits(rate=(-0.02, 0.0)), {"rate": float("nan"), "rate_ci": None}, "fail"),
        (Limits(precision_horizon={"float32": 50}), {"precision_horizon": {"float32": {"lag": None}}}, "pass"),
        (Limits(precision_horizon={"float32": 50}), {"precision_horizon": {"float32": {"lag": 50}}}, "pass"),
        (Limits(precision_horizon={"float32": 50}), {"precision_horizon": {"float32": {"lag": 49}}}, "fail"),
        (Limits(precision_horizon={"float16": 50}), {}, "fail"),
    ],
)
def test_limits(limits, summary, status):
    (found,) = judge_limits(result(**summary), limits)
    assert (found.code, found.status) == ("GS902", status)
    assert found.message.endswith(".")


def test_no_limit_no_verdict():
    assert judge_limits(result(), Limits()) == ()


@pytest.mark.parametrize(
    ("now", "status"),
    [
        ({}, "pass"),
        ({"reach": 90}, "pass"),
        ({"reach": 89}, "fail"),
        ({"reach": None}, "fail"),
        ({"coverage": 0.44}, "fail"),
        ({"coverage": 0.46}, "pass"),
        # More than a tenth of 1/K and the intervals apart: worse. Overlapping intervals, or towards zero: not.
        ({"rate": -0.02, "rate_ci": (-0.021, -0.019)}, "fail"),
        ({"rate": -0.02, "rate_ci": (-0.031, -0.009)}, "pass"),
        ({"rate": -0.0125, "rate_ci": (-0.0126, -0.0124)}, "fail"),
        ({"rate": -0.0105, "rate_ci": None}, "pass"),
        ({"rate": 0.02, "rate_ci": (0.019, 0.021)}, "fail"),
        ({"rate": 0.001, "rate_ci": (0.0, 0.002)}, "pass"),
        ({"status": "vanishing"}, "fail"),
        ({"status": "inconclusive"}, "inconclusive"),
    ],
)
def test_worse_than_the_baseline(now, status):
    found = against(result(**now), result()).verdicts[-1]
    assert (found.code, found.status) == ("GS903", status)


def test_findings_of_the_baseline_are_accepted_until_something_gets_worse():
    before = result(FOUND, status="vanishing")
    same = against(before, before)
    assert [verdict.accepted for verdict in same.verdicts] == [True, False]
    assert not fails(same.verdicts, "error")
    worse = against(replace(before, summary=replace(before.summary, reach=50)), before)
    assert [verdict.accepted for verdict in worse.verdicts] == [False, False]
    other = replace(before, verdicts=(replace(FOUND, code="GS104"),))
    assert fails(against(other, before).verdicts, "error")


def test_limits_are_accepted_one_by_one():
    found = result()
    missed = replace(found, verdicts=judge_limits(found, Limits(min_reach=150, rate=(0.0, 1.0))))
    held = replace(found, verdicts=judge_limits(found, Limits(min_reach=150)))
    judged = against(missed, held)
    assert [(v.title, v.accepted) for v in judged.verdicts[:2]] == [
        ("limit on min_reach", True),
        ("limit on rate", False),
    ]


def test_a_target_without_a_result_is_never_accepted():
    unfinished = replace(FOUND, code="GS901")
    assert entry(result(unfinished)).findings == ()


def test_better_is_noticed():
    assert is_better(result(), entry(result(FOUND, status="vanishing")), 0.1)
    assert is_better(result(reach=120), entry(result()), 0.1)
    assert not is_better(result(reach=105), entry(result()), 0.1)


def test_the_file_is_sorted_rounded_and_read_back():
    odd = result(rate=-0.0123456789, rate_ci=(float("-inf"), 0.1), coverage=float("nan"))
    content = Baseline({"b": entry(odd), "a": entry(result())}).content()
    assert content == Baseline({"a": entry(result()), "b": entry(odd)}).content()
    assert b'"rate": -0.0123457,' in content
    assert b'"threads"' not in content
    assert parse_baseline(content, "it").content() == content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "is not of the schema 'gradscope.baseline/1'"),
        (b'{"schema": "gradscope.baseline/2"}', "is not of the schema"),
        (b'{"schema": "gradscope.baseline/1", "targets": {"a": {"setup": {}}}}', r"is malformed: targets.a.config"),
    ],
)
def test_another_file_is_no_baseline(content, said):
    with pytest.raises(UsageError, match=said):
        parse_baseline(content, "it")


def test_other_setups_are_refused_by_what_differs(tmp_path):
    old = Baseline({"net": entry(result(), RunSpec(seed=1), tmp_path)})
    refuse_other_setup(old, "f", "net", setup_of(RunSpec(seed=1), tmp_path))
    refuse_other_setup(old, "f", "unknown", setup_of(RunSpec(), tmp_path))
    with pytest.raises(
        UsageError, match="set up otherwise in baseline 'f': length default there, 50 here; seed 1 there"
    ):
        refuse_other_setup(old, "f", "net", setup_of(RunSpec(length=50), tmp_path))


def test_a_setup_knows_data_by_content_and_judging_settings_not_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "x.csv").write_text("1\n")
    spec = RunSpec(input="x.csv", select=("GS1",), fail_on="error", thresholds={"a": 1.0}, show=("gates",))
    first = setup_of(spec, tmp_path)
    assert set(first) == {"model", "input", "seed", "dtype", "device"}
    assert first["input"].startswith("x.csv sha256:")
    assert setup_of(spec, tmp_path / "sub")["input"].startswith("../x.csv sha256:")
    (tmp_path / "x.csv").write_text("2\n")
    assert setup_of(spec, tmp_path)["input"] != first["input"]


def test_an_update_keeps_what_did_not_run_or_did_not_finish_and_drops_what_is_gone():
    a, b = entry(result()), entry(result(reach=1))
    old = Baseline({"run": a, "kept": a, "unfinished": a, "gone": a})
    new = updated(old, {"run": b, "unfinished": None, "new": b}, kept=("run", "kept", "unfinished", "new"))
    assert new.targets == {"run": b, "kept": a, "unfinished": a, "new": b}
