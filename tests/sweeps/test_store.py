"""The file of a sweep: one row a run, claims that others respect, and files that are not ours."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gradscope.config.axes import read_axes
from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.sweeps import store
from gradscope.sweeps.plan import Plan
from gradscope.sweeps.read_sweep import is_database, read_sweep
from gradscope.sweeps.shipped import collected
from gradscope.sweeps.store import Result, opened
from gradscope.swept import cells


def plan_of(*words, seeds=(0,), models=("lstm",), **settings):
    return Plan("analyze", RunSpec(models=models[:1], **settings), read_axes(words, models, ()), seeds)


def define(store, plan):
    store.define(plan.definition(), [(run.point, run.seed, run.key, "{}") for run in plan.runs()])


DONE = Result("done", "healthy", None, {"reach": 7, "rate": float("-inf"), "needed_lag": 9}, seconds=0.1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.db"


def test_a_run_is_claimed_once_and_its_result_is_kept(path):
    plan = plan_of("forget_bias=0:2:1", length=10)
    with opened(path) as mine, opened(path) as other:
        define(mine, plan)
        define(other, plan)
        claims = [mine.claim(), other.claim(), mine.claim()]
        assert [claim.point for claim in claims] == [0, 1, 2]
        assert mine.claim() is other.claim() is None
        mine.finish(claims[0].key, DONE)
        other.finish(claims[1].key, Result("failed", reason="it fails"))
        mine.give_back()
        assert other.claim().point == 2
        assert mine.counts() == {"done": 1, "failed": 1, "running": 1}
    with opened(path) as again:
        define(again, plan)
        assert again.counts() == {"done": 1, "failed": 1, "running": 1}


def test_what_was_finished_is_not_written_over(path):
    with opened(path) as mine, opened(path) as other:
        define(mine, plan := plan_of("forget_bias=0", length=10))
        define(other, plan)
        key = mine.claim().key
        mine.finish(key, DONE)
        other.finish(key, Result("failed", reason="too late"))
    assert read_sweep(path).runs[0].state == "done"


def test_a_process_whose_claim_ran_out_tells_results_but_no_failures(path, monkeypatch):
    with opened(path) as slow, opened(path) as other:
        define(slow, plan := plan_of("forget_bias=0:1:1", length=10))
        define(other, plan)
        monkeypatch.setattr(store, "LEASE", -1.0)
        claims = [slow.claim(), slow.claim()]
        monkeypatch.setattr(store, "LEASE", 30.0)
        assert [other.claim().key, other.claim().key] == [claim.key for claim in claims]
        slow.finish(claims[0].key, Result("failed", reason="its memory ran out"))
        assert other.counts() == {"running": 2}
        slow.finish(claims[1].key, DONE)
        other.finish(claims[0].key, DONE)
        other.finish(claims[1].key, Result("failed", reason="too late"))
        assert other.counts() == {"done": 2}


def test_failed_runs_are_tried_again_where_that_is_asked_for(path):
    with opened(path) as store:
        define(store, plan_of("forget_bias=0:2:1", length=10))
        store.finish(store.claim().key, DONE)
        store.finish(store.claim().key, Result("failed", reason="its process was killed by SIGSEGV"))
        store.forget_failed()
        assert store.counts() == {"done": 1, "waiting": 2}
        assert [store.claim().point, store.claim().point] == [2, 1]


def test_a_claim_that_is_not_renewed_runs_out(path, monkeypatch):
    with opened(path) as mine, opened(path) as other:
        define(mine, plan := plan_of("forget_bias=0", length=10))
        define(other, plan)
        monkeypatch.setattr(store, "LEASE", -1.0)
        assert mine.claim().tries == 1
        monkeypatch.setattr(store, "LEASE", 30.0)
        assert other.claim().tries == 2
        assert mine.claim() is None


def test_the_claims_of_a_dead_process_of_this_machine_are_free_at_once(path):
    plan = plan_of("forget_bias=0", length=10)
    code = (
        "import sys; from gradscope.sweeps.store import opened\n"
        "with opened(sys.argv[1]) as s:\n"
        "    s.define(sys.argv[2], [(0, 0, 'k', '{}')])\n"
        "    print(s.claim().key); sys.stdout.flush(); import os; os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), plan.definition()], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (9, "k\n")
    with opened(path) as store:
        store.define(plan.definition(), [(0, 0, "k", "{}")])
        assert store.claim() is None
        store.renew()
        assert store.claim().key == "k"


def test_equal_runs_of_two_sweeps_are_one_row(path):
    with opened(path) as store:
        define(store, plan_of("forget_bias=0,1", length=10))
        store.finish(store.claim().key, DONE)
        define(store, plan_of("forget_bias=1,0,2", length=10))
        assert store.counts() == {"done": 1, "waiting": 2}
    with sqlite3.connect(path) as link:
        assert link.execute("SELECT COUNT(*) FROM runs").fetchone() == (3,)
    assert [run.state for run in read_sweep(path).runs] == ["waiting", "done", "waiting"]


def test_the_key_is_a_hash_of_all_that_decides_a_result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = {"length": 10, "models": ("lstm",)}
    (key,) = [run.key for run in plan_of("forget_bias=1", **base).runs()]
    assert key == next(plan_of("forget_bias=1", **base).runs()).key
    others = [
        plan_of("forget_bias=2", **base),
        plan_of("forget_bias=1", models=("lstm",), length=11),
        plan_of("forget_bias=1", seeds=(1,), **base),
        plan_of("forget_bias=1", select=("GS1",), **base),
        Plan("analyze", RunSpec(models=("lstm",), length=10), read_axes(["forget_bias=1"], ["lstm"], ()), (0,), 2),
    ]
    other = plan_of("forget_bias=1", **base)
    others.append(Plan("analyze", other.base, other.axes, (0,), 1, ".", {**other.versions, "torch": "1.0"}))
    keys = [next(plan.runs()).key for plan in others]
    assert len({key, *keys}) == len(others) + 1
    # Showing and failing decide nothing.
    assert next(plan_of("forget_bias=1", fail_on="error", **base).runs()).key == key


def test_the_key_changes_with_the_files_that_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, package = Path("m.py"), Path("pack")
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "m.py").write_text("a = 1\n")
    source.write_text("a = 1\n")
    for word, path in (("m.py:M", source), ("pack.m:M", package / "m.py")):
        plan = plan_of("length=10", models=(word,))
        before = next(plan.runs()).key
        path.write_text("a = 20\n")
        assert next(plan.runs()).key != before


@pytest.mark.parametrize(
    "changed", ["helper.py", "pack/__init__.py", "pack/deep.py", "lib/far.py", "task.py", "given.py"]
)
def test_the_key_changes_with_what_the_named_files_import(tmp_path, monkeypatch, changed):
    monkeypatch.chdir(tmp_path)
    files = {
        "m.py": "import torch\nfrom helper import GAIN\nfrom pack import deep\n",
        "helper.py": "def use():\n    import far\n",
        "pack/__init__.py": "",
        "pack/deep.py": "from . import absent\nfrom .. import helper\n",
        "lib/far.py": "",
        "task.py": "import given\n",
        "given.py": "",
        "other.py": "",
    }
    for path, text in files.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
    plan = plan_of("seed=0", models=("m.py:M",), import_path=("lib",), task="task.py:draw", needs_lag=9)
    before = next(plan.runs()).key
    Path("other.py").write_text("a = 1\n")
    assert next(plan.runs()).key == before
    Path(changed).write_text(f"{files[changed]}a = 1\n")
    assert next(plan.runs()).key != before
    assert changed in {os.path.normpath(path) for path in collected(plan)}


@pytest.mark.parametrize("word", ["src/pack/nets.py:Net", "pack.nets:Net"])
def test_the_key_changes_with_what_is_found_where_python_finds_it(tmp_path, monkeypatch, word):
    """A package below src/, installed so that it can be edited: its own files import each other by their full names."""
    package = tmp_path / "src" / "pack"
    package.mkdir(parents=True)
    for name, text in (("__init__", ""), ("nets", "from pack.layers import Cell\n"), ("layers", "GAIN = 1\n")):
        (package / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    plan = plan_of("seed=0", models=(word,))
    keys = [next(plan.runs()).key]
    for name in ("nets", "layers"):
        (package / f"{name}.py").write_text((package / f"{name}.py").read_text() + "MORE = 2\n")
        keys.append(next(plan.runs()).key)
    assert len(set(keys)) == 3


def test_settings_that_cannot_be_together_are_refused_before_anything_runs():
    with pytest.raises(UsageError, match=r"needs_lag is 40 \(of the sweep\); over 20 steps"):
        list(plan_of("length=50,20", needs_lag=40).runs())


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"not a database, whatever its name", "not a database"), (b"SQLite format 3\0" + b"\0" * 200, "cannot use")],
)
def test_a_file_that_is_no_database_is_left_alone(path, content, said):
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said), opened(path):
        pass
    with pytest.raises(UsageError):
        read_sweep(path)
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_left_alone(path):
    with sqlite3.connect(path) as link:
        link.execute("CREATE TABLE mine (a)")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="database of another program"), opened(path):
        pass
    with pytest.raises(UsageError, match="as a sweep"):
        read_sweep(path)
    assert path.read_bytes() == before


def test_another_version_is_refused(path):
    with opened(path):
        pass
    with sqlite3.connect(path) as link:
        link.execute("UPDATE meta SET value = 'gradscope.sweep/99'")
    with pytest.raises(UsageError, match=r"gradscope.sweep/99"), opened(path):
        pass
    with pytest.raises(UsageError, match="another version"):
        read_sweep(path)


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"cannot use .*nowhere"), opened(tmp_path / "nowhere" / "s.db"):
        pass


def test_a_store_without_a_sweep_and_a_damaged_one_are_said(path):
    with opened(path) as store:
        pass
    with pytest.raises(UsageError, match="holds no sweep yet"):
        read_sweep(path)
    with opened(path) as store:
        store.define("{}", [])
    with pytest.raises(UsageError, match="damaged"):
        read_sweep(path)


def test_the_file_stands_alone_and_is_read_where_nothing_can_be_written(path):
    with opened(path) as store:
        define(store, plan_of("forget_bias=0", length=10))
        store.finish(store.claim().key, DONE)
    assert [name.name for name in path.parent.iterdir()] == ["s.db"]
    assert is_database(str(path))
    os.chmod(path, 0o400)
    found = read_sweep(path)
    assert found.fields == ("reach", "rate", "needed_lag")
    assert found.runs[0].values == (7.0, float("-inf"), 9.0)
    assert read_sweep(path, ("needed_lag", "nothing")).fields == ("needed_lag",)
    assert next(cells(found)).status == "healthy"


def test_every_row_can_be_asked_with_plain_sql(path):
    with opened(path) as store:
        plan = plan_of("forget_bias=0", length=10)
        store.define(plan.definition(), [(0, 0, "k", json.dumps({"forget_bias": "0"}))])
        store.finish(store.claim().key, DONE)
    query = "SELECT json_extract(settings, '$.forget_bias'), json_extract(summary, '$.reach') FROM runs"
    with sqlite3.connect(path) as link:
        assert link.execute(query).fetchall() == [("0", 7)]
