"""A Monitor in a training loop: it changes nothing, and says what happens."""

from __future__ import annotations

import copy
import math
import random
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.errors import UsageError
from gradscope.flow_file import read_flow
from gradscope.monitor.measuring import Clock, has_moved, is_analysis_due, is_signal_due
from gradscope.monitor.monitor import Monitor
from gradscope.records import RunSpec
from gradscope.renderers.run_screen import render
from gradscope.renderers.view import View
from gradscope.rules.judge import trajectory_status, trajectory_with_verdicts
from gradscope.trajectory import Trajectory
from trajectories import point


class Net(nn.Module):
    """A recurrent layer with dropout, norm and head: everything that has a mode or draws random numbers."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, layers: int = 2) -> None:
        super().__init__()
        self.rnn = kind(2, 8, layers, batch_first=True, dropout=0.2 if layers > 1 else 0.0)
        self.norm, self.drop, self.head = nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.rnn(x)[0][:, -1]))).squeeze(-1)


class Loop(nn.Module):
    """A recurrence of its own, with no layer of torch.nn to listen to."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(2, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 8)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h).squeeze(-1)


def quiet(model: nn.Module, **settings: object) -> Monitor:
    return Monitor(model, **{"log": None, "screen": False, "every": 5, "needs_lag": 6, **settings})


def train(
    model: nn.Module,
    flow: Monitor | None,
    steps: int = 12,
    explicit: bool = True,
    clip: Callable[[nn.Module], object] | None = None,
    backwards: int = 1,
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(backwards):
            x = torch.rand(6, 10, 2)
            loss = (model(x) - x[:, 0, 0]).square().mean()
            loss.backward()
            if flow is not None and explicit:
                flow.step(loss, x)
        if clip is not None:
            clip(model)
        optimizer.step()
    if flow is not None:
        flow.close()


def state(model: nn.Module) -> list[Tensor]:
    return [*(p.detach().clone() for p in model.parameters()), *(b.clone() for b in model.buffers())]


@pytest.mark.parametrize("explicit", [True, False], ids=["step", "hooks alone"])
@pytest.mark.parametrize("made", [Net, lambda: Net(nn.GRU, 1), Loop], ids=["lstm", "gru", "own loop"])
def test_training_is_the_same_bit_by_bit_with_and_without(made, explicit):
    ends = []
    for watched in (True, False):
        torch.manual_seed(0)
        random.seed(0)
        numpy.random.seed(0)
        model = made()
        flow = quiet(model, budget=1e9, every=1) if watched else None
        train(model, flow, explicit=explicit)
        drawn = torch.rand(3), random.random(), numpy.random.rand()
        ends.append((state(model), drawn, [m.training for m in model.modules()], torch.get_num_threads()))
        if flow is not None:
            kinds = {p.kind for p in flow.trajectory.points}
            assert kinds == ({"analysis"} if isinstance(model, Loop) else {"analysis", "signal"})
    (one, drawn, modes, threads), (other, also, same, count) = ends
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(drawn[0], also[0])
    assert (drawn[1:], modes, threads) == (also[1:], same, count)


def test_gradients_are_the_same_and_nothing_hangs_on_the_model_afterwards():
    torch.manual_seed(0)
    model = Net()
    other = copy.deepcopy(model)
    flow, x = quiet(model), torch.rand(6, 10, 2)
    for one in (model, other):
        torch.manual_seed(1)
        one(x).sum().backward()
    flow.step(1.0, x)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    copied = copy.deepcopy(model)
    flow.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters() if p._post_accumulate_grad_hooks)
    assert copied.rnn.weight_hh_l0.shape == model.rnn.weight_hh_l0.shape


def test_signals_come_early_and_often_and_steps_are_updates(tmp_path):
    model = Net()
    flow = quiet(model, log=tmp_path / "flow.jsonl")
    train(model, flow, steps=12)
    signals = [p.step for p in flow.trajectory.points if p.kind == "signal"]
    assert signals == [0, 1, 2, 4, 5, 10, 12]
    written = read_flow(str(tmp_path / "flow.jsonl"))
    assert [p.step for p in written.points] == [p.step for p in flow.trajectory.points]
    assert written.head.layers == ("rnn",)
    assert written.overhead is not None
    assert all(p.loss is not None for p in written.points if p.step < 12)


