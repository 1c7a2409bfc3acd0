"""Sweeps on this machine, from the command line to the screen and back."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.conftest import environment, run_all
from gradscope.errors import UsageError
from gradscope.renderers.sweep_wording import unfinished
from gradscope.sweeps.read_sweep import is_sweep, read_sweep
from gradscope.swept import cells
from sweeps.conftest import ENDS, MODEL, SMALL, asked, gradscope, started, states

OVER = ["sweep", "lstm", "--over", "forget_bias=0:6:3", "length=12,24", "--seeds", "2", *MODEL]
LINES = {
    "first": [*OVER, "-o", "s.db", "-o", "s.csv"],
    "again": [*OVER, "-o", "s.db", "--fail-on", "warning"],
    "wider": [
        "sweep",
        "lstm",
        "forget_bias=0:9:3",
        "--over",
        "length=24,12",
        "--seeds",
        "2",
        *MODEL,
        "-o",
        "w.db",
        "-q",
    ],
    "healthy": [*OVER, "-o", "s.db", "-q", "--min-healthy", "60%"],
    "ill": [*OVER, "-o", "s.db", "-q", "--min-healthy", "0.7"],
    "single": ["analyze", "lstm:forget_bias=3", "--length", "24", "--seed", "1", *MODEL, "-o", "r.json", "-q"],
    "best": ["analyze", "lstm:forget_bias=6", "--length", "24", *MODEL, "--seeds", "2"],
}
"""One after the other in one process, for its start would be most of the time; `w.db` is a copy of what came first."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder, and what each line gave."""
    folder = tmp_path_factory.mktemp("swept")
    copying = ["sweep", "lstm", *OVER[2:], "-o", "w.db", "-q"]
    found = run_all([copying, *LINES.values()], folder)
    assert found[0].code == 0, found[0].err
    return folder, dict(zip(LINES, found[1:], strict=True))


def test_the_screen_has_diagram_frontier_best_point_and_table(swept):
    screen = swept[1]["first"].out
    assert screen.splitlines()[0] == " ≈ 4 of 6 points are healthy; 2 vanishing"
    assert " lstm · 6 points · seeds 0-1 · --batch 4 --hidden 8 --input-size 2" in screen
    assert "forget_bias \\ length  12           24" in screen
    assert screen.count("✓ healthy") == 2 * 4
    assert screen.count("▼ vanishing") == 2 * 2
    assert " frontier: the full reach needs forget_bias >= 3\n" in screen


def test_every_run_is_one_row(swept):
    folder, _ = swept
    assert states(folder / "s.db") == {"done": 12}
    lines = (folder / "s.csv").read_text().splitlines()
    assert lines[0].startswith("forget_bias,length,seed,state,status,worst,seconds,reason,rate,")
    assert len(lines) == 13
    assert {path.name for path in folder.iterdir()} >= {"s.csv", "s.db"}
    assert not list(folder.glob("*-wal")) + list(folder.glob("*-shm"))


def test_a_run_of_a_sweep_is_the_same_analysis(swept):
    folder, _ = swept
    query = "SELECT summary FROM points JOIN runs USING (key) WHERE point = 3 AND points.seed = 1"
    ((summary,),) = asked(folder / "s.db", query)
    kept = json.loads(summary)
    single = json.loads((folder / "r.json").read_text())["models"][0]["summary"]
    names = ("rate", "reach", "lyapunov", "gradient_share", "log10_condition")
    assert {name: kept[name] for name in names} == {name: single[name] for name in names}


def test_the_command_of_the_best_point_is_on_the_screen_and_runs(swept):
    _, found = swept
    screen = found["first"].out
    line = " ".join(screen[screen.index("   gradscope analyze") :].split("\n\n")[0].split())
    assert shlex.split(line) == ["gradscope", *LINES["best"]]
    assert found["best"].code == 0
    # Of two seeds the 95 % interval is 12.7 standard errors wide on either side: no verdict, and what would give one.
    assert "inconclusive" in found["best"].out
    assert "Narrow the interval with more seeds" in found["best"].out


def test_the_same_command_again_runs_nothing_and_says_the_same(swept):
    folder, found = swept
    assert found["again"].out == found["first"].out
    assert asked(folder / "s.db", "SELECT MAX(tries), COUNT(*) FROM runs") == [(1, 12)]


def test_a_wider_sweep_runs_only_what_is_new(swept):
    folder, found = swept
    assert found["wider"].out == " ≈ 6 of 8 points are healthy; 2 vanishing\n"
    assert asked(folder / "w.db", "SELECT COUNT(*), MAX(tries) FROM runs") == [(16, 1)]


