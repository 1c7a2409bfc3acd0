"""Probes of the user's own data: what is asked, what is held out, and when older steps count as used."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

import forked
from gradscope.errors import UsageError
from gradscope.examine import full_report
from gradscope.loading.from_word import source_of
from gradscope.loading.objects import source_from_object
from gradscope.models.token_models import TokenIds
from gradscope.probe import run_probe as probe_run
from gradscope.probe.run_probe import probe_source
from gradscope.records import Report, RunSpec
from gradscope.renderers.screen import render
from gradscope.renderers.view import View
from gradscope.rules.judge import with_verdicts
from gradscope.saved import read_report
from gradscope.sequences.data_task import data_task, goal_of, near_sighted, one_hot_ids
from gradscope.sequences.losses import make_loss
from gradscope.sequences.make_batch import make_batch
from probe.interrupted import interrupted

LAG = 4


@pytest.fixture
def folder(tmp_path):
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(60, 30, 2, generator=drawn)
    y = torch.zeros(60, 30, 3)
    y[:, 6:, 0], y[:, :, 1] = x[:, :-6, 0], x[:, :, 1]
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", y.numpy())
    np.save(tmp_path / "noise.npy", torch.randn(60, 20, 1, generator=drawn).numpy())
    np.save(tmp_path / "classes.npy", (x[:, 0, 0] > 0).long().numpy())
    return tmp_path


def spec(folder, name="x.npy", **more):
    given = {"models": ("gru",), "input": str(folder / name), "loss": "mse", "needs_lag": LAG, "hidden": 12}
    return RunSpec(**{**given, "probe": True, "train_steps": 200, **more})


def test_a_sample_asks_for_the_target_of_its_last_step(folder):
    task = data_task(spec(folder, target=str(folder / "y.npy")), None, None)
    x, y = (torch.from_numpy(np.load(folder / name)) for name in ("x.npy", "y.npy"))
    drawn = task.draw(torch.Generator().manual_seed(1), 64, LAG, "fixed")
    assert drawn.x.shape == (64, 2 * LAG, 2)
    for sample, target in zip(drawn.x, drawn.target, strict=True):
        (row, end), *more = ((x[..., 1] == sample[-1, 1]).nonzero()).tolist()
        assert not more
        assert row < 48
        torch.testing.assert_close(x[row, end - 2 * LAG + 1 : end + 1], sample)
        torch.testing.assert_close(y[row, end], target[0])


def test_what_is_held_out_is_never_trained_on(folder):
    many = data_task(spec(folder), None, None)
    assert many.draw_apart is not None
    x = torch.from_numpy(np.load(folder / "x.npy"))
    apart = many.draw_apart(torch.Generator().manual_seed(1), 64, LAG, "fixed").x
    assert all(int((x[..., 1] == one[-1, 1]).nonzero()[0, 0]) >= 48 for one in apart)
    np.save(folder / "one.npy", np.arange(200.0, dtype="float32")[None, :, None])
    single = data_task(spec(folder, "one.npy"), None, None)
    assert single.draw_apart is not None
    trained, tested = (
        draw(torch.Generator().manual_seed(1), 500, LAG, "fixed") for draw in (single.draw, single.draw_apart)
    )
    assert float(trained.target.max()) < float(tested.target.min())


def test_the_loss_is_torchs_own_and_the_blind_answer_is_worth_what_it_is(folder):
    task = data_task(spec(folder, target=str(folder / "y.npy")), None, None)
    read, drawn = torch.randn(2, 64, 1, 3), task.draw(torch.Generator().manual_seed(1), 64, LAG, "fixed")
    found = task.loss(read, drawn.target.expand(2, *drawn.target.shape))
    for one, value in zip(read, found, strict=True):
        torch.testing.assert_close(value, torch.nn.functional.mse_loss(one, drawn.target))
    assert task.draw_apart is not None
    many = task.draw_apart(torch.Generator().manual_seed(2), 4000, LAG, "fixed").target
    assert float((many - many.mean(0)).square().mean()) == pytest.approx(task.chance, rel=0.05)


def test_the_near_sighted_see_the_newest_steps_of_the_same_samples(folder):
    task = data_task(spec(folder), None, None)
    whole, near = (
        one.draw(torch.Generator().manual_seed(3), 8, LAG, "fixed") for one in (task, near_sighted(task, LAG))
    )
    torch.testing.assert_close(near.x, whole.x[:, -LAG:])
    torch.testing.assert_close(near.target, whole.target)


def gs105(model):
    (said,) = [verdict for verdict in model.verdicts if verdict.code == "GS105"]
    return said


def test_what_older_steps_tell_is_learned_and_noise_shows_nothing(folder):
    model = full_report(spec(folder, models=("gru:update_bias=2",), target=str(folder / "y.npy"))).models[0]
    found = model.probe
    assert found is not None
    assert (found.unit, found.goal) == ("mse", pytest.approx(0.95 * found.near))
    assert sum(run.learned_at is not None for run in found.runs) > 1
    assert gs105(model).status == "pass"
    noise = full_report(spec(folder, "noise.npy", train_steps=50)).models[0]
    assert noise.probe is not None
    assert noise.probe.twin is not None
    assert noise.probe.twin.learned == 0
    assert gs105(noise).status == "inconclusive"
    assert f"what lies {LAG} or more steps back in" in gs105(noise).message


def test_where_the_newest_steps_tell_it_all_nothing_is_shown(folder):
    t = torch.arange(30) + 3 * torch.arange(40)[:, None]
    np.save(folder / "alternating.npy", (t % 2).float()[..., None].numpy())
    model = full_report(spec(folder, "alternating.npy", models=("gru:hidden=16",), train_steps=300)).models[0]
    assert model.probe is not None
    assert (model.probe.runs, model.probe.twin, model.probe.complete) == ((), None, True)
    assert gs105(model).status == "inconclusive"
    text = render(Report(spec(folder), {}, (model,)), View(width=80))
    assert text.startswith(" ? nothing shown  ")
    assert "nothing below to learn" in " ".join(text.split())


def test_the_goal_is_below_what_is_known_without_older_steps():
    assert goal_of(0.0049, 0.5) is None
    assert goal_of(0.4, 0.5) == pytest.approx(0.38)
    assert goal_of(0.02, 0.5) == pytest.approx(0.015)
    # Short of a blind answer nothing was learned at all.
    assert goal_of(0.9, 0.5) == pytest.approx(0.475)


def test_a_value_a_sequence_is_asked_at_its_end(folder):
    x = np.load(folder / "x.npy")
    for shape in ((60,), (60, 1)):
        np.save(folder / "once.npy", x[:, 3, 0].reshape(shape))
        task = data_task(spec(folder, target=str(folder / "once.npy")), None, None)
        drawn = task.draw(torch.Generator().manual_seed(0), 32, LAG, "fixed")
        assert drawn.x.shape[1] == 30
        torch.testing.assert_close(drawn.target[:, 0, 0], drawn.x[:, 3, 0])
        assert "one target value per sequence" in task.notes
    (folder / "last.py").write_text(
        "import torch\n\n\nclass Last(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.rnn, self.head = torch.nn.GRU(2, 6, batch_first=True), torch.nn.Linear(6, 1)\n\n"
        "    def forward(self, x):\n        return self.head(self.rnn(x)[0][:, -1])[:, 0]\n"
    )
    asked = spec(folder, target=str(folder / "once.npy"), models=(f"{folder / 'last.py'}:Last",), train_steps=25)
    assert full_report(asked).models[0].probe is not None


def test_a_loss_of_one_value_a_sequence_is_torchs_own(folder):
    asked = spec(folder, target=str(folder / "classes.npy"), probe=False)
    batch = make_batch(asked, seed=0)
    output = torch.randn(60, 30, 1, dtype=torch.float64)
    wanted = torch.from_numpy(np.load(folder / "classes.npy")).double()
    expected = torch.nn.functional.mse_loss(output[:, -1, 0], wanted, reduction="sum")
    for given in (output, output[:, -1], output[:, -1, 0]):
        torch.testing.assert_close(make_loss(asked, batch, seed=0)(given), expected)


def test_one_run_of_six_may_be_luck(folder):
    model = full_report(
        spec(folder, models=("gru:update_bias=2",), target=str(folder / "y.npy"), train_steps=25)
    ).models[0]
    assert model.probe is not None
    first, *rest = (replace(run, learned_at=None) for run in model.probe.runs)
    lucky = replace(model, probe=replace(model.probe, runs=(replace(first, learned_at=25), *rest)))
    assert gs105(with_verdicts(lucky, spec(folder))).status == "inconclusive"
    lucky = replace(lucky, probe=replace(lucky.probe, near=None))
    assert gs105(with_verdicts(lucky, spec(folder))).status == "pass"


def test_a_remedy_is_held_to_what_it_comes_to_itself(folder, monkeypatch):
    """Not to what the model comes to that it was made of: fitting the newest steps better is not hearing older ones."""
    asked = []
    measured = probe_run.goal_of
    monkeypatch.setattr(probe_run, "goal_of", lambda near, chance: asked.append(near) or measured(near, chance))
    full_report(spec(folder, "noise.npy", models=("rnn",), train_steps=25, fix=True))
    # The model, its twin, and three remedies.
    assert len(asked) == len(set(asked)) == 5


def test_a_model_of_token_ids_has_a_twin_that_reads_them(folder):
    (folder / "ids.py").write_text(
        "import torch\n\n\nclass Reader(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.embed, self.rnn = torch.nn.Embedding(5, 4), torch.nn.GRU(4, 6, batch_first=True)\n"
        "        self.head = torch.nn.Linear(6, 5)\n\n    def forward(self, ids):\n"
        "        return self.head(self.rnn(self.embed(ids))[0])\n"
    )
    np.save(folder / "ids.npy", np.random.default_rng(0).integers(0, 5, (30, 16)))
    asked = spec(folder, "ids.npy", models=(f"{folder / 'ids.py'}:Reader",), loss="ce", train_steps=25)
    probe = full_report(asked).models[0].probe
    assert probe is not None
    assert probe.unit == "nats"
    assert probe.twin is not None
    ids = data_task(asked, None, TokenIds(5, 5))
    shown = one_hot_ids(ids, 5).draw(torch.Generator().manual_seed(0), 4, LAG, "fixed")
    plain = ids.draw(torch.Generator().manual_seed(0), 4, LAG, "fixed")
    assert shown.x.argmax(-1).tolist() == plain.x[..., 0].long().tolist()
    assert shown.target.tolist() == plain.target.tolist()


def test_ctrl_c_while_the_goal_is_measured(folder):
    words = ["probe", "gru", "--input", "noise.npy", "--lag", "4", "--hidden", "8"]
    done = interrupted(words, "_evaluate", 25, folder)
    assert (done.returncode, done.stderr) == (130, "")
    assert "interrupted while what those steps allow was measured" in " ".join(done.stdout.split())


def test_settings_of_the_environment_count_like_flags(folder):
    more = {"GRADSCOPE_INPUT": str(folder / "x.npy"), "GRADSCOPE_LOSS": "ce", "GRADSCOPE_NEEDS_LAG": "4"}
    words = ["probe", "gru", "--target", str(folder / "classes.npy"), "--hidden", "4", "--train-steps", "1"]
    done = forked.run_text(["-m", "gradscope", *words], env={**os.environ, **forked.USUAL, **more})
    assert done.returncode == 0, done.stderr
    assert "Predict 2 classes better than the newest 4 steps allow" in " ".join(done.stdout.split())


def test_numbers_that_no_training_survives_are_refused(folder):
    np.save(folder / "huge.npy", np.random.default_rng(0).standard_normal((20, 20, 1)).astype("float32") * 1e25)
    with pytest.raises(UsageError, match="scale the data"):
        probe_source(source_of("gru", spec(folder)), spec(folder, "huge.npy", train_steps=25))


def test_one_answer_a_sequence_is_asked_at_its_end(folder):
    task = data_task(spec(folder, loss="ce", target=str(folder / "classes.npy")), None, None)
    drawn = task.draw(torch.Generator().manual_seed(0), 32, LAG, "fixed")
    assert drawn.x.shape[1] == 30
    assert drawn.target[:, 0].tolist() == (drawn.x[:, 0, 0] > 0).long().tolist()
    assert (task.unit, task.outputs) == ("nats", 2)
    assert task.chance == pytest.approx(math.log(2), abs=0.15)


@pytest.mark.parametrize(("width", "asked"), [(6, 6), (3, 3), (1, 2)])
def test_classes_are_those_of_the_models_own_outputs(folder, width, asked):
    """The file has the classes 0 and 1; a head of six knows more, one number is the logit of two."""

    class Answers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = torch.nn.GRU(2, 4, batch_first=True), torch.nn.Linear(4, width)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    own = spec(folder, loss="ce", target=str(folder / "classes.npy"))
    assert probe_run._plan(source_from_object(Answers, "Answers", own), own).task.outputs == asked
    assert probe_run._plan(source_of("gru", own), own).task.outputs == 2
    np.save(folder / "classes.npy", np.arange(60) % 7)
    said = rf"classes.npy' has class 6, Answers has {width} outputs?; give it 7, or classes from 0 to {asked - 1}$"
    with pytest.raises(UsageError, match=said):
        probe_run._plan(source_from_object(Answers, "Answers", own), own)


def test_text_through_the_command(tmp_path):
    words = ["probe", "lstm", "--text", "abcabdabeabcabdabe" * 12, "--tokens", "char", "--lag", "3"]
    path = tmp_path / "r.json"
    done = forked.run_text(["-m", "gradscope", *words, "--hidden", "8", "--train-steps", "50", "-o", str(path)])
    assert done.returncode == 0, done.stderr
    assert "Predict the next of 5 tokens better than the newest 3 steps allow" in " ".join(done.stdout.split())
    assert "cross-entropy in nats" in done.stdout
    (model,) = read_report(str(path)).models
    assert model.probe is not None
    assert model.probe.near is not None
    shown = forked.run_text(["-m", "gradscope", "show", str(path)])
    assert shown.stdout == done.stdout


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"needs_lag": 29}, "lower --lag"),
        ({"name": "short.npy", "needs_lag": 6}, "too long to train and to test on"),
        ({"name": "constant.npy"}, "the same answer everywhere"),
        ({"loss": "ce"}, "needs text or classes"),
        ({"loss": "final"}, "use --loss ce or mse"),
    ],
)
def test_data_that_ask_for_nothing_are_refused(folder, more, said):
    np.save(folder / "short.npy", np.zeros((1, 8, 1), dtype="float32"))
    np.save(folder / "constant.npy", np.ones((20, 20, 1), dtype="float32"))
    with pytest.raises(UsageError, match=said):
        data_task(spec(folder, **more), None, None)