def test_accumulated_gradients_are_one_step():
    torch.manual_seed(0)
    model = Net()
    flow = quiet(model)
    train(model, flow, steps=6, backwards=3)
    points = [p for p in flow.trajectory.points if p.kind == "signal"]
    assert [p.step for p in points] == [0, 1, 2, 4, 5, 6]
    assert {p.norms.backwards for p in points[:-1]} == {3}


def test_norms_are_raw_and_clipped_and_the_screen_says_so():
    torch.manual_seed(0)
    model = Net()
    flow = quiet(model)
    raws = []
    train(model, flow, clip=lambda m: raws.append(float(nn.utils.clip_grad_norm_(m.parameters(), 0.01))))
    first = flow.trajectory.points[0].norms
    assert first.log10_raw == pytest.approx(math.log10(raws[0]), abs=1e-5)
    assert first.log10_clipped == pytest.approx(-2, abs=1e-3)
    assert first.cosine == pytest.approx(1, abs=1e-6)


def test_clipping_by_value_turns_the_gradient_and_fires():
    torch.manual_seed(0)
    model = Net(nn.RNN, 1)
    flow = quiet(model, every=1)
    train(model, flow, clip=lambda m: nn.utils.clip_grad_value_(m.parameters(), 1e-9))
    verdicts = {v.code: v for v in flow.trajectory.verdicts}
    assert flow.trajectory.points[0].norms.cosine < 0.9
    assert verdicts["GS503"].status in ("pass", "warn")
    assert verdicts["GS503"].measured == pytest.approx(flow.trajectory.points[-3].norms.cosine, abs=0.3)


def test_the_loss_scale_is_divided_out():
    ends = []
    for scaled in (True, False):
        torch.manual_seed(0)
        model = Net(nn.GRU, 1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        flow = quiet(model, scaler=scaler if scaled else None)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(3):
            x = torch.rand(6, 10, 2)
            loss = (model(x) - x[:, 0, 0]).square().mean()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            flow.step(loss, x)
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
        flow.close()
        ends.append(flow.trajectory.points)
    for one, other in zip(*ends, strict=True):
        assert one.gradient_share == pytest.approx(other.gradient_share, abs=1e-3)
        if one.norms is not None:
            assert one.norms.log10_raw == pytest.approx(other.norms.log10_raw, abs=1e-4)
            assert one.norms.log10_clipped == pytest.approx(other.norms.log10_clipped, abs=1e-4)
    assert ends[0][0].norms.loss_scale == 1024.0


def test_an_optimizer_that_is_not_of_torch_is_noticed_by_the_weights():
    model = Net(nn.GRU, 1)
    flow = quiet(model)
    for _ in range(4):
        x = torch.rand(6, 10, 2)
        loss = model(x).square().mean()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.01 * p.grad)
                p.grad = None
        flow.step(loss, x)
    flow.close()
    assert flow.at == 4
    assert [p.step for p in flow.trajectory.points if p.kind == "signal"][:3] == [0, 1, 2]


def test_another_models_optimizer_does_not_count():
    model, other = Net(), Net()
    flow = quiet(model)
    train(other, None, steps=3)
    assert flow.at == 0
    flow.close()


def test_hooks_that_never_fire_are_said():
    model = Net()
    flow = quiet(model)
    flow._recorders[0].remove()  # as torch.compile leaves them
    train(model, flow, steps=3)
    assert any("torch.compile" in note for note in flow.trajectory.notes)
    assert {p.kind for p in flow.trajectory.points} == {"analysis"}


def test_a_layer_that_is_replaced_in_mid_training_is_said_once():
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.LSTM(3, 4, batch_first=True), "b": nn.GRU(3, 4, batch_first=True)})
    flow, x = quiet(model), torch.randn(2, 9, 3)
    for step in range(6):
        if step == 3:
            model["b"] = nn.GRU(3, 4, batch_first=True)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        loss = sum(layer(x)[0][:, -1].sum() for layer in model.values())
        loss.backward()
        optimizer.step()
    flow.close()
    assert [note for note in flow.trajectory.notes if note.startswith("b is no part of the model any more")] != []
    assert not any(note.startswith("a is no part") for note in flow.trajectory.notes)


