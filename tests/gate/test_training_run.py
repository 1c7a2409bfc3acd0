"""`gradscope check` on the lines of a training run: held to its end, judged over all of it."""

from __future__ import annotations

import pytest

from gradscope.__main__ import main
from gradscope.errors import UsageError
from gradscope.flow_file import lines_of
from gradscope.gate.training_run import is_run, result_of_run
from gradscope.records import RunSpec
from trajectories import eventful, point, run

from .conftest import check_all


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "good.jsonl").write_text(lines_of(run(point(0, 20, gates={"forget": 0.5}), point(10, 70))))
    lost = (point(0, 99), point(10, 12, findings=("GS101",), message="It fades."))
    (tmp_path / "lost.jsonl").write_text(lines_of(run(*lost)))
    (tmp_path / "nan.jsonl").write_text(lines_of(eventful()))
    (tmp_path / "empty.jsonl").write_text(lines_of(run()))
    return tmp_path


def test_the_end_of_a_run_is_the_result(folder):
    result, _ = result_of_run(str(folder / "good.jsonl"), "mine", RunSpec(), None)
    assert (result.name, result.status, result.summary.reach, result.length) == ("mine", "healthy", 70, 100)
    assert [v.code for v in result.verdicts] == ["GS501", "GS502", "GS503", "GS504", "GS505"]
    lost, _ = result_of_run(str(folder / "lost.jsonl"), "mine", RunSpec(), None)
    assert (lost.status, lost.verdicts[0].code, lost.verdicts[0].status) == ("vanishing", "GS101", "fail")
    assert is_run("a/FLOW.JSONL")
    assert not is_run("lstm")


@pytest.mark.parametrize(
    ("lag", "status", "fails"), [(5, "healthy", False), (12, "healthy", False), (13, "vanishing", True)]
)
def test_a_run_is_judged_by_the_lag_that_is_asked_for_now(folder, lag, status, fails):
    """It was measured for lag 50 and ends with a reach of 12, after 99."""
    result, _ = result_of_run(str(folder / "lost.jsonl"), "mine", RunSpec(needs_lag=lag), None)
    assert result.status == status
    assert any(verdict.status == "fail" for verdict in result.verdicts) == fails
    assert result.notes == (f"measured for lag 50, asked for lag {lag}: the reach alone decides",)
    again, _ = result_of_run(str(folder / "lost.jsonl"), "mine", RunSpec(needs_lag=50), None)
    assert (again.status, again.notes) == ("vanishing", ())


def test_a_reach_short_of_the_lag_that_is_asked_for_now_warns(folder):
    """It was measured for lag 50 and ends with a reach of 70, over sequences of 100 steps."""
    path = str(folder / "good.jsonl")
    result, _ = result_of_run(path, "mine", RunSpec(needs_lag=80, ignore=("GS5",)), None)
    assert result.status == "inconclusive"
    (found,) = result.verdicts
    assert (found.code, found.status) == ("GS104", "warn")
    assert found.message.startswith("At the end, step 10: Beyond lag 70 of 80 no step has even 1 %")
    assert result_of_run(path, "mine", RunSpec(needs_lag=80, ignore=("GS5", "GS104")), None)[0].verdicts == ()
    kept, _ = result_of_run(path, "mine", RunSpec(needs_lag=70, ignore=("GS5",)), None)
    assert (kept.status, kept.verdicts) == ("healthy", ())
    with pytest.raises(UsageError, match=r"--needs-lag 100 is outside 1\.\.99 \(the run has sequences of 100 steps\)"):
        result_of_run(path, "mine", RunSpec(needs_lag=100), None)


