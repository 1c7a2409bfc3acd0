"""Lines of a training run: written, read again, cut off, damaged, taken up again."""

from __future__ import annotations

import json
import math

import pytest

from gradscope.errors import UsageError
from gradscope.flow_file import CUT, line_of, lines_of, parse_flow, read_flow
from gradscope.renderers.run_wording import json_text
from gradscope.renderers.view import View
from gradscope.trajectory import Head, Point, Skipped, Trajectory, leading
from trajectories import eventful, point, run


def parsed(text: str) -> Trajectory:
    return parse_flow(text.encode(), "'flow.jsonl'")


def test_a_run_survives_being_written_and_read():
    before = eventful()
    after = parsed(lines_of(before))
    assert math.isnan(after.points[-1].loss)
    assert (after.head, after.notes, after.overhead) == (before.head, before.notes, before.overhead)
    assert after.points[:-1] == before.points[:-1]


def test_every_line_is_json_and_only_the_head_has_the_schema():
    head, *rest = (json.loads(line) for line in lines_of(eventful()).splitlines())
    assert head["schema"] == "gradscope.flow/1"
    assert all("schema" not in line for line in rest)


@pytest.mark.parametrize("cut", [2, 5, 60])
def test_a_half_written_last_line_is_read_past(cut):
    text = lines_of(run(point(0), point(10)))
    found = parsed(text[:-cut])
    assert [p.step for p in found.points] == [0]
    assert found.notes == (CUT,)


def test_a_damaged_line_inside_is_named():
    first, second, third = lines_of(run(point(0), point(10))).splitlines()
    with pytest.raises(UsageError, match="line 2"):
        parsed("\n".join([first, second[:-3], third, ""]))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"point": {"step": "far", "kind": "signal"}}', "point.step"),
        ('{"point": {"step": 1, "kind": "guess"}}', "point.kind"),
        ('{"other": 1}', "holds none of"),
        ('{"point": {"step": 1, "kind": "signal", "loss": NaN}}', "bare NaN"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_such_line_is_said(line, said):
    with pytest.raises(UsageError, match=said) as caught:
        parsed(f"{line_of(Head('training', 'net'))}{line}\n")
    assert "line 2" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"schema": "gradscope.report/1"}', b"\x00\xff"])
def test_other_files_are_no_trajectories(content):
    with pytest.raises(UsageError, match="no trajectory"):
        parse_flow(content, "'x'")


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_flow(str(tmp_path / "nowhere.jsonl"))


def test_a_run_that_goes_on_replaces_what_it_measures_again():
    text = lines_of(run(point(0), point(10, 40))) + lines_of(run(point(10, 70), point(20)))
    found = parsed(text)
    assert [(p.step, p.reach) for p in found.points] == [(0, 99), (10, 70), (20, 99)]
    assert "taken up again 1 x" in found.notes[-1]


def test_what_was_skipped_is_kept():
    found = parsed(line_of(Head("checkpoints", "ckpt")) + line_of(Skipped("a.pt", "cut")))
    assert found.skipped == (Skipped("a.pt", "cut"),)


def test_the_layer_that_ends_worst_leads():
    points = (point(0, 90), point(0, 80, layer="top"), point(10, 20), point(10, 80, layer="top"))
    assert {p.layer for p in leading(run(*points))} == {"rnn"}


def test_half_of_a_head_alone_is_one_line():
    half = line_of(Head("training", "net"))[:60]
    with pytest.raises(UsageError, match="half of its first line"):
        parsed(half)


@pytest.mark.parametrize("resumed", [None, 200])
def test_a_run_taken_up_again_drops_what_lies_beyond_the_step_it_goes_on_from(resumed):
    """Steps 300 and 400 are of weights that were thrown away: the run at 250 has a reach of 3."""
    given_up = lines_of(run(point(0, 50), point(100, 50), point(300, 50), point(400, 50)))
    head = line_of(Head("training", "net", 50, resumed=resumed))
    found = parsed(given_up + head + line_of(point(250, 3)))
    assert [(p.step, p.reach) for p in found.points] == [(0, 50), (100, 50), (250, 3)]


def test_a_run_taken_up_again_has_dropped_them_before_its_first_point():
    head = line_of(Head("training", "net", 50, resumed=100))
    assert [p.step for p in parsed(lines_of(run(point(100), point(101))) + head).points] == [100]


def test_a_line_cut_before_a_head_is_read_past():
    text = lines_of(run(point(0), point(10)))
    found = parsed(text[:-5] + "\n" + lines_of(run(point(10, 70), point(20))))
    assert [(p.step, p.reach) for p in found.points] == [(0, 99), (10, 70), (20, 99)]
    assert any("cut off before it was taken up again" in note for note in found.notes)


def test_the_json_of_a_trajectory_is_read_again_as_its_lines_are(tmp_path):
    point = Point(step=3, kind="analysis", reach=7, rate=-math.inf, status="vanishing", gates={"forget": 0.5})
    whole = Trajectory(Head(origin="checkpoints", name="a"), (point,), (Skipped("b.pt", "empty"),), ("a note",))
    (tmp_path / "t.json").write_text(json_text(whole, View()))
    assert read_flow(str(tmp_path / "t.json")) == whole
    (tmp_path / "cut.json").write_text(json_text(whole, View())[:200])
    with pytest.raises(UsageError, match=r"^'.*cut\.json' is damaged: "):
        read_flow(str(tmp_path / "cut.json"))