def test_a_compiled_recurrence_is_found_deaf():
    import torch._dynamo

    model = Net(nn.GRU, 1)
    with torch._dynamo.config.patch(allow_rnn=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, backend="eager")
        compiled(torch.rand(6, 10, 2)).sum().backward()
        flow = quiet(compiled)
        train(compiled, flow, steps=2)
    assert any("torch.compile" in note for note in flow.trajectory.notes)


def test_the_first_nan_is_placed_in_layer_and_step():
    torch.manual_seed(0)
    model = Net(nn.RNN, 1)
    flow = quiet(model, budget=1e9)
    with torch.no_grad():
        model.rnn.weight_hh_l0[0, 0] = math.nan
    train(model, flow, steps=2)
    (found,) = [v for v in flow.trajectory.verdicts if v.code == "GS504"]
    assert found.status == "fail"
    assert found.first_step == 0
    assert "NaN in weights" in found.message


def test_a_loss_of_reach_is_told_on_the_screen(capsys):
    torch.manual_seed(0)
    model = Net(nn.RNN, 1)
    flow = Monitor(model, every=1, needs_lag=8, log=None)
    with torch.no_grad():
        model.rnn.weight_hh_l0.copy_(torch.eye(8))
        model.rnn.weight_ih_l0.mul_(0.01)
        model.rnn.bias_ih_l0.zero_()
        model.rnn.bias_hh_l0.zero_()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    for step in range(4):
        if step == 2:
            with torch.no_grad():
                model.rnn.weight_hh_l0.mul_(0.1)
        model(torch.rand(6, 10, 2)).sum().backward()
        optimizer.step()
    flow.close()
    said = capsys.readouterr()
    assert said.out == ""
    assert "GS501  The reach fell from 9 lags at step 1" in said.err
    assert "✗ VANISHING  GS501" in said.err
    assert "step 1 → 2: healthy → vanishing" in said.err
    assert "weight_hh_l0 moved by 90 % of itself" in said.err


def test_measuring_that_fails_is_one_warning_and_training_goes_on(monkeypatch):
    import gradscope.monitor.measuring

    def broken(*_: object) -> None:
        raise RuntimeError("no such thing")

    model = Net()
    flow = quiet(model)
    monkeypatch.setattr(gradscope.monitor.measuring, "Signal", broken)
    with pytest.warns(UserWarning, match=r"stopped measuring at step 0: RuntimeError: no such thing") as caught:
        train(model, flow, steps=5)
    assert len(caught) == 1


def test_an_error_of_the_training_is_let_through_and_noted():
    model = Net()
    with pytest.raises(ZeroDivisionError), quiet(model) as flow:
        raise ZeroDivisionError
    assert flow.trajectory.notes[0] == "the training ended with ZeroDivisionError after step 0"
    assert "nothing was measured of rnn: it never ran" in flow.trajectory.notes[1]


def test_layers_are_chosen_by_name_and_wrong_ones_refused():
    model = nn.ModuleDict({"a": nn.GRU(2, 3), "b": nn.LSTM(2, 3)})
    flow = quiet(model, layers=["b"])
    assert [recorder.name for recorder in flow._recorders] == ["b"]
    flow.close()
    with pytest.raises(UsageError, match="did you mean 'a'"):
        quiet(model, layers=["aa"])
    with pytest.raises(UsageError, match=r"nn\.Module"):
        Monitor(3)
    with pytest.raises(UsageError, match="at least 1"):
        quiet(model, every=0)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"out": "x"}, "it is called log="),
        ({"lag": 3}, "it is called needs_lag="),
        ({"evry": 3}, "did you mean 'every'"),
    ],
)
def test_a_wrong_argument_names_the_right_one(given, meant):
    with pytest.raises(UsageError, match=meant):
        gradscope.Monitor(nn.GRU(2, 3), log=None, **given)