def test_a_run_that_ends_between_failing_and_arriving_warns_where_its_reach_is_short(folder):
    for reach, found in ((49, ["GS104"]), (50, [])):
        ended = (point(0, 99), point(10, reach, status="inconclusive"))
        (folder / "between.jsonl").write_text(lines_of(run(*ended)))
        result, _ = result_of_run(str(folder / "between.jsonl"), "mine", RunSpec(ignore=("GS5",)), None)
        assert [verdict.code for verdict in result.verdicts if verdict.status == "warn"] == found
        assert result.status == "inconclusive"


def test_what_is_no_run_is_refused(folder):
    (folder / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UsageError, match="no trajectory"):
        result_of_run(str(folder / "other.jsonl"), "mine", RunSpec(), None)


def test_the_gate_is_red_where_the_run_ends_short(folder):
    lines = [
        "check good.jsonl",
        "check good.jsonl --min-reach 60 --needs-lag 60",
        "check good.jsonl --min-reach 80",
        "check good.jsonl --needs-lag 80",
        "check lost.jsonl",
        "check lost.jsonl --ignore GS501,GS505 -q",
        "check nan.jsonl",
        "check empty.jsonl --min-reach 10",
        "check empty.jsonl",
        "check missing.jsonl",
        "analyze good.jsonl",
    ]
    done = check_all(lines, folder)
    assert [one.code for one in done] == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2]
    assert "1 passed" in done[0].out
    assert "70 lags, short of min_reach = 80" in done[2].out
    assert "`gradscope show good.jsonl`" in done[2].out
    assert "gradscope analyze" not in done[2].out
    assert "GS505" in done[3].out
    assert "GS501" in done[4].out
    assert "GS504" in done[6].out
    assert "GS901  Not measured: the run holds no point." in done[8].out
    assert "no such file" in done[9].out
    assert "gradscope show good.jsonl" in done[10].err


def test_a_run_is_a_target_of_a_configuration_file(folder):
    table = "[targets.training]\nmodel = 'good.jsonl'\nneeds-lag = 60\nmin-reach = 60\n"
    (folder / "gradscope.toml").write_text(table)
    (done,) = check_all(["check --format json"], folder)
    assert done.code == 0
    assert '"name": "training"' in done.out


@pytest.mark.parametrize(("given", "code", "verdict"), [("GS501", 1, "GS501"), ("GS504", 0, "inconclusive")])
def test_a_run_is_checked_by_a_rule_of_training_alone(folder, capsys, monkeypatch, given, code, verdict):
    monkeypatch.chdir(folder)
    assert main(["check", "lost.jsonl", "--select", given]) == code, capsys.readouterr().err
    assert verdict in capsys.readouterr().out


def test_a_finding_that_is_ignored_fails_no_run(tmp_path):
    """Of several the next is told; nothing is told where all are ignored, and the status is open."""
    lost = point(10, 12, findings=("GS101", "GS104", "GS302"), message="It fades.", needed_lag=50)
    (tmp_path / "lost.jsonl").write_text(lines_of(run(lost)))

    def ended(*ignore):
        result, _ = result_of_run(str(tmp_path / "lost.jsonl"), "mine", RunSpec(ignore=("GS5", *ignore)), None)
        return result.status, [(v.code, v.status, v.message.partition(": ")[2]) for v in result.verdicts]

    assert ended() == ("vanishing", [("GS101", "fail", "It fades.")])
    assert ended("GS101") == ("vanishing", [("GS104", "fail", "reach below the needed lag.")])
    assert ended("GS1", "GS3") == ("inconclusive", [])


def test_whatever_makes_a_target_red_is_named(folder):
    """With `--fail-on warning` a reach short of the stated lag fails too: it stood behind the limit that is missed."""
    line = "check good.jsonl --needs-lag 80 --min-reach 80 --ignore GS5 --fail-on"
    red, softer = check_all([f"{line} warning", f"{line} error"], folder)
    assert (red.code, softer.code) == (1, 1)
    assert ("GS902  The reach" in red.out, "   GS104  " in red.out) == (True, True)
    assert ("GS902  The reach" in softer.out, "   GS104  " in softer.out) == (True, False)
