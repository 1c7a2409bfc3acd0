"""What a client does with how runs end, told by an engine that only pretends."""

from __future__ import annotations

import pytest

from gradscope.config.axes import read_axes
from gradscope.records import RunSpec
from gradscope.sweeps import run_sweep
from gradscope.sweeps.plan import Plan
from gradscope.sweeps.read_sweep import read_sweep
from gradscope.sweeps.run_point import Outcome
from gradscope.sweeps.run_sweep import Ways, sweep
from gradscope.workers import ADRIFT, Ending

FINE = Ending(Outcome("healthy", None, {"reach": 9}, ("GS302",), ("a note",)), seconds=0.1)
KILLED = Ending(reason="its process was killed by SIGKILL", killed="SIGKILL", lost=True)
LOST = Ending(reason="the cluster lost it", killed=ADRIFT)
PLAN = Plan("analyze", RunSpec(models=("lstm",), length=10), read_axes(["forget_bias=0:3:1"], ["lstm"], ()), (0,))


@pytest.fixture
def ends(monkeypatch):
    """Let runs end as a list says, one after the other, then well."""

    def pretend(endings):
        def with_engine(plan, ways, body):
            def each(take):
                while (asked := take()) is not None:
                    yield asked[0], endings.pop(0) if endings else FINE
                    yield None

            body(each)

        monkeypatch.setattr(run_sweep, "with_engine", with_engine)

    return pretend


def test_progress_keeps_one_label_so_that_an_estimate_can_be_made(ends, tmp_path):
    told = []
    ends([])
    assert sweep(PLAN, tmp_path / "s.db", Ways(), lambda *said: told.append(said)) == {"done": 4}
    assert {(label, total) for label, _, total in told} == {("sweep", 4)}
    counts = [done for _, done, _ in told]
    assert counts == sorted(counts)
    assert counts[-1] == 4
    found = read_sweep(tmp_path / "s.db")
    assert [(run.status, run.values) for run in found.runs] == [("healthy", (9.0,))] * 4


def test_a_killed_run_is_tried_again_so_often_and_a_lost_one_always(ends, tmp_path):
    ends([KILLED, KILLED, KILLED, LOST, LOST, LOST, LOST])
    assert sweep(PLAN, tmp_path / "s.db", Ways(retries=2)) == {"done": 3, "failed": 1}
    failed = [run for run in read_sweep(tmp_path / "s.db").runs if run.state == "failed"]
    assert [run.reason for run in failed] == ["its process was killed by SIGKILL"]
    ends([])
    assert sweep(PLAN, tmp_path / "s.db", Ways()) == {"done": 3, "failed": 1}
    assert sweep(PLAN, tmp_path / "s.db", Ways(retry_failed=True)) == {"done": 4}


def test_an_interrupted_client_gives_back_what_it_had_claimed(tmp_path, monkeypatch):
    def with_engine(plan, ways, body):
        def each(take):
            take()
            yield take()[0], FINE
            raise KeyboardInterrupt

        body(each)

    monkeypatch.setattr(run_sweep, "with_engine", with_engine)
    with pytest.raises(KeyboardInterrupt):
        sweep(PLAN, tmp_path / "s.db", Ways())
    assert [run.state for run in read_sweep(tmp_path / "s.db").runs] == ["waiting", "done", "waiting", "waiting"]