def test_lines_of_two_layers_say_which_is_which(capsys):
    model = nn.ModuleDict({"low": nn.GRU(2, 3, batch_first=True), "top": nn.GRU(3, 3, batch_first=True)})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, log=None, needs_lag=5):
        loss = model["top"](model["low"](torch.randn(2, 8, 2))[0])[0][:, -1].square().sum()
        loss.backward()
        optimizer.step()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(" step 0 ")]
    assert [line.rsplit("layer ")[-1] for line in lines[:2]] == ["low", "top"]


def test_a_monitor_is_one_line_and_in_a_notebook_the_run():
    with quiet(nn.GRU(2, 3)) as flow:
        assert repr(flow) == "<Monitor of GRU: 0 points, at step 0; .trajectory shows them>"
        assert "Nothing was measured." in flow._repr_mimebundle_()["text/plain"]


def test_a_run_goes_on_in_its_log(tmp_path):
    log = tmp_path / "flow.jsonl"
    model = Net()
    train(model, quiet(model, log=log), steps=3)
    train(model, quiet(model, log=log, resume=3), steps=3)
    found = read_flow(str(log))
    assert max(p.step for p in found.points) == 6
    assert "taken up again" in found.notes[-1]


def test_a_log_that_cannot_be_written_is_refused_at_once(tmp_path):
    with pytest.raises(UsageError, match="cannot write"):
        quiet(Net(), log=tmp_path / "nowhere" / "flow.jsonl")


def test_when_things_are_due():
    assert [s for s in range(210) if is_signal_due(s, 100)] == [0, 1, 2, 4, 8, 16, 32, 64, 100, 200]
    last, due = None, []
    for step in range(0, 1001, 50):
        if is_analysis_due(step, last):
            due.append(step)
            last = step
    assert due == [0, 50, 100, 200, 500, 1000]
    before = point(0)
    assert not has_moved(point(1), before)
    assert has_moved(point(1, share=-2.5), before)
    assert has_moved(point(1, 10), before)
    assert not has_moved(point(1), None)


def test_the_budget_lets_measuring_wait():
    clock = Clock(0.05)
    clock.begun, clock.spent = 100.0, 1.0
    assert not clock.allows(1.0, now=120.0)
    assert clock.allows(1.0, now=145.0)
    assert clock.part(now=111.0) == pytest.approx(0.1)


def test_monitor_is_a_public_name():
    assert gradscope.Monitor is Monitor


def test_a_batch_on_the_disk_is_not_needed(tmp_path: Path):
    model = Loop()
    flow = quiet(model, budget=1e9)
    train(model, flow, steps=2, explicit=False)
    assert [p.step for p in flow.trajectory.points] == [0, 1, 2]


