"""Where reports go, and that a reader that leaves or a full disk changes no verdict."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gradscope.__main__ import _debug
from gradscope.cli import output
from gradscope.cli.output import Output, is_coloured, plan, write_file
from gradscope.errors import UsageError
from gradscope.renderers.view import View
from gradscope.saved import read_report


@pytest.mark.parametrize(
    ("choice", "environ", "coloured"),
    [
        ("auto", {}, False),
        ("auto", {"FORCE_COLOR": "1"}, True),
        ("auto", {"FORCE_COLOR": "0"}, False),
        ("auto", {"FORCE_COLOR": ""}, False),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ("always", {"NO_COLOR": "1"}, True),
        ("never", {"FORCE_COLOR": "1"}, False),
    ],
)
def test_colour_off_a_terminal(monkeypatch, choice, environ, coloured):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert is_coloured(choice, environ) is coloured


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colour_on_a_terminal(monkeypatch, environ, coloured):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert is_coloured("auto", environ) is coloured


@pytest.mark.parametrize(
    ("encoding", "ascii"), [("utf-8", False), ("UTF8", False), ("latin-1", True), ("cp1252", True)]
)
def test_characters_follow_the_encoding(gradscope, report, encoding, ascii):
    shown = gradscope("show", str(report), PYTHONIOENCODING=encoding)
    assert shown.code == 0
    assert shown.out.isascii() is ascii


def test_ascii_by_flag_variable_and_dumb_terminal(gradscope, report):
    assert gradscope("show", str(report), "--ascii").out.isascii()
    assert gradscope("show", str(report), GRADSCOPE_ASCII="1").out.isascii()
    assert gradscope("show", str(report), TERM="dumb").out.isascii()


def test_width_is_80_in_a_pipe_and_follows_columns_and_the_flag(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "__stdout__", None)
    assert output.view({}, {}).width == 80
    monkeypatch.setenv("COLUMNS", "120")
    assert output.view({}, {}).width == 120
    assert output.view({"width": 60}, {}).width == 60
    monkeypatch.setenv("COLUMNS", "3")
    assert output.view({}, {}).width == 20


def test_each_file_has_the_format_of_its_suffix(gradscope, report, tmp_path):
    done = gradscope("show", str(report), "-o", "a.json", "-o", "b.csv", "-o", "c.md", "-q")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(" ✗ VANISHING")
    assert "lag" not in done.out
    assert (tmp_path / "a.json").read_text() == report.read_text()
    assert (tmp_path / "b.csv").read_text() == gradscope("show", str(report), "--format", "csv").out
    # Quiet is for the screen; a file is always whole.
    assert (tmp_path / "c.md").read_text() == gradscope("show", str(report), "--format", "markdown").out


def test_what_cannot_be_drawn_costs_no_other_file_and_no_verdict(gradscope, report, tmp_path):
    pytest.importorskip("vl_convert", reason="the extra [report] is not installed")
    done = gradscope("show", str(report), "-o", "a.json", "-o", "g.svg", "--chart", "attention", "-o", "b.csv")
    assert done.code == 2
    assert done.err.startswith("gradscope: nothing to draw for --chart attention")
    assert done.out.startswith(" ✗ VANISHING")
    assert sorted(path.name for path in tmp_path.iterdir() if path != report) == ["a.json", "b.csv"]


PRINTS = """
import torch
print("at import")
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        print("when made")
        self.rnn, self.out = torch.nn.RNN(3, 4, batch_first=True), torch.nn.Linear(4, 2)
    def forward(self, x):
        print("when run")
        return self.out(self.rnn(x)[0])
"""


@pytest.mark.parametrize("words", [("analyze", "net.py:Net"), ("track", "w.pt", "--module", "net.py:Net")])
def test_what_the_users_model_prints_stays_out_of_the_report(gradscope, python, tmp_path, words):
    (tmp_path / "net.py").write_text(PRINTS)
    python("import torch, net; torch.save(net.Net().state_dict(), 'w.pt')", PYTHONPATH=str(tmp_path))
    done = gradscope(*words, "--input-size", "3", "--length", "12", "--format", "json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["schema"].startswith("gradscope.")
    assert all(said in done.err for said in ("at import", "when made", "when run"))


def test_a_verdict_outlives_a_picture_that_cannot_be_drawn(gradscope, tmp_path):
    pytest.importorskip("vl_convert", reason="the extra [report] is not installed")
    (tmp_path / "net.py").write_text(PRINTS)
    words = ("analyze", "net.py:Net", "--input-size", "3", "--length", "60", "--needs-lag", "59", "--fail-on", "error")
    done = gradscope(*words, "-o", "g.svg", "--chart", "gates")
    assert done.code == 1
    assert " ✗ VANISHING" in done.out
    assert "nothing to draw for --chart gates" in done.err


def test_closed_streams_are_no_crash(python):
    code = """
import sys
from gradscope.__main__ import main
err, sys.stdin, sys.stdout = sys.stderr, None, None
codes = [main(["show", "-"])]
for words in (["--version"], ["rules"], ["explain", "GS101"], ["analyze", "rnn", "--length", "9", "--hidden", "3"]):
    codes.append(main(words))
