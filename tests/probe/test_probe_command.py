"""`gradscope probe` as it is typed: outcomes, screens, saved reports, exit codes and interruption."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import forked
from gradscope.errors import UsageError
from gradscope.examine import full_report
from gradscope.records import RunSpec
from gradscope.registry import RENDERERS, load
from gradscope.renderers import html_contents
from gradscope.renderers.probe_wording import _glyph
from gradscope.renderers.screen import render
from gradscope.renderers.strips import BLOCKS
from gradscope.renderers.view import View
from gradscope.saved import read_report
from probe.interrupted import interrupted

SHORT = {"task": "recall", "needs_lag": 6, "hidden": 8, "probe": True, "train_steps": 150}


def run(*words, **more):
    return forked.run_text(["-m", "gradscope", *words], **more)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    path = tmp_path_factory.mktemp("probe") / "report.json"
    options = ["--task", "recall", "--lag", "6", "--hidden", "8", "--train-steps", "150", "--fail-on", "error"]
    done = run("probe", "gru:update_bias=2", *options, "-o", str(path))
    return done, path


def test_what_is_learned_is_said_first(learned):
    done, _ = learned
    assert done.returncode == 0, done.stderr
    head = done.stdout.splitlines()[0]
    assert head.startswith(" ✓ LEARNED")
    assert head.endswith("  recall, fixed lag 6  gru:update_bias=2")
    assert "Name the marked symbol among random ones, 6 steps back: learned in" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_outcome_is_saved_and_shown_again(learned):
    done, path = learned
    probe = json.loads(path.read_text())["models"][0]["probe"]
    assert probe["task"] == "recall"
    assert len(probe["runs"]) == 6
    assert {run["rate"] for run in probe["runs"]} == {0.001, 0.003, 0.01}
    assert min(run["learned_at"] for run in probe["runs"] if run["learned_at"]) % 25 == 0
    assert run("show", str(path)).stdout == done.stdout


def test_what_is_not_learned_fails_beside_a_twin_that_learns():
    spec = RunSpec(models=("rnn:init=normal,gain=0.3",), fail_on="error", **{**SHORT, "needs_lag": 12})
    report = full_report(spec, detail=False)
    (model,) = report.models
    assert model.probe.twin is not None
    verdict = next(one for one in model.verdicts if one.code == "GS105")
    assert verdict.status == ("fail" if model.probe.twin.learned else "inconclusive")
    text = render(report, View())
    assert ("NOT LEARNED" in text) == (verdict.status == "fail")
    assert "not within 150 training steps" in " ".join(text.split())
    assert "before training: ✗ VANISHING" in text


def test_what_was_saved_is_on_the_screen_of_a_probe(tmp_path, monkeypatch):
    untrained = "gradscope.fixes.train_remedies.proven"
    monkeypatch.setattr(untrained, lambda source, spec, found, told: tuple(one.record() for one in found))
    asked = {**SHORT, "train_steps": 5, "save": str(tmp_path), "remedy": "chrono"}
    text = render(full_report(RunSpec(models=("lstm",), fix=True, **asked), detail=False), View())
    assert " note: chrono for lstm written to " in " ".join(["", *text.split()])
    assert (tmp_path / "lstm-chrono.safetensors").exists()


class Tagger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.rnn = torch.nn.Embedding(9, 6), torch.nn.LSTM(6, 8, batch_first=True)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, ids):
        return self.head(self.rnn(self.embed(ids))[0])


def test_a_module_of_token_ids_with_its_own_head_is_trained_and_left_alone():
    from gradscope.loading.objects import source_from_object
    from gradscope.probe.run_probe import probe_source

    net = Tagger()
    before = [p.detach().clone() for p in net.parameters()]
    spec = RunSpec(models=("Tagger",), **{**SHORT, "train_steps": 25})
    probe = probe_source(source_from_object(net, "Tagger", spec), spec)
    assert all(torch.equal(a, b) for a, b in zip(before, [p.float() for p in net.parameters()], strict=True))
    assert any("its own 4 outputs are read as the answer" in note for note in probe.notes)
    assert probe.runs[0].steps[-1] == 25
    with pytest.raises(UsageError, match="takes token ids"):
        probe_source(source_from_object(net, "Tagger", spec), RunSpec(**{**SHORT, "task": "adding"}))


def test_a_module_of_other_sizes_gets_a_layer_in_front():
    from gradscope.loading.objects import source_from_object
    from gradscope.probe.run_probe import probe_source

    spec = RunSpec(models=("LSTM",), **{**SHORT, "train_steps": 25})
    probe = probe_source(source_from_object(torch.nn.LSTM(7, 5), "LSTM", spec), spec)
    assert any("5 features enter through a linear layer" in note for note in probe.notes)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("probe", "gru", "--task", "recal"), "did you mean 'recall'"),
        (("probe", "gru", "--task", "adding", "--input", "x.npy"), "brings its own"),
        (("analyze", "gru", "--task", "adding"), "add --lag"),
        (("analyze", "gru", "--probe"), "add --task"),
        (("probe", "gru", "--lags", "wide"), "fixed"),
        (("analyze", "gru", "--save", "x"), "add --fix"),
        (("analyze", "gru", "--fix", "--remedy", "chrono", "--save", "/dev/null/x"), "name a folder"),
    ],
)
def test_what_cannot_be_asked_is_one_line(words, said):
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr


def test_a_target_of_the_gate_can_be_a_probe(tmp_path):
    table = '[tool.gradscope.targets.memory]\nmodel = "gru:update_bias=2,hidden=8"\n'
    table += 'probe = {task = "recall", lag = 6, train-steps = 150}\nselect = ["GS105"]\n'
    (tmp_path / "pyproject.toml").write_text(table)
    done = run("check", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = table.replace("gru:update_bias=2,hidden=8", "rnn:init=normal,gain=0.01,hidden=8").replace(
        "lag = 6", "lag = 10"
    )
    (tmp_path / "pyproject.toml").write_text(table + "[tool.gradscope.thresholds]\nlearned_part = 1.0\n")
    red = run("check", cwd=tmp_path)
    assert (red.returncode, "GS105" in red.stdout) == (1, True), red.stdout
    (tmp_path / "pyproject.toml").write_text(table.replace("lag = 10", "leg = 10"))
    assert "did you mean 'lag'" in run("check", cwd=tmp_path).stderr


def test_markdown_and_pages_say_what_training_showed_before_what_was_said_before_it(learned):
    report = read_report(str(learned[1]))
    text = load(RENDERERS["markdown"])(report, View())
    assert text.startswith("### ✓ LEARNED")
    assert "GS105: <code>gru:update" in text.splitlines()[0]
    told = ("recall, fixed lag 6: Name the marked symbol", "before training: 1x8")
    assert sorted(told, key=text.index) == [*told]
    assert text.count("| 0.01 |") == 2
    lead, parts = html_contents.lead(report), html_contents.parts(report)
    assert (lead.mark.word[:7], lead.mark.code) == ("LEARNED", "GS105")
    assert lead.sentences[0].startswith("recall, fixed lag 6: Name the marked symbol")
    (grid,) = [grid for grid in parts["grids"] if grid.title == "Trainings"]
    assert len(grid.rows) == 6
    assert [head for head in grid.heads if head == "learned at"]


def test_ctrl_c_gives_what_is_known():
    words = ["probe", "rnn", "--task", "recall", "--lag", "30", "--hidden", "8", "--train-steps", "100000"]
    done = interrupted(words, "_see", 20)
    assert (done.returncode, done.stderr) == (130, "")
    assert "interrupted after 20 of 100000 training steps" in " ".join(done.stdout.split())


@pytest.mark.parametrize("error", [float("inf"), float("nan"), -1.0, 1e300])
@pytest.mark.parametrize("goal", [0.1, 0.0, float("nan")])
def test_an_error_beyond_all_numbers_is_drawn(error, goal):
    probe = SimpleNamespace(goal=goal, chance=1.0)
    glyph = _glyph(error, probe, False)
    assert glyph in (*BLOCKS, "?")
    if error > 1 and goal == goal:
        assert glyph == BLOCKS[-1]


def test_answers_of_all_steps_in_one_axis_are_refused_with_the_shape_that_is_asked_for(tmp_path):
    (tmp_path / "flat.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.table, self.rnn = nn.Embedding(9, 6), nn.RNN(6, 8, batch_first=True)\n"
        "        self.head = nn.Linear(8, 9)\n"
        "    def forward(self, ids):\n"
        "        return self.head(self.rnn(self.table(ids))[0]).reshape(-1, 9)\n"
    )
    done = run("probe", f"{tmp_path / 'flat.py'}:Net", "--lag", "5", "--train-steps", "20")
    assert done.returncode == 2
    assert "the model returned (192, 9) for 32 sequences; return (batch, steps, features)" in done.stderr