def test_exit_codes_say_what_was_found(swept):
    _, found = swept
    codes = {name: done.code for name, done in found.items()}
    assert codes == {"first": 0, "again": 1, "wider": 0, "healthy": 0, "ill": 1, "single": 0, "best": 0}
    assert all(done.err == "" for done in found.values())


def test_show_renders_it_again_without_tensors(swept):
    folder, found = swept
    assert gradscope("show", "s.db", cwd=folder).stdout == found["first"].out
    code = (
        "import sys; from gradscope.__main__ import main; code = main(['show', 's.db', '--format', 'json']); "
        "sys.exit(code or 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment({}), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["schema"] == "gradscope.sweep/1"
    assert [axis["name"] for axis in data["axes"]] == ["forget_bias", "length"]
    assert data["runs"][-1]["at"] == {"forget_bias": "6", "length": "24"}
    (folder / "s.json").write_text(done.stdout)
    assert read_sweep(folder / "s.json") == read_sweep(folder / "s.db")
    (folder / "plain").write_bytes((folder / "s.json").read_bytes())
    assert read_sweep(folder / "plain") == read_sweep(folder / "s.db")
    assert is_sweep((folder / "s.json").read_bytes())
    (folder / "d.json").write_text(done.stdout.replace('"points"', '"pints"').replace('"state"', '"stat"'))
    with pytest.raises(UsageError, match="damaged"):
        read_sweep(folder / "d.json")


def test_numbers_shade_the_cells(swept):
    folder, _ = swept
    done = gradscope("show", "s.db", "--shade", "rate_ci.low", "--x", "forget-bias", "--ascii", cwd=folder)
    assert "length \\ forget_bias" in done.stdout
    assert "rate_ci.low: darker is more" in done.stdout
    wrong = gradscope("show", "s.db", "--shade", "raech", cwd=folder)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "unknown number 'raech'; did you mean 'reach'?" in wrong.stderr
    wrong = gradscope("show", "s.db", "--y", "lenght", cwd=folder)
    assert "unknown axis 'lenght'; did you mean 'length'?" in wrong.stderr


def test_parquet_holds_the_rows_of_csv(swept):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow, of the extra [parquet], is not installed")
    folder, _ = swept
    assert gradscope("show", "s.db", "-o", "s.parquet", "-q", cwd=folder).returncode == 0
    table = parquet.read_table(folder / "s.parquet")
    lines = (folder / "s.csv").read_text().splitlines()
    assert ",".join(table.column_names) == lines[0]
    first = table.to_pylist()[5]
    assert (first["forget_bias"], first["length"], first["seed"], first["state"]) == (3.0, 12.0, 1, "done")
    assert first["rate"] == float(lines[6].split(",")[8])


def test_what_crashes_hangs_or_is_out_of_memory_is_one_red_cell(tmp_path):
    (tmp_path / "ends.py").write_text(ENDS)
    ways = "fine,crash,hang,refuse,memory,killed,fine2"
    words = ["sweep", "ends.py:make", "--over", f"args.how={ways}", "--timeout", "8", "--retries", "1"]
    done = gradscope(*words, *SMALL[:4], "--jobs", "2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    rows = asked(tmp_path / "sweep.db", "SELECT settings, state, reason, tries FROM runs")
    found = {json.loads(settings)["args.how"]: (state, reason, tries) for settings, state, reason, tries in rows}
    assert found["fine"][0] == found["fine2"][0] == "done"
    assert found["crash"] == ("failed", "its process was killed by SIGSEGV", 1)
    assert found["hang"] == ("failed", "it took longer than 8 s and was stopped", 1)
    assert found["killed"][::2] == ("failed", 2)
    assert found["memory"][0] == "failed"
    assert "MemoryError" in found["memory"][1]
    assert "no \\x1b[31mweights" in found["refuse"][1]
    assert "5 failed" in done.stdout
    assert done.stdout.count("✗ failed") == 2 * 5
    assert "args.how=crash: its process was killed by SIGSEGV" in done.stdout


def test_what_is_interrupted_goes_on_by_the_same_command(tmp_path):
    (tmp_path / "ends.py").write_text(ENDS)
    words = ["sweep", "ends.py:slow", "--over", "args.seconds=0.3", "seed=0:9:1", *SMALL[:4], "--jobs", "2"]
    process = started(*words, cwd=tmp_path)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if (tmp_path / "sweep.db").exists() and process.poll() is None:
            try:
                if states(tmp_path / "sweep.db").get("done", 0) >= 3:
                    break
            except sqlite3.OperationalError:
                pass
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "gradscope: stopped; what was finished is kept in sweep.db, and the same command goes on\n"
    found = states(tmp_path / "sweep.db")
    assert set(found) == {"done", "waiting"}
    assert 3 <= found["done"] < 10
    kept = asked(tmp_path / "sweep.db", "SELECT key, ended FROM runs WHERE state = 'done'")
    left = f"{found['waiting']} of 10 runs are still to be done; the same command goes on"
    assert unfinished(read_sweep(tmp_path / "sweep.db")) == left
    assert gradscope(*words, "-q", cwd=tmp_path).returncode == 0
    assert states(tmp_path / "sweep.db") == {"done": 10}
    assert set(kept) <= set(asked(tmp_path / "sweep.db", "SELECT key, ended FROM runs"))


def test_two_clients_on_one_file_share_the_work(tmp_path):
    (tmp_path / "ends.py").write_text(ENDS)
    words = ["sweep", "ends.py:slow", "--over", "args.seconds=0.2", "seed=0:11:1", *SMALL[:4], "--jobs", "1", "-q"]
    clients = [started(*words, cwd=tmp_path) for _ in range(2)]
    said = [client.communicate(timeout=200) for client in clients]
    assert [client.returncode for client in clients] == [0, 0]
    assert said[0] == said[1]
    assert " of 12 points are healthy" in said[0][0]
    assert asked(tmp_path / "sweep.db", "SELECT state, tries, COUNT(*) FROM runs GROUP BY 1, 2") == [("done", 1, 12)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lstm", "a sweep needs an axis; write gradscope sweep lstm --over forget_bias=0:6:1"),
        ("lstm --over lenth=1,2", "unknown axis 'lenth'; did you mean 'length'?"),
        ("lstm --over init=orthogonal,uniform,odd", "unknown value for lstm:init 'odd'"),
        ("rnn lstm --over gain=1,2 nonlinearity=relu,tanh", "'lstm' has no option of that name"),
        ("lstm --over length=1,2", "length is 1 (--over length)"),
        ("lstm --over seed=1,2 --seeds 3", "--seeds 3 and the axis 'seed'"),
        ("lstm --over length=10 -o a.db -o b.db", "-o names 2 files of results"),
        ("lstm --over length=10 -o a.xyz", "no suffix that names a format"),
        ("lstm --over length=10 --format github", "unknown format 'github'"),
        ("lstm --over length=10 -o nowhere/a.db", "cannot use 'nowhere/a.db' for a sweep"),
        ("lstm --over length=10 --min-healthy 2", "min_healthy is '2' (--min-healthy)"),
        ("lstm --over length=10 --show gates", "a sweep shows a number in its cells with --shade"),
        ("lstm --over length=10 --jobs 0", "jobs is 0 (--jobs); it must be at least 1"),
        ("lstm --over length=10 --threads 0", "threads is 0"),
        ("lstm --over length=10 --timeout 0", "timeout is '0.0'"),
        ("lstm --over length=10 --run guess", "unknown run 'guess' (one of: analyze, probe) (--run)"),
        ("lstm --over length=10 --scheduler none.json", "no file 'none.json'"),
    ],
)
def test_wrong_words_are_one_line_and_leave_nothing(words, said, tmp_path, capsys, monkeypatch):
    from gradscope.__main__ import main

    if "--scheduler" in words:
        pytest.importorskip("distributed", reason="Dask, of the extra [sweep], is not installed")
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert said in err


def test_a_scheduler_may_come_from_the_environment(tmp_path, capsys, monkeypatch):
    pytest.importorskip("distributed", reason="Dask, of the extra [sweep], is not installed")
    from gradscope.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADSCOPE_SCHEDULER", "none.json")
    assert main(["sweep", "lstm", "length=9"]) == 2
    assert "no file 'none.json'" in capsys.readouterr().err


def test_models_are_an_axis_and_settings_of_the_project_hold(tmp_path):
    (tmp_path / "gradscope.toml").write_text("length = 14\nbatch = 2\nhidden = 4\ninput-size = 2\nseeds = 2\n")
    done = gradscope("sweep", "rnn:gain=3", "lstm", "--over", "dtype=float64,float32", "-o", "s.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "s.json").read_text())
    assert data["spec"]["length"] == 14
    assert data["seeds"] == [0, 1]
    assert [axis["values"] for axis in data["axes"]] == [["rnn:gain=3", "lstm"], ["float64", "float32"]]
    assert len({run["point"] for run in data["runs"]}) == 4
    assert "model" in done.stdout
    assert os.path.exists(tmp_path / "sweep.db")


def test_cells_say_what_most_seeds_say(swept):
    folder, _ = swept
    found = list(cells(read_sweep(Path(folder) / "s.db")))
    assert [cell.status for cell in found] == ["vanishing", "vanishing", *["healthy"] * 4]
    assert all(cell.agreeing == cell.runs == 2 for cell in found)