sys.stderr = None
codes += [main(["show", "-"]), main(["analyze", "rnn", "--length", "9", "--hidden", "3"])]
err.write(repr(codes))
"""
    done = python(code)
    said, codes = done.err.splitlines()
    assert said == "gradscope: standard input is closed; name a file, or send one in with < or |"
    assert codes == "[2, 0, 0, 0, 0, 2, 0]"


@pytest.mark.parametrize(
    ("words", "left", "debug"),
    [
        (["--debug", "analyze", "rnn"], ["analyze", "rnn"], True),
        (["analyze", "rnn", "--debug"], ["analyze", "rnn"], True),
        (["analyze", "--text", "--debug"], ["analyze", "--text", "--debug"], False),
        (["analyze", "--fix", "--debug", "rnn"], ["analyze", "--fix", "rnn"], True),
        (["show", "--", "--debug"], ["show", "--", "--debug"], False),
        (["analyse", "--debug"], ["analyse"], True),
    ],
)
def test_debug_is_a_flag_and_not_a_value(words, left, debug):
    assert _debug(words) == (left, debug)


def test_a_format_names_the_suffixless_file(tmp_path):
    path = tmp_path / "report"
    assert plan({"output": [str(path)], "format": "json"}, {}).files == ((path, "json"),)


def test_checking_leaves_no_trace(tmp_path):
    plan({"output": [str(tmp_path / "r.json")]}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_refused_before_anything_is_measured(python):
    done = python(
        "import sys; from gradscope.__main__ import main; code = main(['analyze', '-o', 'missing/r.json']); "
        "sys.stderr.write(repr((code, 'torch' in sys.modules)))"
    )
    assert done.err.endswith("(2, False)")


def test_a_folder_and_a_doubled_file_are_refused(tmp_path):
    (tmp_path / "r.json").mkdir()
    with pytest.raises(UsageError, match="it is a folder"):
        plan({"output": [str(tmp_path / "r.json")]}, {})
    with pytest.raises(UsageError, match="given twice"):
        plan({"output": [str(tmp_path / "a.json")] * 2}, {})
    with pytest.raises(UsageError, match="given twice"):
        plan({"output": ["a.json"]}, {}, also=[(os.path.abspath("a.json"), "junit")])


def test_the_input_is_never_overwritten(gradscope, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("a\n1\n2\n3\n")
    done = gradscope("analyze", "--input", "data.csv", "-o", "./data.csv")
    assert done.code == 2
    assert "would overwrite the run's own input" in done.err
    assert data.read_text() == "a\n1\n2\n3\n"


def test_a_baseline_that_is_written_for_the_first_time_is_not_overwritten(gradscope, tmp_path):
    new = str(tmp_path / "new.json")
    for other in (["-o", "./new.json"], ["--junit-xml", new]):
        done = gradscope("check", "rnn", "--length", "8", "--baseline", "new.json", "--update-baseline", *other)
        assert done.code == 2
        assert "would overwrite the baseline" in done.err


def test_files_are_readable_as_the_umask_says_and_keep_their_mode(tmp_path):
    path = tmp_path / "r.json"
    before = os.umask(0o027)
    try:
        write_file(path, b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    write_file(path, b"2")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"2", 0o604)


def test_a_link_stays_a_link(tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    link.symlink_to(real)
    write_file(link, b"1")
    assert link.is_symlink()
    assert real.read_bytes() == b"1"


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"cannot write '.*r\.json': no space left on device"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_that_leaves_changes_no_verdict(tmp_path, report):
    """Standard output is a pipe nobody reads any more: the code stays what the findings say, and nobody complains."""
    code = (
        "import sys; import gradscope.cli.measure as m; from gradscope.saved import read_report; "
        "import types; sys.modules['gradscope.examine'] = types.SimpleNamespace("
        f"full_report=lambda *a, **k: read_report({str(report)!r})); m.exit_code = lambda *a: 1; "
        "from gradscope.__main__ import main; sys.exit(main(['analyze']))"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("words", [["--help"], ["explain"], ["schema"], ["rules"], ["--version"]])
def test_a_reader_that_leaves_a_lesson_is_no_error(tmp_path, words):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "gradscope", *words], stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_not_green(tmp_path, report):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gradscope", "show", str(report)],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(b"gradscope: cannot write to standard output: ")


def test_detail_is_measured_for_files_and_data_but_not_for_a_short_screen(report):
    files = ((Path("r.json"), "json"),)
    assert not Output("text", View(), ()).is_detailed
    assert Output("text", View(verbose=1), ()).is_detailed
    assert Output("csv", View(), ()).is_detailed
    assert Output("text", View(), files).is_detailed
    assert read_report(str(report)).models[0].length == 12


def test_costs_are_measured_only_where_they_are_shown():
    picture = ((Path("r.svg"), "svg"),)
    assert not Output("text", View(), ()).shows_costs
    assert not Output("text", View(), picture).shows_costs
    assert Output("text", View(charts=("costs",)), picture).shows_costs
    assert Output("text", View(verbose=1), ()).shows_costs
    assert Output("json", View(), ()).shows_costs
    assert Output("text", View(), ((Path("r.html"), "html"),)).shows_costs
