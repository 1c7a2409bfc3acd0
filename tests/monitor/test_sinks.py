"""Sinks: what reaches each, with the real library where it is installed; a sink that fails costs one warning."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradscope.errors import UsageError
from gradscope.flow_file import lines_of, read_flow
from gradscope.monitor.run_log import Record
from gradscope.monitor.sinks import finite, image, scalars, sinks_of
from gradscope.trajectory import Head, Point
from trajectories import eventful, point, run

HEAD = Head("training", "net", 50)


def recorded(*sinks: object, log: Path | None = None) -> Record:
    """Everything of an eventful run, sent to sinks."""
    record = Record(HEAD, log, sinks, screen=False, append=False)
    for one in eventful().points:
        record.point(one)
    record.note("said")
    record.close(0.01)
    return record


def test_anything_with_log_gets_numbers_by_step():
    class Run:
        def __init__(self) -> None:
            self.seen: list[tuple[int, dict[str, float]]] = []

        def log(self, values: dict[str, float], step: int) -> None:
            self.seen.append((step, values))

    run = Run()
    recorded(run)
    assert [step for step, _ in run.seen] == [0, 10, 20, 20, 30]
    assert run.seen[0][1]["gradscope/rnn/reach"] == 99.0
    assert run.seen[0][1]["gradscope/rnn/log10_norm_raw"] == 1.5
    assert run.seen[3][1]["gradscope/rnn/analysis/gate/forget"] == 0.2
    assert run.seen[2][1]["gradscope/rnn/healthy"] == 0.0


def test_a_function_serves_as_well():
    seen: list[int] = []
    recorded(lambda values, step: seen.append(step))
    assert seen == [0, 10, 20, 20, 30]


def test_what_is_zero_is_a_floor_and_not_dropped():
    values = finite(scalars(point(3, share=-math.inf)))
    assert values["gradscope/rnn/gradient_share"] == -400.0


def test_a_sink_that_fails_is_one_warning_and_the_others_go_on(tmp_path):
    def broken(values: dict[str, float], step: int) -> None:
        raise OSError("the service is down")

    log = tmp_path / "flow.jsonl"
    with pytest.warns(UserWarning, match="LoggerSink failed and is left out .*the service is down") as caught:
        recorded(broken, log=log)
    assert len(caught) == 1
    assert len(log.read_text().splitlines()) == 8


def test_two_monitors_at_a_time_write_a_file_each(tmp_path):
    log = tmp_path / "flow.jsonl"
    first = Record(HEAD, log, (), screen=False, append=False)
    first.point(point(0))
    second = Record(HEAD, log, (), screen=False, append=False)
    first.point(point(10))
    second.point(point(0, 3))
    assert [list(record.notes) for record in (first, second)] == [
        [],
        [
            f"another Monitor is writing '{log}'; this one "
            f"writes '{tmp_path / 'flow-2.jsonl'}': close() the other, or log="
        ],
    ]
    first.close(None), second.close(None)
    assert [p.step for p in read_flow(str(log)).points] == [0, 10]
    assert [p.reach for p in read_flow(str(tmp_path / "flow-2.jsonl")).points] == [3]
    third = Record(HEAD, log, (), screen=False, append=False)
    third.close(None)
    assert read_flow(str(log)).points == ()


def test_two_processes_at_a_time_write_a_file_each(tmp_path):
    first = Record(HEAD, tmp_path / "flow.jsonl", (), screen=False, append=False)
    first.point(point(0))
    in_a_process(SEND.replace("None, [NAME]", "'flow.jsonl', []") + "record.close(None)\n", tmp_path)
    first.point(point(10))
    first.close(None)
    assert [p.step for p in read_flow(str(tmp_path / "flow.jsonl")).points] == [0, 10]
    assert len(read_flow(str(tmp_path / "flow-2.jsonl")).points) == 5


def test_a_log_that_ends_within_a_line_is_gone_on_with_on_a_new_one(tmp_path):
    log = tmp_path / "flow.jsonl"
    log.write_text(lines_of(run(point(0), point(10)))[:-5])
    record = Record(HEAD, log, (), screen=False, append=True)
    record.point(point(20))
    record.close(None)
    assert [p.step for p in read_flow(str(log)).points] == [0, 20]


@pytest.mark.parametrize("given", [3, "tensorbord"])
def test_what_is_no_sink_is_refused(given):
    with pytest.raises(UsageError, match="sink"):
        sinks_of(None, [given], append=False)


def test_a_sink_of_your_own_gets_everything():
    class Mine:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def begin(self, head: Head) -> None:
            self.seen.append(head.name)

        def point(self, point: Point) -> None:
            self.seen.append(str(point.step))

        def note(self, text: str) -> None:
            self.seen.append(text)

        def end(self, trajectory: object) -> None:
            self.seen.append("end")

    mine = Mine()
    recorded(mine)
    assert mine.seen == ["net", "0", "10", "20", "20", "30", "said", "end"]


def test_the_image_is_dark_where_nothing_arrives():
    faint = point(40, lags=(0, 1, 10, 99), log10_influence=(0.0, 0.0, -6.0, None))
    picture = image([*eventful().points, faint])
    assert picture.shape == (240, 240)
    picture = picture[::60, ::120]
    assert picture.shape == (4, 2)
    torch.testing.assert_close(picture[:, 1], torch.tensor([1.0, 1.0, 0.5, 0.0]))


def test_the_image_of_a_run_whose_lag_one_is_zero_is_beside_what_there_is():
    cut = point(0, None, lags=(0, 1, 2, 4), log10_influence=(0.0, -math.inf, -6.0, math.inf))
    torch.testing.assert_close(image([cut])[::60, 0], torch.tensor([1.0, 0.0, 0.5, 1.0]))


def test_tensorboard_gets_curves_and_an_image(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        recorded(writer)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("gradscope/rnn/reach")] == [99.0, 60.0, 12.0]
    assert events.Tags()["images"] == ["gradscope/rnn/influence"]
    assert (events.Images("gradscope/rnn/influence")[0].height, events.Images("gradscope/rnn/influence")[0].width) >= (
        240,
        240,
    )


def in_a_process(code: str, folder: Path, **extra: str) -> str:
    """A library with threads and services of its own is kept out of the test's process."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(folder), **extra}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environ, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


