"""Probes of the user's own data: what is asked, what is held out, and when older steps count as used."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import forked
from gradscope.errors import UsageError
from gradscope.examine import examine
from gradscope.records import RunSpec
from gradscope.saved import read_report
from gradscope.sequences.tasks.data import data_task, near_sighted

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


def test_what_older_steps_tell_is_learned_and_noise_shows_nothing(folder):
    found = examine(spec(folder, models=("gru:update_bias=2",), target=str(folder / "y.npy"))).models[0].probe
    assert found is not None
    assert (found.unit, found.goal) == ("mse", pytest.approx(0.95 * found.near))
    assert any(run.learned_at is not None for run in found.runs)
    noise = examine(spec(folder, "noise.npy", train_steps=50)).models[0]
    assert noise.probe is not None
    assert noise.probe.twin is not None
    assert noise.probe.twin.learned == 0
    (said,) = [verdict for verdict in noise.verdicts if verdict.code == "GS105"]
    assert said.status == "inconclusive"
    assert f"what lies {LAG} or more steps back in" in said.message


def test_one_answer_a_sequence_is_asked_at_its_end(folder):
    task = data_task(spec(folder, loss="ce", target=str(folder / "classes.npy")), None, None)
    drawn = task.draw(torch.Generator().manual_seed(0), 32, LAG, "fixed")
    assert drawn.x.shape[1] == 30
    assert drawn.target[:, 0].tolist() == (drawn.x[:, 0, 0] > 0).long().tolist()
    assert (task.unit, task.outputs) == ("nats", 2)
    assert task.chance == pytest.approx(math.log(2), abs=0.15)


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
        ({"name": "short.npy", "needs_lag": 6}, "leaves no steps"),
        ({"loss": "ce"}, "needs text or classes"),
        ({"loss": "final"}, "use --loss ce or mse"),
    ],
)
def test_data_that_ask_for_nothing_are_refused(folder, more, said):
    np.save(folder / "short.npy", np.zeros((1, 8, 1), dtype="float32"))
    with pytest.raises(UsageError, match=said):
        data_task(spec(folder, **more), None, None)
