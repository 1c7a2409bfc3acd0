"""Trainings: what is learned, what is not, what is lost, and what is recorded on the way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradscope.models.family import family_model
from gradscope.probe.copies import copies_of
from gradscope.probe.learners import Learners, flow, sight
from gradscope.probe.training import Plan, Setting, Training
from gradscope.registry import TASKS, load


def training(word="gru:update_bias=3", task="recall", lag=6, kind="fixed", steps=150, settings=None, **more):
    name, _, options = word.partition(":")
    given = dict(part.split("=") for part in options.split(",")) if options else {}
    family, task = family_model(name, given, word, {"hidden": 12}), load(TASKS[task])
    settings = settings or [Setting(0.01, seed) for seed in (0, 1)]
    models = [family.build(input_size=task.features, seed=one.seed, dtype=torch.float64) for one in settings]
    learners = Learners(copies_of(models, word), task, [one.seed for one in settings], takes=None, as_ids=False)
    return Training(learners, Plan(task, lag, kind, steps, more.pop("taught", None)), settings, **more)


@pytest.fixture(scope="module")
def learned():
    return training().run()


def test_a_gated_cell_learns_a_short_lag(learned):
    for curve in learned:
        assert curve.learned_at is not None
        assert curve.errors[-1] <= 0.1
        assert curve.steps[-1] == curve.trained == curve.learned_at
        assert curve.errors[0] == pytest.approx(0.75, abs=0.15)


def test_equal_settings_give_equal_curves(learned):
    again = training().run()
    assert [curve.errors for curve in again] == [curve.errors for curve in learned]


def test_a_copy_does_not_depend_on_those_beside_it(learned):
    (alone,) = training(settings=[Setting(0.01, 1)]).run()
    assert alone.errors == pytest.approx(learned[1].errors, abs=0.05)
    assert alone.learned_at == learned[1].learned_at


def test_what_is_not_learned_is_said_so():
    (curve,) = training("rnn:init=normal,gain=0.3", lag=40, steps=30, settings=[Setting(0.001, 0)]).run()
    assert curve.learned_at is None
    assert curve.trained == 30
    assert curve.steps == [0, 25, 30]


def test_the_same_steps_as_torch_takes():
    """One step of the lockstep's training is one step of Adam on the module itself, by torch's own loss."""
    one = training(steps=1, settings=[Setting(0.01, 0)], look=False)
    before = [leaf.detach().clone() for leaf in one.learners.leaves(0)]
    samples = one.plan.task.draw(torch.Generator().manual_seed(0), 32, 6, "fixed")
    module = torch.nn.GRU(5, 12, batch_first=True)
    for name, value in zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), before, strict=False):
        getattr(module, name).data.copy_(value)
    readout, bias = before[4].clone().requires_grad_(), before[5].clone().requires_grad_()
    leaves = [*module.parameters(), readout, bias]
    logits = module(samples.x)[0][:, -1] @ readout + bias
    torch.nn.functional.cross_entropy(logits, samples.target[:, 0]).backward()
    torch.nn.utils.clip_grad_norm_(leaves, 1.0)
    torch.optim.Adam(leaves, 0.01).step()
    one.run()
    for mine, theirs in zip(one.learners.leaves(0), leaves, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_run_that_diverges_is_lost_and_the_others_go_on():
    one = training(
        "rnn:nonlinearity=linear,init=normal,gain=1.5",
        lag=60,
        steps=60,
        settings=[Setting(1e6, 0, clip=None), Setting(1e-4, 0)],
    )
    wild, tame = one.run()
    assert wild.lost_at is not None
    assert wild.trained < 60
    assert tame.trained == 60
    assert tame.lost_at is None


def test_one_is_enough():
    curves = training(settings=[Setting(0.01, 0), Setting(1e-7, 0)], one_is_enough=True).run()
    assert curves[0].learned_at is not None
    assert curves[1].learned_at is None
    assert curves[1].trained == curves[0].trained


def test_lags_of_another_kind_can_be_taught():
    one = training(kind="fixed", taught="spread", lag=9)
    assert float(one.held_out.x[:, 0, -1].min()) == 1
    drawn = one._samples()[0]
    assert float(drawn.x[:, 0, -1].min()) == 0


def test_the_gradients_share_is_the_analysis_own(learned):
    one = training(settings=[Setting(0.01, 0)])
    x = one.watched.x.double().requires_grad_()
    loss = one.learners.task.loss(one.learners.read(x[None], [0]), one.watched.target[None])
    (grads,) = torch.autograd.grad(loss.sum(), x)
    norms = grads.norm(dim=-1).mean(0)
    (seen,) = sight(one.learners, one.watched, [0], 6, 0)
    assert seen.gradient_share == pytest.approx(math.log10(norms[0] / norms.sum()), abs=1e-9)
    by_lag = grads.norm(dim=-1).log().mean(0).flip(0).numpy()
    assert seen.reach == max(lag for lag in range(1, 7) if by_lag[lag] >= by_lag[1] + math.log(0.01))
    assert seen.rate == pytest.approx(np.polyfit(range(1, 7), by_lag[1:], 1)[0], abs=1e-9)
    assert float(flow(one.learners, one.watched, [0]).whole[0]) == pytest.approx(math.log10(norms.sum()), abs=1e-9)
    assert [one.step for one in learned[0].sights][:4] == [0, 1, 2, 5]


def test_the_answer_can_be_asked_for_at_every_step():
    plain, asked = training(lag=9), training(lag=9)
    samples = [plain._samples()[0]] * len(plain.active)
    found = asked.learners.loss(samples, asked.active, everywhere=True)
    one, run = samples[0], asked.active[0]
    states = asked.learners.copies.outputs(one.x[None], [run])[0]
    read = states @ asked.learners.readouts[run] + asked.learners.biases[run]
    each = torch.nn.functional.cross_entropy(
        read.reshape(-1, read.shape[-1]), one.target.repeat(1, read.shape[1]).reshape(-1)
    )
    last = torch.nn.functional.cross_entropy(read[:, -1], one.target[:, 0])
    torch.testing.assert_close(found[0], (each + last) / 2)
    assert float(asked.learners.loss(samples, asked.active)[0].detach()) == pytest.approx(float(last.detach()))
