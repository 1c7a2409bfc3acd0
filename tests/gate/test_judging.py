"""Limits and baselines on made-up numbers: what misses, what got worse, what is accepted, what may be compared."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradscope.cli.check import update_command
from gradscope.config.command import setup_of
from gradscope.config.limits import coerce_limit
from gradscope.errors import UsageError
from gradscope.gate.baseline import (
    Baseline,
    entry_of,
    limits_held,
    parse_baseline,
    read_baseline,
    refuse_other_setup,
    updated,
)
from gradscope.gate.compare import is_better, judge_against
from gradscope.gate.limits import judge_limits, unmeasured
from gradscope.records import Limits, Loaded, ModelResult, RunSpec, Series, Summary, Verdict
from gradscope.testing.record import Recorder
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
    return judge_against(now, entry(before), Limits(max_drop=max_drop))


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


@pytest.mark.parametrize(
    ("influence", "least", "status", "said"),
    [
        ((0.0, -1.0, -2.0, -3.0), 3, "pass", "In float32 the gradient holds over the whole sequence."),
        ((0.0, -1.0, -2.0, -3.0), 4, "fail", "over all 3 lags that there are, short of precision_horizon = 4."),
        ((0.0, -1.0, -math.inf, -math.inf), 2, "fail", "Beyond lag 1 the gradient is exactly zero, short of"),
        ((0.0, -1.0, -math.inf, -3.0), 3, "pass", "In float32 the gradient holds over the whole sequence."),
        ((-math.inf,) * 4, 1, "fail", "Beyond lag 0 the gradient is exactly zero, short of"),
    ],
)
def test_no_number_type_holds_a_gradient_that_is_not_there(influence, least, status, said):
    now = result(precision_horizon={"float32": {"lag": None}})
    series = Series(step=(1, 2, 3, 4), values={"log10_influence": influence})
    now = replace(now, series=series, length=4)
    (found,) = judge_limits(now, Limits(precision_horizon={"float32": least}))
    assert found.status == status
    assert said in found.message


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("min_reach", np.int64(19), 19),
        ("rate", np.array([-0.5, 0.25]), (-0.5, 0.25)),
        ("rate", (np.float32(-0.5), 1), (-0.5, 1.0)),
        ("max_drop", np.float32(0.5), 0.5),
        ("precision_horizon", {"float32": np.int32(5)}, {"float32": 5}),
    ],
)
def test_limits_take_the_numbers_of_numpy(name, given, read):
    assert coerce_limit(name, given, "given") == read
    with pytest.raises(UsageError, match="expected a whole number"):
        coerce_limit("min_reach", np.bool_(True), "given")


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
        # What was measured comes before the word for it.
        ({"status": "inconclusive", "reach": 39}, "fail"),
        ({"status": "inconclusive", "coverage": 0.1}, "fail"),
        ({"status": "inconclusive", "rate": -0.105, "rate_ci": (-0.11, -0.1)}, "fail"),
    ],
)
def test_worse_than_the_baseline(now, status):
    found = against(result(**now), result()).verdicts[-1]
    assert (found.code, found.status) == ("GS903", status)


@pytest.mark.parametrize("status", ["inconclusive", "healthy"])
def test_an_improvement_is_not_worse(status):
    before = result(FOUND, status="vanishing", reach=3, rate=-1.0, rate_ci=(-1.1, -0.9), coverage=0.02)
    assert against(result(status=status), before).verdicts[-1].status == "pass"


def test_a_graver_finding_that_is_gone_uncovers_what_the_baseline_held_already():
    one = replace(FOUND, code="GS103", status="warn", severity="warning", gives="degenerate")
    before = result(replace(FOUND, gives="vanishing"), one, status="vanishing")
    assert against(result(one, status="degenerate"), before).verdicts[-1].status == "pass"
    assert against(result(one, status="degenerate"), result()).verdicts[-1].status == "fail"
    # The other way round, or another failure in its place, is worse.
    assert against(result(FOUND, status="exploding"), before).verdicts[-1].status == "fail"


@pytest.mark.parametrize(
    ("name", "before", "now", "status"),
    [
        # 9 -> 8 of 199 lags is more than a tenth, and no more than other random weights do; 9 -> 6 is.
        ("coverage", 9 / 199, 8 / 199, "pass"),
        ("coverage", 9 / 199, 6 / 199, "fail"),
        ("reach", 9, 7, "pass"),
        ("reach", 9, 6, "fail"),
        ("reach", 199, 170, "fail"),
    ],
)
def test_a_drop_is_at_least_a_few_lags(name, before, now, status):
    assert against(result(**{name: now}), result(**{name: before})).verdicts[-1].status == status


def test_a_drop_within_its_own_spread_is_chance():
    spread = {"spread": {"reach": 10.0, "coverage": 0.05}}
    before, fallen = result(**spread), {"reach": 80, "coverage": 0.4, **spread}
    # Two standard errors of the difference: 2 sqrt(10^2 + 10^2) = 28 lags, 0.14 of the coverage.
    assert against(result(**fallen), before).verdicts[-1].status == "pass"
    assert against(result(**{**fallen, "reach": 70}), before).verdicts[-1].status == "fail"
    assert against(result(**{**fallen, "coverage": 0.3}), before).verdicts[-1].status == "fail"
    assert against(result(reach=80), result()).verdicts[-1].status == "fail"
    # Whoever allows no drop at all means it.
    assert against(result(reach=99, **spread), before, max_drop=0.0).verdicts[-1].status == "fail"


def test_what_moved_is_named():
    gate = {"gate.forget.mean": (0.99, 0.97, 0.98), "gate.input.mean": (0.5, 0.5, 0.5)}
    before = replace(result(), series=Series(values=gate))
    now = replace(result(reach=12), series=Series(values={**gate, "gate.forget.mean": (0.5, 0.51, 0.49)}))
    message = against(now, before).verdicts[-1].message
    assert message == (
        "The reach fell from 100 to 12: more than 10 % worse than the baseline. "
        "With it went the mean forget gate from 0.98 to 0.50."
    )
    lost = replace(result(reach=None), skipped={"reach": "reads the future"})
    assert against(lost, result()).verdicts[-1].message == (
        "The reach was 100, and is not known any more: reads the future."
    )
    thin = against(result(coverage=0.1), result()).verdicts[-1].message
    assert "fell from 0.5 (100 of 199 lags get at least 1 % of the largest gradient) to 0.1 (20 of 199" in thin


SKIPPED = [replace(FOUND, code=code, status="skip") for code in ("GS101", "GS102", "GS104", "GS201")]


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        (SKIPPED, "Not measured: reads the future."),
        ([*SKIPPED, replace(FOUND, code="GS303", status="warn")], "Not measured: reads the future."),
        ([*SKIPPED, replace(FOUND, code="GS202", status="pass")], "Not measured: reads the future."),
        # One of them was judged; something else failed and says why; or nobody asked for them.
        ([*SKIPPED, replace(FOUND, code="GS101", status="inconclusive")], None),
        ([*SKIPPED, replace(FOUND, code="GS301", status="fail")], None),
        ([replace(FOUND, code="GS303", status="pass")], None),
    ],
)
def test_what_nothing_is_known_of_is_not_measured(verdicts, message):
    found = unmeasured(replace(result(*verdicts, status="inconclusive"), skipped={"rate": "reads the future"}))
    assert [verdict.message for verdict in found] == ([] if message is None else [message])
    assert fails(found, "error") == (message is not None)


def test_findings_of_the_baseline_are_accepted_until_something_gets_worse():
    before = result(FOUND, status="vanishing")
    same = against(before, before)
    assert [verdict.accepted for verdict in same.verdicts] == [True, False]
    assert not fails(same.verdicts, "error")
    worse = against(replace(before, summary=replace(before.summary, reach=50)), before)
    assert [verdict.accepted for verdict in worse.verdicts] == [False, False]
    other = replace(before, verdicts=(replace(FOUND, code="GS104"),))
    assert fails(against(other, before).verdicts, "error")


def test_the_remedy_of_what_got_worse_is_the_command_that_writes_the_baseline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = {"needs_lag": 5, "arg": None, "min_reach": 2, "baseline": "my b.json", "models": None}
    line = update_command(["rnn:hidden=6", "gru"], {"needs_lag": 5, "loss": None}, flags)
    assert line == (
        "gradscope check rnn:hidden=6 gru --needs-lag 5 --min-reach 2 --baseline 'my b.json' --update-baseline"
    )
    found = judge_against(result(reach=40), entry(result()), Limits(), line)
    assert found.verdicts[-1].advice == f"If the change is meant, write the baseline again: `{line}`."


def test_limits_are_accepted_one_by_one():
    found = result()
    missed = replace(found, verdicts=judge_limits(found, Limits(min_reach=150, rate=(0.0, 1.0))))
    held = replace(found, verdicts=judge_limits(found, Limits(min_reach=150)))
    judged = against(missed, held)
    assert [(v.title, v.accepted) for v in judged.verdicts[:2]] == [
        ("limit on min_reach", True),
        ("limit on rate", False),
    ]


@pytest.mark.parametrize(
    ("before", "now", "accepted", "worse"),
    [
        # The reach of 100 misses 150 as the baseline did; of 160 nobody has said that it may be missed.
        (Limits(min_reach=150), Limits(min_reach=150), True, ""),
        (Limits(min_reach=150), Limits(min_reach=160), False, ""),
        (Limits(min_reach=150), Limits(min_reach=120), False, "min_reach is 120, it was 150"),
        (Limits(min_reach=90), Limits(min_reach=80), None, "min_reach is 80, it was 90"),
        (Limits(min_reach=80), Limits(min_reach=90), None, ""),
        (Limits(min_reach=90), Limits(), None, "min_reach is not set, it was 90"),
        (Limits(), Limits(min_reach=90), None, ""),
        (Limits(rate=(-0.1, 0.1)), Limits(rate=(-0.1, 0.2)), None, "rate is [-0.1, 0.2], it was [-0.1, 0.1]"),
        (Limits(rate=(-0.1, 0.2)), Limits(rate=(-0.05, 0.1)), None, ""),
        (Limits(rate=(0.1, 0.2)), Limits(rate=(0.12, 0.2)), False, ""),
        (
            Limits(precision_horizon={"float32": 50}),
            Limits(precision_horizon={"float32": 5}),
            None,
            "precision_horizon.float32 is 5, it was 50",
        ),
        (Limits(max_drop=0.1), Limits(max_drop=0.2), None, ""),
    ],
)
def test_a_limit_is_held_by_its_value(before, now, accepted, worse):
    found = result(precision_horizon={"float32": {"lag": 60}})

    def judged(limits):
        return replace(found, verdicts=judge_limits(found, limits))

    held = entry_of(setup_of(RunSpec(), "."), judged(before), VERSIONS, limits_held(before, "error"))
    held = parse_baseline(Baseline({"net": held}).content(), "it").targets["net"]
    *of_limits, against = judge_against(judged(now), held, now).verdicts
    missed = [verdict.accepted for verdict in of_limits if verdict.status == "fail"]
    assert missed == ([] if accepted is None else [accepted])
    assert against.status == ("fail" if worse else "pass")
    assert worse in against.message


def test_a_baseline_that_was_written_without_limits_is_read_as_it_was():
    missed = replace(result(), verdicts=judge_limits(result(), Limits(min_reach=150)))
    content = Baseline({"net": entry(missed)}).content()
    old = parse_baseline(content.replace(b'      "limits": null,\n', b""), "it").targets["net"]
    assert b"limits" in content
    assert old == entry(missed)
    again = judge_against(replace(result(), verdicts=judge_limits(result(), Limits(min_reach=160))), old, Limits())
    assert [v.accepted for v in again.verdicts] == [True, False]


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
        (b"{", "is not JSON .*; mend it, or delete it and write it anew with `gradscope check --update-baseline`"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "is not of the schema 'gradscope.baseline/1'"),
        (b'{"schema": "gradscope.baseline/2"}', "is not of the schema"),
        (b'{"schema": "gradscope.baseline/1", "targets": {"a": {"setup": {}}}}', r"is malformed: targets.a.config"),
    ],
)
def test_another_file_is_no_baseline(content, said):
    with pytest.raises(UsageError, match=said):
        parse_baseline(content, "it")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"min_reach": "15"}, r"min_reach is '15'"),
        ({"rate": [-1]}, r"rate is \[-1\]"),
        ({"rate": [True, 1]}, r"rate is \[True, 1\]"),
    ],
)
def test_a_limit_that_somebody_wrote_by_hand_is_a_number_or_a_pair(limits, expected):
    written = json.loads(Baseline({"net": entry(result())}).content())
    written["targets"]["net"]["limits"] = {"max_drop": 0.1, "fail_on": "error", **limits}
    with pytest.raises(UsageError, match=f"is malformed: targets.net: limits.{expected}; expected a number"):
        parse_baseline(json.dumps(written).encode(), "it")


def test_two_that_write_one_baseline_at_once_keep_both_entries(tmp_path):
    file, recorders = tmp_path / "base.json", []
    for name in ("one", "other"):
        recorders.append(Recorder(str(file), True, tmp_path))
        recorders[-1].entries[name] = entry(result())
        assert recorders[-1].old.targets == {}
    for recorder in recorders:
        recorder.write()
    assert {*read_baseline(str(file)).targets} == {"one", "other"}


def test_other_setups_are_refused_by_what_differs(tmp_path):
    old = Baseline({"net": entry(result(), RunSpec(seed=1), tmp_path)})
    refuse_other_setup(old, "f", "net", setup_of(RunSpec(seed=1), tmp_path))
    refuse_other_setup(old, "f", "unknown", setup_of(RunSpec(), tmp_path))
    with pytest.raises(
        UsageError, match="set up otherwise in baseline 'f': length default there, 50 here; seed 1 there"
    ):
        refuse_other_setup(old, "f", "net", setup_of(RunSpec(length=50), tmp_path))


def test_a_setup_knows_data_by_content_and_how_it_is_judged_not_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "x.csv").write_text("1\n")
    spec = RunSpec(input="x.csv", ignore=("GS1",), fail_on="error", thresholds={"a": 1.0}, show=("gates",))
    first = setup_of(spec, tmp_path)
    # A status that rests on other rules is another status.
    assert set(first) == {"model", "input", "seed", "dtype", "device", "ignore", "thresholds"}
    assert first["input"].startswith("x.csv sha256:")
    assert setup_of(spec, tmp_path / "sub")["input"].startswith("../x.csv sha256:")
    (tmp_path / "x.csv").write_text("2\n")
    assert setup_of(spec, tmp_path)["input"] != first["input"]


def test_an_update_keeps_what_did_not_run_or_was_not_measured():
    a, b = entry(result()), entry(result(reach=1))
    old = Baseline({"run": a, "named": a, "unfinished": a})
    new = updated(old, {"run": b, "unfinished": None, "new": b})
    assert new.targets == {"run": b, "named": a, "unfinished": a, "new": b}
