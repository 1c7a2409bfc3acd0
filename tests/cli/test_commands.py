"""The commands that need no tensors, and that they import none."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from gradscope.cli.commands import COMMANDS, SUMMARIES
from gradscope.registry import load

WATCHED = "('torch', 'numpy', 'scipy')"
LIGHT = ["--help", "--version", "explain GS101", "rules", "config", "schema", "analyze --length 1", "analyze -h"]

LINES = [f"{name} {flag}" for name in COMMANDS for flag in ("--help", "-h")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_by_long_and_short_flag(all_of, name):
    long, short = all_of[f"{name} --help"], all_of[f"{name} -h"]
    assert long.code == short.code == 0
    assert long.out == short.out
    assert f"Usage: gradscope {name}" in long.out
    assert long.err == ""


def test_help_lists_every_command(gradscope):
    done = gradscope("--help")
    assert done.code == 0
    assert all(f"\n  {name} " in done.out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_each_command_what_the_command_says_of_itself(name):
    assert SUMMARIES[name] == load(COMMANDS[name]).__doc__.strip().splitlines()[0]


def test_options_are_completed_though_the_list_loads_no_command(gradscope):
    asked = {"_GRADSCOPE_COMPLETE": "complete_bash", "COMP_WORDS": "gradscope analyze --needs", "COMP_CWORD": "2"}
    assert "--needs-lag" in gradscope(**asked).out


def test_no_words_show_the_help_and_are_not_a_success(gradscope):
    done = gradscope()
    assert done.code == 2
    assert "Usage: gradscope" in done.out


def test_help_survives_an_ascii_terminal(gradscope):
    done = gradscope("analyze", "--help", PYTHONIOENCODING="ascii")
    assert done.code == 0
    assert "--needs-lag" in done.out
    assert done.out.isascii()


def test_light_commands_import_no_tensors(python):
    lines = [words.split() for words in LIGHT]
    done = python(
        f"import sys; from gradscope.__main__ import main; codes = [main(line) for line in {lines!r}]; "
        f"sys.stderr.write(repr((codes, [n for n in {WATCHED} if n in sys.modules])))"
    )
    assert done.err.endswith("([0, 0, 0, 0, 0, 0, 2, 0], [])")


def test_show_imports_no_tensors(python, report):
    done = python(
        f"import sys; from gradscope.__main__ import main; code = main(['show', {str(report)!r}]); "
        f"sys.stderr.write(repr((code, [n for n in {WATCHED} if n in sys.modules])))"
    )
    assert done.err == "(0, [])"
    assert "rnn" in done.out


def test_version(gradscope):
    done = gradscope("--version")
    assert (done.code, done.out, done.err) == (0, "gradscope 0.1.0\n", "")


def test_explain_teaches_one_rule_or_all(gradscope):
    one = gradscope("explain", "gs101")
    assert one.code == 0
    assert one.out.startswith("# GS101 vanishing rate")
    every = gradscope("explain")
    assert [f"# {code} " in every.out for code in ("GS101", "GS202", "GS401")] == [True, True, True]


def test_explain_suggests_the_nearest_code(gradscope):
    done = gradscope("explain", "GS1O1")
    assert done.code == 2
    assert done.err.startswith("gradscope: unknown rule 'GS1O1'; did you mean 'GS101'?")


def test_rules_as_text_and_json(gradscope):
    assert "GS101  error    vanishing rate\n" in gradscope("rules").out
    listed = json.loads(gradscope("rules", "--format", "json").out)
    assert listed[0] == {"code": "GS101", "severity": "error", "title": "vanishing rate"}


def test_schema_names_the_format(gradscope):
    schema = json.loads(gradscope("schema").out)
    assert schema["properties"]["schema"] == {"const": "gradscope.report/1"}


def test_config_prints_values_with_origins_as_toml(gradscope, tmp_path):
    (tmp_path / "gradscope.toml").write_text("# mine\nlength = 30\n[thresholds]\nvanishing-share = 0.5\n")
    done = gradscope("config", GRADSCOPE_SEED="7")
    assert done.code == 0
    assert "length = 30  # gradscope.toml:2\n" in done.out
    assert "seed = 7  # GRADSCOPE_SEED\n" in done.out
    assert "hidden = 64  # default\n" in done.out
    values = tomllib.loads(done.out)
    assert (values["length"], values["thresholds"]) == (30, {"vanishing_share": 0.5})


def test_doctor_shows_versions_and_the_terminal(gradscope):
    done = gradscope("doctor")
    assert done.code == 0
    assert "gradscope    0.1.0\n" in done.out
    assert "devices      cpu" in done.out
    assert "output       utf-8 (all characters)" in done.out
    assert "output       ascii (ASCII only)" in gradscope("doctor", PYTHONIOENCODING="ascii").out


def test_doctor_warns_of_the_other_package_of_that_name(gradscope, tmp_path):
    other = tmp_path / "gradscope-0.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: gradscope\nVersion: 0.9\n")
    done = gradscope("doctor", PYTHONPATH=str(Path(tmp_path)))
    assert done.code == 0
    assert "warning: another package named 'gradscope' (0.9) is installed" in done.out


def test_show_renders_a_saved_report_in_any_format(gradscope, report):
    text = gradscope("show", str(report))
    assert "VANISHING" in text.out or "healthy" in text.out
    assert gradscope("show", str(report), "--format", "json").out == report.read_text()
    assert gradscope("show", str(report), "--format", "csv").out.count("\n") > 12