SEND = """
from gradscope.monitor.run_log import Record
from gradscope.trajectory import Head
from trajectories import eventful
record = Record(Head("training", "net", 50), None, [NAME], screen=False, append=False)
for one in eventful().points:
    record.point(one)
"""


def test_wandb_gets_the_numbers(tmp_path):
    pytest.importorskip("wandb")
    code = SEND.replace("NAME", "'wandb'") + (
        "import wandb, json\n"
        "print(json.dumps({k: v for k, v in dict(wandb.run.summary).items() if k.startswith('gradscope')}))\n"
        "record.close(None)\n"
        "assert wandb.run is None\n"
    )
    out = in_a_process(code, tmp_path, WANDB_MODE="offline", WANDB_SILENT="true")
    assert json.loads(out.splitlines()[-1])["gradscope/rnn/reach"] == 12.0


WITH_OWN = """
import glob, json, os, struct, wandb
from wandb.proto import wandb_internal_pb2 as pb
from gradscope.monitor.run_log import Record
from gradscope.trajectory import Head
from trajectories import point

def stored(path):
    '''Records of a file of wandb: blocks of 32 kB, of chunks with a checksum, a length and a part number.'''
    content, place, begun = open(path, "rb").read(), 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, part = struct.unpack("<IHB", content[place:place + 7])
        begun = begun + content[place + 7:place + 7 + size] if part in (3, 4) else content[place + 7:place + 7 + size]
        place += 7 + size
        if part in (1, 4):
            record = pb.Record()
            record.ParseFromString(begun)
            if record.WhichOneof("record_type") == "history":
                yield {(".".join(i.nested_key) or i.key): json.loads(i.value_json) for i in record.history.item}

def as_it_counts(run, step): run.log({'loss': step})
def twice(run, step): run.log({'loss': step}); run.log({'other': step})
def by_step(run, step): run.log({'loss': step}, step=step)
def by_epoch(run, step): step % 6 == 5 and run.log({'loss': step}, step=step // 6)

for log in (as_it_counts, twice, by_step, by_epoch):
    os.makedirs(log.__name__)
    run = wandb.init(project="p", dir=log.__name__)
    record = Record(Head("training", "net", 50), None, [run if log is twice else "wandb"], screen=False, append=False)
    for step in range(12):
        if step % 3 == 0:
            record.point(point(step, 90 - step))
            record.point(point(step, 50, layer="top"))
        log(run, step)
    record.close(None)
    run.finish()

wandb.teardown()  # which waits until everything is on the disk
said = {}
for log in (as_it_counts, twice, by_step, by_epoch):
    rows = list(stored(glob.glob(f"{log.__name__}/wandb/offline-run*/*.wandb")[0]))
    names = ["gradscope/step", "gradscope/rnn/reach", "gradscope/top/reach"]
    ours = [[row[name] for name in names] for row in rows if names[0] in row]
    said[log.__name__] = [ours, [row["loss"] for row in rows if "loss" in row]]
print(json.dumps(said))
"""


def test_wandb_keeps_every_point_and_every_row_of_the_users_own(tmp_path):
    pytest.importorskip("wandb")
    out = in_a_process(WITH_OWN, tmp_path, WANDB_MODE="offline", WANDB_SILENT="true")
    for log, (reach, losses) in json.loads(out.splitlines()[-1]).items():
        assert sorted(reach) == [[step, 90 - step, 50] for step in (0, 3, 6, 9)], log
        assert losses == ([5, 11] if log == "by_epoch" else list(range(12))), log


def test_trackio_uses_the_run_that_is_there_and_leaves_it_open(tmp_path):
    pytest.importorskip("trackio")
    code = (
        "import trackio; own = trackio.init(project='mine')\n"
        + SEND.replace("NAME", "'trackio'")
        + "record.close(None)\nassert trackio.context_vars.current_run.get() is own\n"
        "trackio.log({'final': 1})\ntrackio.finish()\n"
    )
    in_a_process(code, tmp_path, TRACKIO_DIR=str(tmp_path / "store"))
    stores = {path.name for path in (tmp_path / "store").glob("*.db")}
    assert "mine.db" in stores
    assert "gradscope.db" not in stores


def test_trackio_gets_the_numbers(tmp_path):
    pytest.importorskip("trackio")
    code = SEND.replace("NAME", "'trackio'") + "record.close(None)\n"
    in_a_process(code, tmp_path, TRACKIO_DIR=str(tmp_path / "store"))
    assert any(b"gradscope/rnn/reach" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
