"""`gradscope check` where things go wrong: settings, baselines, targets that die, files that must stay whole."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import forked
import gradscope
import gradscope.testing
from gradscope.cli.project import init
from gradscope.errors import UsageError


def environment(**extra: str) -> dict[str, str]:
    cleared = ("GRADSCOPE_", "GITHUB_", "NO_COLOR", "FORCE_COLOR", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(cleared)}
    return {**kept, "PYTHONIOENCODING": "utf-8", **extra}


def check(project: Path, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return forked.run_text(["-m", "gradscope", "check", *words], cwd=project, env=environment(**extra))


def target(project: Path, name: str, lines: str) -> None:
    with (project / "pyproject.toml").open("a") as file:
        file.write(f"\n[tool.gradscope.targets.{name}]\n{lines}\n")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("model = 'rnn'\nneeds_lagg = 3", "did you mean 'needs_lag'"),
        ("model = 'rnn'\nmin-reach = 'far'", "min_reach"),
        ("hidden = 8", "model"),
        ("model = 'rnnn'", "did you mean 'rnn'"),
        ("model = 'rnn'\nrate = [0.1, -0.1]", "rate"),
    ],
)
def test_a_wrong_target_is_one_line_with_its_place(lines: str, said: str, project: Path) -> None:
    target(project, "wrong", lines)
    done = check(project)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "pyproject.toml:2" in done.stderr
    assert done.stderr.count("\n") == 1


def test_github_is_spoken_where_github_runs(project: Path, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    done = check(project, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("::error title=gradscope (GS101) vanishing rate,file=models.py,line=7::vanishing: ")
    assert "%0Atry: " in lines[0]
    assert lines[-1] == "::notice title=gradscope::2 failed, 1 passed"
    assert summary.read_text().startswith("before\n### ✗ gradient flow: 2 failed, 1 passed")
    (project / "base.json").write_text('{"schema": "gradscope.baseline/1", "targets": {}, "tolerance": 1e-05}')
    unheld = check(project, "healthy", "--baseline", "base.json", "--no-summary", GITHUB_ACTIONS="true")
    assert unheld.stdout.splitlines()[0].startswith("::notice title=gradscope::healthy is not in the baseline yet")
    asked = check(
        project, "healthy", "--format", "text", "--no-summary", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary)
    )
    assert asked.stdout.startswith(" gradscope ")
    assert summary.read_text().count("gradient flow") == 1


def test_a_baseline_accepts_what_is_known_and_sees_what_got_worse(project: Path) -> None:
    base = project / "base.json"
    assert check(project, "--baseline", "base.json", "--update-baseline").returncode == 0
    first = base.read_bytes()
    assert check(project, "--baseline", "base.json", "--update-baseline").returncode == 0
    assert base.read_bytes() == first
    done = check(project, "--baseline", "base.json")
    assert done.returncode == 0
    assert "2 accepted by baseline, 1 passed" in done.stdout

    stored = json.loads(first)
    stored["targets"]["healthy"] |= {"reach": 80, "rate": 0.2, "rate_ci": [0.19, 0.21]}
    base.write_text(json.dumps(stored))
    worse = check(project, "healthy", "--baseline", "base.json", "--max-drop", "10%")
    assert worse.returncode == 1
    assert "GS903" in worse.stdout

    base.write_bytes(first)
    other = check(project, "--baseline", "base.json", "--seed", "3")
    assert (other.returncode, other.stdout) == (2, "")
    assert "seed 0 there, 3 here" in other.stderr
    assert base.read_bytes() == first


def test_init_finds_the_recurrent_modules_of_a_project(project: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "net.py").write_text("import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.rnn = torch.nn.GRU(3, 4, batch_first=True)\n\n"
        "    def forward(self, x):\n        return self.rnn(x)[0]\n")  # fmt: skip

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return forked.run_text(["-m", "gradscope", *words], cwd=fresh, env=environment())

    assert run("init").returncode == 0
    assert "net.py:Net" in (fresh / "gradscope.toml").read_text()
    assert run("check").returncode in (0, 1)
    assert "targets already" in run("init").stderr
    shown = run("config").stdout
    assert "net.py:Net" in shown
    assert "gradscope.toml:" in shown


NET = "import torch\n\n\nclass Net(torch.nn.Module):\n    rnn = torch.nn.GRU(3, 4, batch_first=True)\n"


@pytest.mark.parametrize(
    "before",
    [
        b"[project]\r\nname = 'x'\r\n",
        b"\xef\xbb\xbf[project]\nname = 'x'\n\n\n",
        b"[tool.gradscope]\nneeds-lag = 5",
        b"[tool]\ngradscope.needs-lag = 5\n",
    ],
)
def test_init_adds_to_a_file_and_changes_no_byte_of_it(before: bytes, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "net.py").write_text(NET)
    path = tmp_path / "pyproject.toml"
    path.write_bytes(before)
    monkeypatch.chdir(tmp_path)
    assert init() == 0
    after = path.read_bytes()
    assert after.startswith(before)
    ends = {line[-2:] == b"\r\n" for line in after.splitlines(keepends=True)}
    assert ends == {b"\r\n" in before}
    assert tomllib.loads(after.decode("utf-8-sig"))["tool"]["gradscope"]["targets"]["net"] == {"model": "net.py:Net"}


def test_init_writes_no_second_set_of_targets_beside_those_of_the_other_file(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (tmp_path / "gradscope.toml").write_text("[targets.a]\nmodel = 'rnn'\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"gradscope\.toml has targets already"):
        init()


def test_init_leaves_a_file_alone_that_would_be_no_toml_any_more(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "net.py").write_text(NET)
    path = tmp_path / "pyproject.toml"
    path.write_text("[tool]\ngradscope = {needs-lag = 5}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"write its \[tool.gradscope\] as a table of its own"):
        init()
    assert path.read_text() == "[tool]\ngradscope = {needs-lag = 5}\n"


def test_the_gate_counts_paths_of_a_folder_from_anywhere(project: Path, tmp_path: Path, monkeypatch) -> None:
    """The configuration's own paths count from it, whatever folder asks: model file, baseline, data."""
    monkeypatch.chdir(tmp_path)
    (project / "gradscope.toml").write_text("length = 8\nneeds-lag = 3\nbaseline = 'base.json'\n"
        "[targets.own]\nmodel = 'models.py:Forgetful'\n")  # fmt: skip
    with pytest.raises(UsageError, match=r"there is no baseline 'sample/base\.json'"):
        gradscope.check("own", folder=project)
    (project / "base.json").write_text('{"schema": "gradscope.baseline/1", "targets": {}, "tolerance": 1e-05}')
    report = gradscope.check("own", folder=project)
    assert report.models[0].loaded.location.file == "sample/models.py"
    assert "GS901" not in {verdict.code for verdict in report.models[0].verdicts}
    assert report.check.notes == ("own is not in the baseline yet, so nothing holds it; --update-baseline adds it",)