class Policy(nn.Module):
    """Keeps the distribution that it drew from last, whose tensors belong to the computation."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head, self.last = nn.GRUCell(2, 8), nn.Linear(8, 3), SimpleNamespace(drawn=None)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 8)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        self.last.drawn = torch.distributions.Categorical(logits=self.head(h))
        return self.last.drawn.logits


def test_a_model_that_keeps_what_it_computed_is_analysed_as_a_copy():
    model, x = Policy(), torch.rand(4, 10, 2)
    flow = quiet(model)
    model(x).square().mean().backward()
    flow.step(0.0)
    flow.close()
    kept = model.last.drawn.logits
    assert [p.kind for p in flow.trajectory.points] == ["analysis"]
    assert gradscope.analyze(model, x, needs_lag=6).models[0].summary.reach is not None
    assert model.last.drawn.logits is kept


class Masked(Loop):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x * mask)


def test_a_model_that_asks_for_more_than_the_batch_says_so():
    model, x = Masked(), torch.rand(4, 10, 2)
    flow = quiet(model)
    model(x, torch.ones_like(x)).mean().backward()
    flow.step(0.0, x)
    flow.close()
    expected = "no analysis of Masked: its forward asks for mask too, and is handed the batch alone; give them defaults"
    assert expected in flow.trajectory.notes


def growing(gain: float, clip: float | None, log=None) -> Trajectory:
    """A relu RNN whose gradient grows by `gain` at every step back, trained for four updates."""
    net = nn.RNN(4, 8, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        net.weight_hh_l0.copy_(gain * torch.eye(8))
        net.weight_ih_l0.copy_(0.01 * torch.ones(8, 4))
        net.bias_ih_l0.zero_()
        net.bias_hh_l0.zero_()
    optimizer = torch.optim.SGD(net.parameters(), 1e-12)
    with gradscope.Monitor(net, every=1, needs_lag=30, log=log, screen=False) as flow:
        for _ in range(4):
            optimizer.zero_grad()
            net(torch.ones(4, 40, 4))[0][:, -1].sum().backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
    return flow.trajectory


@pytest.mark.parametrize("clip", [None, 1.0])
def test_of_a_gradient_that_explodes_it_says_what_a_trainer_can_do(clip, tmp_path):
    run = growing(1.5, clip, tmp_path / "flow.jsonl")
    # Saved and read again it says the same.
    kept = trajectory_with_verdicts(read_flow(str(tmp_path / "flow.jsonl")), RunSpec())
    shown = [" ".join(render(known, View(width=100)).split()) for known in (run, kept)]
    raw = 10 ** statistics.median(p.norms.log10_raw for p in run.points if p.kind == "signal" and p.norms is not None)
    for words in shown:
        assert "✗ EXPLODING GS201" in words
        assert "why: gradscope explain GS201" in words
        tip = words.partition(" try: ")[2]
        if clip is None:
            clips = "`torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)`"
            assert tip.startswith(f"Clip the norm of the gradient before each update: {clips}; it was {raw:.2g} here")
        else:
            assert tip.startswith("Clipping acts at 4 of 4 measured updates already")
        assert "smaller recurrent weights" in tip
    # Followed, it is no more.
    assert trajectory_status(growing(1.0, clip)) == "healthy"


def test_a_sequence_that_is_not_finite_is_measured_wherever_it_is_in_the_batch():
    torch.manual_seed(0)
    net, x = nn.GRU(2, 4, batch_first=True), torch.randn(16, 9, 2)
    x[12, 5] = math.nan
    flow = gradscope.Monitor(net, log=None, screen=False)
    net(x)[0][:, -1].square().sum().backward()
    flow.step()
    flow.close()
    assert {p.status for p in flow.trajectory.points} == {"non-finite"}
    assert "at step 6 of the sequence" in next(v.message for v in flow.trajectory.verdicts if v.code == "GS504")


@pytest.mark.parametrize("given", ["later", "by another optimizer", "never"])
def test_a_frozen_layer_is_told_at_the_steps_of_the_optimizer_that_trains_beside_it(given: str):
    """Lower layers that are unfrozen on the way, and upper ones that stay as they are while gradients pass them."""
    torch.manual_seed(0)
    low, high, head = nn.GRU(2, 4, batch_first=True), nn.GRU(4, 4, batch_first=True), nn.Linear(4, 1)
    model = nn.ModuleDict({"low": low, "high": high, "head": head})
    frozen = high if given == "never" else low
    frozen.requires_grad_(False)
    optimizers = [torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)]
    losses = []
    with quiet(model, every=1) as flow:
        for step in range(4):
            if step == 2 and given != "never":
                low.requires_grad_(True)
                if given == "later":
                    optimizers[0].add_param_group({"params": low.parameters()})
                else:
                    optimizers.append(torch.optim.SGD(low.parameters(), 0.1))
            loss = head(high(low(torch.randn(3, 9, 2))[0])[0][:, -1]).square().mean()
            model.zero_grad()
            loss.backward()
            losses.append(loss.item())
            flow.step(loss)
            for optimizer in optimizers:
                optimizer.step()
    signals = {layer: [p for p in flow.trajectory.points if p.layer == layer and p.kind == "signal"] for layer in model}
    heard = {"low": range(0 if given == "never" else 2, 5), "high": range(5)}
    for layer, steps in heard.items():
        assert [p.step for p in signals[layer]] == list(steps)
        assert [p.loss for p in signals[layer][:-1]] == pytest.approx(losses[steps[0] :])
