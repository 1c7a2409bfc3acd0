"""One check of the sample project by a real process, through every format and exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from junitparser import JUnitXml
from pydantic_sarif.model import StaticAnalysisResultsFormatSarifVersion210JsonSchema as Sarif

from cli.conftest import Finished
from gate.conftest import check, check_all, sample
from gradscope.renderers.markdown import prose
from gradscope.renderers.view import View
from gradscope.saved import read_report

FILES = ("-o", "r.json", "-o", "r.sarif", "-o", "r.md", "-o", "r.csv", "-o", "r.txt", "--junit-xml", "junit.out")


@pytest.fixture(scope="module")
def on_github(tmp_path_factory) -> tuple[Path, Finished]:
    """Everything at once, as GitHub Actions would run it from the folder above."""
    folder = sample(tmp_path_factory.mktemp("github"))
    summary = folder / "summary.md"
    summary.write_text("# before\n")
    environ = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_WORKSPACE": str(folder.parent),
    }
    return folder, check(*FILES, cwd=folder, **environ)


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> dict[str, Finished]:
    folder = sample(tmp_path_factory.mktemp("lines"))
    asked = [
        "check",
        "check healthy",
        "check -q",
        "check --exit-zero",
        "check --fail-on never",
        "check healthy --fail-on warning --min-reach 39 --needs-lag 39",
        "check healthy --min-reach 39 -q",
        "check nan --format json",
        "check healty",
        "check healthy healthy",
        "check --min-reach 40",
        "check lstm:forget_bia=5",
        "check healthy --threshold vanishing_shar=1",
        "check --update-baseline",
        "check --baseline missing.json",
        "check --jobs 0",
        "check --timeout 0",
        "check --max-drop 200%",
    ]
    return dict(zip(asked, check_all(asked, folder), strict=True))


def test_annotations_come_without_a_flag_worst_first_with_file_and_line(on_github):
    _, done = on_github
    assert (done.code, done.err) == (1, "")
    found = re.findall(r"^::(\w+) title=(gradscope[^,:]*?)(?:,file=([^,]+),line=(\d+))?::(.*)$", done.out, re.MULTILINE)
    assert len(found) == len(done.out.splitlines())
    levels = [level for level, *_ in found]
    assert levels == sorted(levels, key=["error", "warning", "notice"].index)
    places = {(title.split()[1], file, line) for level, title, file, line, _ in found if level == "error"}
    assert places == {
        ("(GS101)", "sample/models.py", "7"),
        ("(GS104)", "sample/models.py", "7"),
        ("(GS301)", "sample/models.py", "18"),
    }
    assert found[-1][-1] == "2 failed, 1 passed"


def test_code_in_a_comment_is_code_and_what_else_it_quotes_is_not():
    said = prose("Try `gradscope compare lstm:forget_bias=5`, not `rm *`.", View())
    assert said == "Try `gradscope compare lstm:forget_bias=5`, not \\`rm \\*\\`."


def test_the_summary_is_appended(on_github):
    folder, _ = on_github
    text = (folder / "summary.md").read_text()
    assert text.startswith("# before\n### ✗ gradient flow: 2 failed, 1 passed\n")
    assert text.endswith((folder / "r.md").read_text())


def test_junit_is_read_by_another_program(on_github):
    folder, _ = on_github
    suites = {suite.name: suite for suite in JUnitXml.fromfile(str(folder / "junit.out"))}
    assert list(suites) == ["healthy", "vanishing", "nan"]
    failed = {
        name: [case.name.split()[0] for case in suite if _said(case) == "Failure"] for name, suite in suites.items()
    }
    assert failed == {"healthy": [], "vanishing": ["GS101", "GS104"], "nan": ["GS301"]}
    assert (suites["vanishing"].failures, suites["vanishing"].errors) == (2, 0)
    assert suites["healthy"].tests == len(list(suites["healthy"])) == 20
    assert all(suite.time > 0 for suite in suites.values())
    text = (folder / "junit.out").read_text()
    # Jenkins' junit-10.xsd knows neither of these; the place is in the message.
    assert not re.search(r"<testcase[^>]* (file|line)=|<testsuites[^>]* skipped=", text)
    assert "sample/models.py:7: " in text


def _said(case) -> str:
    return type(case.result[0]).__name__ if case.result else ""


def test_sarif_keeps_to_the_schema(on_github):
    folder, _ = on_github
    text = (folder / "r.sarif").read_text()
    (run,) = Sarif.model_validate_json(text).runs
    errors = [result for result in run.results if result.level.value == "error"]
    physical = [(one.ruleId, place.physicalLocation) for one in errors for place in one.locations]
    places = [(code, where.artifactLocation.uri, where.region.startLine) for code, where in physical]
    file = "sample/models.py"
    assert places == [("GS101", file, 7), ("GS104", file, 7), ("GS301", file, 18)]
    listed = [rule.id for rule in run.tool.driver.rules]
    assert all(listed[result.ruleIndex] == result.ruleId for result in run.results)
    prints = [result.partialFingerprints["gradscope/v1"] for result in run.results]
    assert len(set(prints)) == len(prints)


def test_json_holds_the_targets_and_renders_again(on_github):
    folder, _ = on_github
    report = read_report(str(folder / "r.json"))
    assert report.check is not None
    assert report.check.source == "[tool.gradscope] in pyproject.toml"
    assert [target.name for target in report.check.targets] == ["healthy", "vanishing", "nan"]
    assert [model.status for model in report.models] == ["healthy", "vanishing", "non-finite"]
    assert report.check.targets[0].limits.precision_horizon == {"float32": 20}
    assert report.check.targets[0].location.line == 12
    shown = check_all(["show r.json", "show r.json --format markdown", "show r.json --format github"], folder)
    assert [done.code for done in shown] == [0, 0, 0]
    assert shown[0].out == (folder / "r.txt").read_text()
    assert shown[1].out == (folder / "r.md").read_text()
    assert shown[2].out == on_github[1].out


def test_csv_has_the_steps_of_every_target(on_github):
    rows = (on_github[0] / "r.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"healthy", "vanishing", "nan"}
    assert len(rows) == 1 + 3 * 41


def test_the_screen(lines):
    done = lines["check"]
    assert (done.code, done.err) == (1, "")
    shown = done.out.splitlines()
    assert shown[:2] == [" gradscope 0.1.0 · [tool.gradscope] in pyproject.toml · 3 targets · seeds 0-4 ·", " cpu"]
    assert re.match(r" ✓ +healthy +healthy +39/39 ", shown[4])
    assert re.match(r" ✗ +vanishing +GS101 vanishing +4/39, needs 20 +0\.3", shown[5])
    assert re.match(r" ✗ +nan +GS301 non-finite +- ", shown[6])
    assert " ✗ vanishing  models.py:Forgetful · models.py:7" in shown
    assert re.fullmatch(r" 2 failed, 1 passed in \d+\.\d s   why: gradscope explain GS101", shown[-1])
    assert max(map(len, shown)) <= 80
    assert lines["check -q"].out == " ✓ healthy  healthy\n ✗ vanishing  GS101 vanishing\n ✗ nan  GS301 non-finite\n"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("check healthy", 0),
        ("check --exit-zero", 0),
        ("check --fail-on never", 0),
        ("check healthy --min-reach 39 -q", 0),
        ("check nan --format json", 1),
    ],
)
def test_findings_decide_the_exit_code(lines, line, code):
    assert (lines[line].code, lines[line].err) == (code, "")


def test_a_machine_format_is_alone_on_standard_output(lines):
    data = json.loads(lines["check nan --format json"].out)
    assert [target["name"] for target in data["check"]["targets"]] == ["nan"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("check healty", "unknown target or model 'healty'; did you mean 'healthy'?"),
        ("check healthy healthy", "target 'healthy' is named twice"),
        ("check --min-reach 40", "min_reach is 40 (--min-reach); over 40 steps it is at most 39"),
        ("check lstm:forget_bia=5", "unknown option of lstm 'forget_bia'; did you mean 'forget_bias'?"),
        ("check healthy --threshold vanishing_shar=1", "unknown threshold 'vanishing_shar'; did you mean"),
        ("check --update-baseline", "--update-baseline needs a file"),
        ("check --baseline missing.json", "there is no baseline 'missing.json'"),
        ("check --jobs 0", "jobs is '0' (--jobs); expected a whole number of at least 1"),
        ("check --timeout 0", "timeout is '0.0' (--timeout); expected a number of seconds above 0"),
        ("check --max-drop 200%", "max_drop is '200%' (--max-drop); expected a part such as 10%"),
    ],
)
def test_wrong_requests_are_one_line_and_exit_2(lines, line, message):
    done = lines[line]
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"gradscope: {message}")
    assert done.err.count("\n") == 1


def test_models_need_no_file_but_something_must_be_checked(tmp_path):
    words = "check rnn:hidden=4 lstm:forget_bias=5,hidden=4 --needs-lag 19 --length 20"
    nothing, done, never = check_all(["check", words, f"{words} --fail-on never"], tmp_path)
    assert (nothing.code, nothing.out) == (2, "")
    assert nothing.err.startswith("gradscope: nothing to check: no [tool.gradscope.targets.NAME]")
    assert (done.code, done.err, never.code) == (1, "", 0)
    assert " · command line · 2 targets · " in done.out
    assert re.search(r"✗ +rnn:hidden=4 +GS101 vanishing", done.out)
    assert re.search(r"✓ +lstm:forget_bias=5,hid", done.out)
