"""`gradscope track` on checkpoints as training leaves them: good, cut off, foreign, growing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cli.conftest import Finished, environment, run
from gradscope.errors import UsageError
from gradscope.flow_file import read_flow
from gradscope.monitor.track_checkpoints import Track
from gradscope.records import RunSpec
from gradscope.rules.judge import trajectory_status

MODEL = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(2, 6, batch_first=True), nn.Linear(6, 1)

    def forward(self, x):
        return self.head(self.rnn(x)[0])
"""
SPEC = RunSpec(length=30, needs_lag=20)


def lstm(forget: float) -> nn.LSTM:
    """An LSTM whose forget gates are open as far as its bias says."""
    torch.manual_seed(0)
    made = nn.LSTM(2, 6)
    with torch.no_grad():
        made.weight_hh_l0.mul_(0.1)
        made.weight_ih_l0[6:12].zero_()
        made.bias_ih_l0[6:12] = forget
        made.bias_hh_l0.zero_()
    return made


def save(folder: Path, step: int, forget: float) -> Path:
    path = folder / f"ckpt_{step:03d}.pt"
    torch.save({"model": lstm(forget).state_dict(), "optimizer": {"state": {}, "param_groups": []}}, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that loses the past between steps 20 and 30."""
    ckpt = tmp_path / "ckpt"
    ckpt.mkdir()
    for step, forget in ((0, 6.0), (10, 5.5), (20, 5.0), (30, 0.0), (100, -1.0)):
        save(ckpt, step, forget)
    return ckpt


def tracked(*words: object, module: str | None = None, spec: RunSpec = SPEC) -> Track:
    track = Track([str(word) for word in words], spec, module)
    track.look()
    return track


def test_a_run_that_loses_the_past_says_when_and_what_moved(folder):
    trajectory = tracked(folder / "*.pt").trajectory
    assert [p.step for p in trajectory.points] == [0, 10, 20, 30, 100]
    assert [p.status == "vanishing" for p in trajectory.points] == [False] * 3 + [True] * 2
    assert "number in their names" in trajectory.head.order
    (lost,) = [v for v in trajectory.verdicts if v.code == "GS501"]
    assert (lost.status, lost.first_step) == ("fail", 30)
    assert "ckpt_030.pt" in lost.message
    moved = {change.name: change for change in trajectory.points[3].changes}
    gate = moved["forget bias of model.l0"]
    assert (gate.before, gate.after) == (pytest.approx(5), pytest.approx(0))
    assert moved["model.bias_ih_l0"].moved > 0.5
    assert trajectory.points[0].changes == ()
    assert trajectory.points[0].gates["forget"] > 0.9


def test_files_that_cannot_be_used_are_skipped_with_the_reason(folder):
    whole = (folder / "ckpt_100.pt").read_bytes()
    (folder / "ckpt_110.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "ckpt_120.pt").write_bytes(b"")
    torch.save({"linear.weight": torch.zeros(3, 3)}, folder / "ckpt_130.pt")
    torch.save(nn.GRU(2, 3), folder / "ckpt_140.pt")
    reasons = {one.source: one.reason for one in tracked(folder).trajectory.skipped}
    assert set(reasons) == {"ckpt_110.pt", "ckpt_120.pt", "ckpt_130.pt", "ckpt_140.pt"}
    assert "damaged" in reasons["ckpt_110.pt"]
    assert "holds no recurrence" in reasons["ckpt_130.pt"]
    assert "Python object" in reasons["ckpt_140.pt"]


def test_files_that_are_no_checkpoints_have_no_say_in_the_order(folder):
    torch.save({"opt": 3}, folder / "opt.pt")
    torch.save({"linear.weight": torch.zeros(3, 3)}, folder / "head.pt")
    trajectory = tracked(folder / "*.pt").trajectory
    assert [(p.step, p.source) for p in trajectory.points] == [(s, f"ckpt_{s:03d}.pt") for s in (0, 10, 20, 30, 100)]
    assert trajectory.head.order == "by the number in their names"
    assert {one.source for one in trajectory.skipped} == {"opt.pt", "head.pt"}
    # A checkpoint that nothing tells the step of still leaves all of them to the time they were written.
    torch.save({"model": lstm(1.0).state_dict()}, folder / "best.pt")
    trajectory = tracked(folder / "*.pt").trajectory
    assert [p.step for p in trajectory.points] == [0, 1, 2, 3, 4, 5]
    assert trajectory.points[-1].source == "best.pt"


def test_the_checkpoints_own_counter_comes_first(tmp_path):
    for name, step in (("b", 5), ("a", 50)):
        torch.save({"global_step": step, "state_dict": lstm(5).state_dict()}, tmp_path / f"{name}_{100 - step}.ckpt")
    trajectory = tracked(tmp_path).trajectory
    assert [(p.step, p.source) for p in trajectory.points] == [(5, "b_95.ckpt"), (50, "a_50.ckpt")]
    assert "own counter 'global_step'" in trajectory.head.order


def test_a_module_is_filled_with_each(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    names: dict[str, type[nn.Module]] = {}
    exec(MODEL, names)
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file(names["Net"]().state_dict(), tmp_path / f"checkpoint-{step}" / "model.safetensors")
    trajectory = tracked(tmp_path, module=f"{tmp_path / 'model.py'}:Net").trajectory
    assert [(p.step, p.source) for p in trajectory.points] == [
        (1, "checkpoint-1/model.safetensors"),
        (2, "checkpoint-2/model.safetensors"),
    ]
    assert trajectory.points[1].changes


def test_where_nothing_can_be_measured_the_first_reason_is_the_error(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "a_1.pt")
    with pytest.raises(UsageError, match=r"no checkpoint could be measured.*holds no recurrence"):
        tracked(tmp_path)


def test_looking_again_takes_what_is_new_or_finished(folder):
    whole = save(folder, 110, 5.0).read_bytes()
    (folder / "ckpt_110.pt").write_bytes(whole[:900])
    track = tracked(folder)
    assert [one.source for one in track.trajectory.skipped] == ["ckpt_110.pt"]
    (folder / "ckpt_110.pt").write_bytes(whole)
    assert track.look() == 1
    assert track.look() == 0
    assert [p.step for p in track.trajectory.points][-1] == 110
    assert not track.trajectory.skipped
    assert trajectory_status(track.trajectory) != "vanishing"


def test_weights_that_are_nan_are_found(folder):
    broken = lstm(5.0)
    with torch.no_grad():
        broken.weight_hh_l0[0, 0] = float("nan")
    torch.save(broken.state_dict(), folder / "ckpt_200.pt")
    trajectory = tracked(folder).trajectory
    assert trajectory_status(trajectory) == "non-finite"
    assert "ckpt_200.pt" in next(v.message for v in trajectory.verdicts if v.code == "GS504")


def command(*words: str, cwd: Path) -> Finished:
    return run("-m", "gradscope", "track", *words, cwd=cwd)


def test_the_command_shows_writes_and_fails_where_asked(folder):
    settings = ("ckpt/*.pt", "--length", "30", "--needs-lag", "20", "-o", "flow.jsonl", "--fail-on", "error")
    done = command(*settings, cwd=folder.parent)
    assert (done.code, done.err) == (1, "")
    words = " ".join(done.out.split())
    assert "✗ VANISHING GS501 ckpt/*.pt · 5 checkpoints · steps 0 to 100 · T=30 · needs lag 20" in words
    assert "step 20 → 30:" in words
    assert "→ vanishing (ckpt_030.pt)" in words
    assert "forget bias of model.l0 5 → 0" in words
    assert len(read_flow(str(folder.parent / "flow.jsonl")).points) == 5


@pytest.mark.parametrize(
    ("words", "shown", "code"),
    [
        (("--fail-on", "error"), "EXPLODING GS201", 1),
        (("--fail-on", "never"), "EXPLODING GS201", 0),
        (("--fail-on", "error", "--ignore", "GS201"), "", 0),
    ],
)
def test_a_run_that_explodes_all_along_fails_by_how_it_ends(tmp_path, words, shown, code):
    """W_hh = 1.6 I and relu: each step back multiplies by 1.6; no rule of training is broken."""
    grows = nn.RNN(2, 4, nonlinearity="relu")
    with torch.no_grad():
        grows.weight_hh_l0.copy_(1.6 * torch.eye(4))
        grows.weight_ih_l0.fill_(0.1)
        grows.bias_hh_l0.fill_(1.0)
    for step in (0, 10):
        torch.save({"step": step, **grows.state_dict()}, tmp_path / f"s{step}.pt")
    done = command("s*.pt", "--nonlinearity", "relu", "--length", "40", "--batch", "2", *words, cwd=tmp_path)
    assert done.code == code, done.err
    assert shown in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere/*.pt",), "names no file"),
        (("empty",), "'empty' holds no checkpoint"),
        (("ckpt", "--format", "sarif"), "unknown format 'sarif'"),
        (("ckpt", "--weights", "a.pt"), "--module"),
        (("ckpt", "--interval", "0", "--follow"), "--interval"),
        (("ckpt", "--interval", "3"), "add --follow"),
        (("ckpt", "--hidden", "5"), "hidden is 5 (--hidden), and nothing here reads it: ./ckpt/*.pt takes none"),
        (("ckpt", "--arg", "hidden=5"), "nothing here reads it"),
        (("ckpt", "-o", "flow.gif"), "no suffix"),
    ],
)
def test_wrong_requests_are_one_line(folder, words, said):
    (folder.parent / "empty").mkdir()
    done = command(*words, cwd=folder.parent)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_growing_folder_is_followed_until_ctrl_c(folder):
    settings = ["--interval", "0.2", "--length", "30", "--needs-lag", "20", "-o", "flow.jsonl"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gradscope", "track", "ckpt", "--follow", *settings],
        cwd=folder.parent,
        env=environment(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = folder.parent / "flow.jsonl"
    try:
        wait(lambda: log.exists() and len(read_flow(str(log)).points) == 5)
        save(folder, 110, 5.0)
        wait(lambda: len(read_flow(str(log)).points) == 6)
    finally:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, ""), err
    assert "step 110" in out
    assert "6 checkpoints · steps 0 to 110" in " ".join(out.split())


def wait(until, seconds: float = 90.0) -> None:
    """Until something is so."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)