def test_what_another_run_writes_into_the_baseline_meanwhile_stays_there(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import json\nimport torch\n"
        "data = json.load(open('one.json'))\n"
        "data['targets'] = {'other': data['targets']['rnn:hidden=4']}\n"
        "json.dump(data, open('base.json', 'w'))\n"
        "def model():\n    return torch.nn.GRU(2, 4, batch_first=True)\n"
    )
    words = ["--length", "8", "--needs-lag", "3", "--seeds", "1", "--update-baseline", "-q"]
    assert check(tmp_path, "rnn:hidden=4", *words, "--baseline", "one.json").returncode == 0
    assert check(tmp_path, "slow.py:model", *words, "--baseline", "base.json").returncode == 0
    assert {*json.loads((tmp_path / "base.json").read_text())["targets"]} == {"other", "slow.py:model"}


def test_an_assertion_about_what_could_not_be_measured_fails_and_its_first_line_says_so(monkeypatch) -> None:
    report = gradscope.analyze("rnn:hidden=4", needs_lag=5, length=12, batch=2)
    reason = "the chain does not reproduce Net: it is off by 0.5"
    verdicts = [replace(v, status="skip", message=reason) for v in report.models[0].verdicts]
    grey = replace(report.models[0], status="inconclusive", verdicts=tuple(verdicts), skipped={"rate": reason})
    monkeypatch.setattr("gradscope.api.analyze", lambda *words, **settings: replace(report, models=(grey,)))
    with pytest.raises(AssertionError, match=rf"^GS901 Not measured: {reason}\."):
        gradscope.testing.assert_gradient_flow("net.py:Net", needs_lag=5)
