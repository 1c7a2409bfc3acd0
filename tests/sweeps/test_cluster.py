"""Sweeps on a Dask cluster of real processes: the bits of local ones, workers that are killed, versions, files."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from cli.conftest import environment
from gradscope.errors import UsageError
from gradscope.records import RunSpec
from sweeps.conftest import ENDS, SMALL, asked, gradscope, started, states

distributed = pytest.importorskip("distributed", reason="Dask, of the extra [sweep], is not installed")

from gradscope.sweeps import dask_cluster  # noqa: E402
from gradscope.sweeps.plan import Plan, versions  # noqa: E402
from gradscope.sweeps.run_point import Task  # noqa: E402
from gradscope.sweeps.shipped import collected  # noqa: E402

SERVE = """
import sys
if __name__ == "__main__":
    from distributed import LocalCluster
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""
MODEL = """
from torch import nn
from layers import WIDTH

class Tagger(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.rnn = nn.GRU(WIDTH, hidden, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]
"""


def served(folder):
    """A process with the scheduler of two workers with nannies, and its address; all of it starts in that folder."""
    (folder / "serve.py").write_text(SERVE)
    serving = subprocess.Popen(
        [sys.executable, "serve.py"],
        cwd=folder,
        env=environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return serving, serving.stdout.readline().strip()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    serving, found = served(tmp_path_factory.mktemp("cluster"))
    yield found
    serving.communicate(timeout=60)


def worker_pids(address):
    with distributed.Client(address, set_as_default=False) as client:
        return list(client.run(os.getpid).values())


def test_the_sweep_of_the_readme_survives_a_killed_worker_and_has_the_bits_of_a_local_one(address, tmp_path):
    words = ["sweep", "lstm", "--over", "forget_bias=0:6:1", "length=20,50", "--hidden", "8"]
    client = started(*words, "-q", "-o", "far.db", "--scheduler", address, cwd=tmp_path)
    killed, deadline = False, time.monotonic() + 150
    while client.poll() is None and time.monotonic() < deadline:
        if not killed and done_in(tmp_path / "far.db") >= 3:
            os.kill(worker_pids(address)[0], signal.SIGKILL)
            killed = True
        time.sleep(0.05)
    out, err = client.communicate(timeout=60)
    assert killed, err
    assert (client.returncode, err) == (0, "")
    assert " of 14 points are healthy; " in out
    assert states(tmp_path / "far.db") == {"done": 14}
    near = gradscope(*words, "-q", "-o", "near.db", cwd=tmp_path)
    assert (near.returncode, near.stdout) == (0, out)
    query = "SELECT key, status, summary, findings FROM runs ORDER BY key"
    assert asked(tmp_path / "far.db", query) == asked(tmp_path / "near.db", query)


def done_in(path):
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as link:
            return link.execute("SELECT COUNT(*) FROM runs WHERE state = 'done'").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def test_a_killed_scheduler_loses_no_finished_run(address, tmp_path):
    (tmp_path / "ends.py").write_text(ENDS)
    words = ["sweep", "ends.py:slow", "--over", "args.seconds=0.3", "seed=0:9:1", *SMALL[:4], "-q", "-o", "s.db"]
    impatient = (
        "import sys; from gradscope.sweeps import dask_cluster; dask_cluster.AWAY = 2.0\n"
        "from gradscope.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    serving, doomed = served(tmp_path)
    command = [sys.executable, "-c", impatient, *words, "--scheduler", doomed]
    client = subprocess.Popen(command, cwd=tmp_path, env=environment({}), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while done_in(tmp_path / "s.db") < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    serving.kill()
    _, err = client.communicate(timeout=60)
    serving.communicate()
    said = f"gradscope: the scheduler at '{doomed}' is gone; what was finished is kept, the same command goes on\n"
    assert (client.returncode, err) == (2, said)
    kept = asked(tmp_path / "s.db", "SELECT key, ended FROM runs WHERE state = 'done'")
    assert 3 <= len(kept) < 10
    assert set(states(tmp_path / "s.db")) == {"done", "waiting"}
    done = gradscope(*words, "--scheduler", address, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert states(tmp_path / "s.db") == {"done": 10}
    assert set(kept) <= set(asked(tmp_path / "s.db", "SELECT key, ended FROM runs"))


def test_the_users_code_is_shipped_and_a_crash_is_one_red_cell(address, tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "layers.py").write_text("WIDTH = 3\n")
    words = ["sweep", "model.py:Tagger", "--over", "args.hidden=4,6,-1", "--length", "12", "--batch", "2", "-o", "s.db"]
    done = gradscope(*words, "--scheduler", address, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    found = asked(tmp_path / "s.db", "SELECT state, reason FROM points JOIN runs USING (key) ORDER BY place")
    assert [state for state, _ in found] == ["done", "done", "failed"]
    assert "cannot build 'model.py:Tagger'" in found[2][1]


def test_other_versions_are_refused_with_the_difference(address):
    with distributed.Client(address, set_as_default=False) as client:
        dask_cluster.refuse_other_versions(client, versions())
        with pytest.raises(UsageError) as found:
            dask_cluster.refuse_other_versions(client, {**versions(), "torch": "9.9"})
    assert f"has torch {versions()['torch']} (here 9.9); install the same versions there" in str(found.value)


def test_a_worker_that_comes_later_with_other_versions_ends_the_sweep(address, tmp_path):
    with distributed.Client(address, set_as_default=False) as client:
        asking = [("claim", dask_cluster.Job(None, 5.0))]
        other = {**versions(), "gradscope": "9.9"}
        dispatch = dask_cluster.Dispatch(client, dask_cluster.Shipped({}), other, address)
        runs = dispatch.run_each(lambda: asking.pop() if asking else None)
        with pytest.raises(UsageError, match=r"gradscope \S+ \(here 9.9\)"):
            list(runs)


def test_files_are_laid_down_again_where_a_scheduler_has_forgotten_them(address):
    with distributed.Client(address, set_as_default=False) as client:
        task = Task("os.path:exists", "here.txt", "", 1)
        asking = [("claim", dask_cluster.Job(task, 60.0))]
        dispatch = dask_cluster.Dispatch(client, dask_cluster.Shipped({"here.txt": b""}), versions(), address)
        first = [one for one in dispatch.run_each(lambda: asking.pop() if asking else None) if one is not None]
        asking.append(("again", dask_cluster.Job(task, 60.0)))
        again = [one for one in dispatch.run_each(lambda: asking.pop() if asking else None) if one is not None]
    assert [(name, ending.killed) for name, ending in first] == [("claim", dask_cluster.ADRIFT)]
    assert [(name, ending.value) for name, ending in again] == [("again", True)]


def test_a_scheduler_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(dask_cluster, "START", 0.5)
    with pytest.raises(UsageError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:1'"):
        dask_cluster.connected("tcp://127.0.0.1:1")


def test_what_is_shipped_is_what_settings_name_below_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("m.py", "beside.py", "data.npy", "pack/__init__.py", "pack/inner/deep.py", "other.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    (tmp_path.parent / "outside.npy").write_text("")
    plan = Plan("analyze", RunSpec(models=("m.py:M",), input="data.npy", target="../outside.npy"), (), (0,))
    assert set(collected(plan)) == {"m.py", "beside.py", "data.npy"}
    plan = Plan("analyze", RunSpec(models=("pack.inner.deep:M",)), (), (0,))
    assert set(collected(plan)) == {str(Path("pack/__init__.py")), str(Path("pack/inner/deep.py"))}
