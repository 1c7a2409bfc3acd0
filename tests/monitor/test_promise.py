"""The Monitor's promise, whatever the trainer: the same training bit by bit, never ended, and torch's own numbers."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.errors import UsageError
from gradscope.flow_file import read_flow
from gradscope.monitor.layer_recorder import Hook
from gradscope.monitor.whole_analysis import _copied
from gradscope.rules.judge import trajectory_status

UPDATES, LENGTH, NEEDED = 4, 12, 8


class Run:
    """One training, watched or not, that writes down what plain torch says of each of its updates."""

    def __init__(self, watched: bool) -> None:
        torch.manual_seed(0)
        self.watched, self.flows = watched, []
        self.raw: dict[int, float] = {}
        self.clipped: dict[int, float] = {}
        self.reach: dict[int, int] = {}
        self.at = 0

    def watch(self, model: nn.Module, **settings: Any) -> None:
        if self.watched:
            known = {"log": None, "screen": False, "every": 1, "needs_lag": NEEDED}
            self.flows.append(gradscope.Monitor(model, **{**known, **settings}))

    def batches(self, updates: int = UPDATES) -> Iterator[Tensor]:
        for _ in range(updates):
            yield torch.randn(5, LENGTH, 2).requires_grad_()

    def step(self, loss: Tensor, x: Tensor | None = None, parameters: Any = (), divide: float = 1.0) -> None:
        """The gradient is whole: flow.step, and the norms and the reach that torch finds."""
        for flow in self.flows:
            flow.step(loss)
        if parameters:
            self.raw[self.at] = norm(parameters) - math.log10(divide)
        if x is not None and x.grad is not None:
            sizes = x.grad.double().norm(dim=-1).log().mean(0).flip(0)
            self.reach[self.at] = max((k for k in range(1, LENGTH) if sizes[k] >= sizes[1] + math.log(0.01)), default=0)

    def done(self, parameters: Any = ()) -> None:
        """The optimizer is about to use the gradient, or has."""
        if parameters:
            self.clipped[self.at] = norm(parameters)
        self.at += 1


def norm(parameters: Any) -> float:
    """log10 of the norm of all their gradients, in double precision."""
    squares = [(p.grad.to_dense() if p.grad.is_sparse else p.grad).abs().double().square().sum() for p in parameters]
    return float(torch.stack(squares).sum().sqrt().log10())


class Net(nn.Module):
    """A recurrent layer and a head that reads its last output."""

    def __init__(self, rnn: nn.Module | None = None) -> None:
        super().__init__()
        self.rnn = rnn or nn.GRU(2, 6, batch_first=True)
        self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(x)[:, -1])

    def run(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]

    def loss(self, x: Tensor) -> Tensor:
        return (self(x) - x.detach()[:, 0, :1]).square().mean()


def adam(net: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), 0.01, **settings)


def nothing(net: Net, x: Tensor) -> None:
    """Between the passes of a training there is something only where a case says so."""


@dataclass(frozen=True)
class Loop:
    """The usual loop; each case says what is another in it."""

    net: Callable[[], Net] = Net
    made: Callable[[Any], torch.optim.Optimizer] = adam
    before: Callable[[Net, Tensor], Any] = nothing
    """Between the forward and the backward pass."""
    after: Callable[[Net, Tensor], Any] = nothing
    """Between the backward pass and the update."""
    passes: int = 1
    """Backward passes that are accumulated."""
    clip: float | None = 0.05
    scaler: Callable[[], Any] | None = None
    unscales: bool = True
    around: Callable[[], Any] = nullcontext
    """Around the forward pass."""
    reads: Callable[[Net, Tensor], Tensor] = Net.loss
    update: Callable[[Any, Net], Any] = lambda optimizer, net: optimizer.step()
    first: Callable[[Net], Any] = lambda net: None
    """Once the Monitor is there."""
    trained: Callable[[Net], nn.Module] = lambda net: net
    """Whose norms are those of the update."""

    def __call__(self, run: Run, net: Net | None = None) -> nn.Module:
        net = net or self.net()
        optimizer, parameters = self.made(net), list(self.trained(net).parameters())
        scaler = self.scaler() if self.scaler is not None else None
        run.watch(net, scaler=scaler)
        self.first(net)
        while run.at < UPDATES:
            net.zero_grad()
            for x in run.batches(self.passes):
                with self.around():
                    loss = self.reads(net, x)
                self.before(net, x)
                scale = 1.0 if scaler is None else scaler.get_scale()
                (loss.mean() if scaler is None else scaler.scale(loss)).backward()
                # A graph in half precision has a gradient of its own.
                known = x if self.around is nullcontext else None
                self.after(net, x)
                run.step(loss, known, parameters, scale)
            if self.unscales and scaler is not None:
                scaler.unscale_(optimizer)
            if self.clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), self.clip)
            if not self.unscales:
                run.clipped[run.at] = run.raw[run.at]
            if math.isfinite(norm(parameters)):
                run.done(parameters if self.unscales and optimizer is not None else ())
            if scaler is None:
                self.update(optimizer, net)
            else:
                scaler.step(optimizer)
                scaler.update()
        return net


class Checkpointed(Net):
    def run(self, x: Tensor) -> Tensor:
        return checkpoint(lambda x: self.rnn(x)[0], x, use_reentrant=False)


class Bare(nn.GRU):
    def forward(self, *given: Any) -> Any:
        return super().forward(*given)[0]


class ReadsBare(Net):
    def run(self, x: Tensor) -> Tensor:
        return self.rnn(x)


class WithList(Net):
    def run(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(1, len(x), 6)
        return self.rnn(x, [zeros, zeros])[0]


class Complex(Net):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.randn(6, dtype=torch.complex64))

    def run(self, x: Tensor) -> Tensor:
        return (self.rnn(x)[0] * self.turn).real


class Stepwise(Net):
    def run(self, x: Tensor) -> Tensor:
        outputs, state = [], None
        for step in x.split(1, 1):
            output, state = self.rnn(step, state)
            outputs.append(output)
        return torch.cat(outputs, 1)


class Windows(Net):
    def run(self, x: Tensor) -> Tensor:
        state = None
        for window in x.split(5, 1):
            output, state = self.rnn(window, state)
        return output


def lbfgs(run: Run) -> nn.Module:
    net = Net()
    optimizer = torch.optim.LBFGS(net.parameters(), 0.1, max_iter=3)
    run.watch(net)
    for x in run.batches():
        first = True

        def closure(x: Tensor = x) -> Tensor:
            nonlocal first
            optimizer.zero_grad()
            x.grad = None
            loss = net.loss(x)
            loss.backward()
            run.step(loss, x if first else None, list(net.parameters()) if first else ())
            first = False
            return loss

        optimizer.step(closure)
        run.done()
    return net


def closure_of_sgd(run: Run) -> nn.Module:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    run.watch(net)
    for x in run.batches():

        def closure(x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = net.loss(x)
            loss.backward()
            return loss

        loss = optimizer.step(closure)
        run.step(loss, x, list(net.parameters()))
        run.done(list(net.parameters()))
    return net


def ema(run: Run) -> nn.Module:
    """A copy made after the Monitor, called with gradients on and trained by itself."""
    net = Net()
    run.watch(net)
    twin = copy.deepcopy(net)
    optimizer, other = torch.optim.Adam(net.parameters(), 0.01), torch.optim.SGD(twin.parameters(), 1.0)
    for x in run.batches():
        optimizer.zero_grad()
        other.zero_grad()
        loss = net.loss(x)
        (loss + twin.loss(x.detach() * 3)).backward()
        run.step(loss, x, list(net.parameters()))
        run.done(list(net.parameters()))
        optimizer.step()
        other.step()
    return nn.ModuleList([net, twin])


def sharpness_aware(run: Run) -> nn.Module:
    """The weights are moved up the gradient and back before every update."""
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    run.watch(net)
    for x in run.batches():
        optimizer.zero_grad()
        net.loss(x).backward()
        moved = [0.05 * p.grad / p.grad.norm() for p in net.parameters()]
        with torch.no_grad():
            for p, by in zip(net.parameters(), moved, strict=True):
                p.add_(by)
        optimizer.zero_grad()
        loss = net.loss(x)
        loss.backward()
        with torch.no_grad():
            for p, by in zip(net.parameters(), moved, strict=True):
                p.sub_(by)
        run.step(loss, None, list(net.parameters()))
        run.done(list(net.parameters()))
        optimizer.step()
    return net


def begun_frozen() -> Net:
    return Net().requires_grad_(False)


def begun_with_a_frozen_layer() -> Net:
    net = Net()
    net.rnn.requires_grad_(False)
    return net


def unfrozen(net: Net) -> None:
    net(torch.randn(5, LENGTH, 2))
    net.requires_grad_(True)


def updated_by_hand(_: None, net: Net) -> None:
    for p in net.parameters():
        p.data -= 0.1 * p.grad


def evaluated(net: Net, x: Tensor) -> None:
    """Accuracy on the fly, and an evaluation that forgot no_grad."""
    net(x.detach()[:2, :7]).mean().item()


def asked_of_the_inputs(net: Net, x: Tensor) -> None:
    """A saliency of another step, between the training's backward pass and its update."""
    z = (x.detach()[:, :-3] * 5).requires_grad_()
    torch.autograd.grad(net.run(z)[:, -1].sum(), z)


def asked_of_the_weights(net: Net, x: Tensor) -> None:
    """The norm of another loss's gradient, to be told and not to be trained on."""
    torch.autograd.grad(net.run(x.detach()[:, :-3] * 5)[:, -1].sum(), list(net.rnn.parameters()))


def saved(net: Net, x: Tensor) -> None:
    """Saved, pickled and differentiated by torch.func while it trains."""
    torch.save(net, io.BytesIO())
    ForkingPickler(io.BytesIO()).dump(net)
    kept = pickle.dumps(net)
    # It must be readable where gradscope is not installed.
    assert b"gradscope" not in kept
    with torch.no_grad():
        assert torch.equal(pickle.loads(kept)(x), net(x))
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    torch.func.grad(lambda p: torch.func.functional_call(net, p, x.detach()).sum())(parameters)


def two_monitors(run: Run) -> nn.Module:
    net = Net()
    run.watch(net, needs_lag=5)
    return Loop()(run, net)


def anomalous(run: Run) -> nn.Module:
    with torch.autograd.set_detect_anomaly(True):
        return Loop()(run)


def sgd(net: nn.Module, rate: float = 0.1, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), rate, **settings)


def of(made: Callable[..., Net], *layer: Any) -> Loop:
    """A model of another kind."""
    return Loop(lambda: made(*(one(2, 6, batch_first=True) for one in layer)))


def normalised(kind: Callable[..., nn.Module]) -> Loop:
    return Loop(lambda: Net(kind(nn.RNN(2, 6, batch_first=True), "weight_hh_l0")))


def loss_scale(init: float, growth: int, backoff: float = 0.5) -> Callable[[], Any]:
    return lambda: torch.amp.GradScaler("cpu", init_scale=init, growth_interval=growth, backoff_factor=backoff)


SKIPPED = Loop(
    made=partial(sgd, rate=1e-8),
    # The first pass is thrown away by the loss scaler.
    scaler=loss_scale(2.0**126, 100, 2.0**-100),
    clip=None,
    reads=lambda net, x: net.loss(x) * 1e6,
)
TRAINERS: dict[str, Callable[[Run], nn.Module]] = {
    "plain": Loop(),
    "fused": Loop(made=partial(adam, fused=True)),
    "accumulated": Loop(passes=3, clip=None),
    "grad scaler": Loop(made=sgd, scaler=loss_scale(1024.0, 2)),
    "fused, scaled": Loop(made=partial(adam, fused=True), scaler=loss_scale(1024.0, 2), unscales=False, clip=None),
    "skipped updates": SKIPPED,
    "autocast": Loop(around=lambda: torch.autocast("cpu", torch.bfloat16), clip=None),
    "lbfgs": lbfgs,
    "closure": closure_of_sgd,
    "trained copy": ema,
    "spectral norm": normalised(parametrizations.spectral_norm),
    "weight norm": normalised(parametrizations.weight_norm),
    "orthogonal": normalised(parametrizations.orthogonal),
    "checkpointed": of(Checkpointed),
    "output alone": of(ReadsBare, Bare),
    "list as state": of(WithList, nn.LSTM),
    "complex": of(Complex),
    "step by step": of(Stepwise, nn.LSTM),
    "windows, one backward": of(Windows),
    "unfrozen later": Loop(begun_frozen, made=sgd, first=unfrozen, clip=None),
    "frozen layer": Loop(
        begun_with_a_frozen_layer,
        made=lambda net: sgd(net.head),
        trained=lambda net: net.head,
    ),
    "two optimizers": Loop(
        made=lambda net: (sgd(net.head), adam(net.rnn)),
        update=lambda both, net: [one.step() for one in both],
        # Norms are of the one that trains the layer.
        trained=lambda net: net.rnn,
    ),
    "own update": Loop(made=lambda net: None, update=updated_by_hand, clip=None),
    "second forward": Loop(before=evaluated),
    "saved meanwhile": Loop(before=saved),
    "saliency": Loop(after=asked_of_the_inputs),
    "another gradient": Loop(after=asked_of_the_weights),
    "loss of each sequence": Loop(reads=lambda net, x: (net(x) - 1).square(), made=sgd, clip=None),
    "two monitors": two_monitors,
    "anomaly mode": anomalous,
    "sharpness aware": sharpness_aware,
    # The loop goes back itself, as in Lightning.
    "closure that does nothing": Loop(update=lambda optimizer, net: optimizer.step(lambda: None)),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)
def test_it_trains_as_without_and_says_what_torch_says(trainer):
    ends = []
    for watched in (False, True):
        run = Run(watched)
        ends.append(([*trainer(run).state_dict().values()], torch.get_rng_state()))
    (weights, random), (others, also) = ends
    assert all(torch.equal(one, other) for one, other in zip(weights, others, strict=True))
    assert torch.equal(random, also)
    assert run.at == UPDATES
    for flow in run.flows:
        flow.close()
    flow = run.flows[-1]
    assert not any("stopped" in note for note in flow.trajectory.notes)
    signals = [p for p in flow.trajectory.points if p.kind == "signal"]
    assert [p.step for p in signals] == list(range(UPDATES + 1))
    for point in signals[:-1]:
        step = point.step
        assert point.norms.log10_raw == pytest.approx(run.raw[step], abs=1e-4)
        if step in run.clipped:
            assert point.norms.log10_clipped == pytest.approx(run.clipped[step], abs=1e-4)
        if step in run.reach:
            assert point.reach == run.reach[step]
        assert point.norms.backwards == getattr(trainer, "passes", 1)
    _same_at_every_step(flow)


def test_a_gradient_that_is_handed_over_is_not_the_one_before():
    """torch.autograd.grad adds nothing to p.grad: what lies there is of the update before."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with gradscope.Monitor(net, every=1, log=None, screen=False) as flow:
        for _ in range(3):
            parameters = list(net.parameters())
            loss = net.loss(torch.randn(5, LENGTH, 2))
            for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                p.grad = g
            flow.step(loss)
            optimizer.step()
    points = [point for point in flow.trajectory.points if point.kind == "signal"]
    assert [point.step for point in points] == [0, 1, 2, 3]
    assert all(point.norms is None for point in points)


class Stateful(Net):
    """Truncated BPTT: windows of a stream, the state carried on and detached."""

    state: Any = None

    def run(self, x: Tensor) -> Tensor:
        output, state = self.rnn(x, self.state)
        self.state = tuple(part.detach() for part in state)
        return output


def saturated() -> Stateful:
    """An LSTM whose forget gate stays open while its cell state runs full, as it does with a state carried for long."""
    net = Stateful(nn.LSTM(2, 6, batch_first=True))
    net.state = torch.zeros(1, 5, 6), torch.full((1, 5, 6), 40.0)
    with torch.no_grad():
        net.rnn.bias_hh_l0[6:12] = 5.0
    return net


@pytest.mark.parametrize("made", [lambda: Stateful(nn.LSTM(2, 6, batch_first=True)), saturated])
def test_with_a_carried_state_signal_and_analysis_are_of_one_gradient(made):
    run = Run(watched=True)
    net = made()
    Loop(made=partial(sgd, rate=0.01), clip=None)(run, net)
    (flow,) = run.flows
    flow.close()
    assert {p.step: p.reach for p in flow.trajectory.points if p.step < UPDATES} == run.reach
    _same_at_every_step(flow)
    first, last = ([p for p in flow.trajectory.points if p.kind == "analysis"][place] for place in (0, -1))
    if made is saturated:
        # tanh(c) is 1 in float64: no gradient passes from the outputs to the cell state.
        assert first.status == "vanishing"
    assert 0 < last.gates["forget"] <= 1


def test_gates_of_an_analysis_are_those_of_the_state_that_was_carried():
    run = Run(watched=True)
    net = Stateful(nn.LSTM(2, 6, batch_first=True))
    net.state = torch.full((1, 5, 6), 0.9), torch.full((1, 5, 6), 3.0)
    h, c = (part.clone().double() for part in net.state)
    run.watch(net)
    (x,) = run.batches(1)
    net.loss(x).backward()
    w = {name: p.detach().double() for name, p in net.rnn.named_parameters()}
    forget = []
    for t in range(LENGTH):
        z = x[:, t].detach().double() @ w["weight_ih_l0"].T + h[0] @ w["weight_hh_l0"].T
        i, f, g, o = (z + w["bias_ih_l0"] + w["bias_hh_l0"]).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        forget.append(f.sigmoid()[:4].mean())
    run.step(torch.zeros(()))
    (flow,) = run.flows
    flow.close()
    (analysis,) = [p for p in flow.trajectory.points if p.kind == "analysis"]
    assert analysis.gates["forget"] == pytest.approx(float(torch.stack(forget).mean()), abs=1e-12)


@pytest.mark.parametrize("order", ["DG", "GD"])
def test_each_net_of_a_gan_is_measured_when_its_optimizer_steps(order):
    norms: dict[str, list[float]] = {"G": [], "D": []}
    ends = []
    for watched in (False, True):
        run = Run(watched)
        nets = nn.ModuleDict({"G": nn.GRU(2, 2, batch_first=True), "D": nn.GRU(2, 6, batch_first=True)})
        optimizers = {name: torch.optim.SGD(net.parameters(), 0.1) for name, net in nets.items()}
        run.watch(nets)
        for noise in run.batches():
            for name in order:
                fake = nets["G"](noise.detach())[0]
                optimizers[name].zero_grad()
                loss = nets["D"](fake)[0][:, -1].square().mean() if name == "G" else nets["D"](fake.detach())[0].mean()
                loss.backward()
                run.step(loss)
                norms[name].append(norm(nets[name].parameters()))
                optimizers[name].step()
        ends.append([p.detach().clone() for p in nets.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    (flow,) = run.flows
    flow.close()
    for name in "GD":
        known = [p for p in flow.trajectory.points if p.kind == "signal" and p.layer == name and p.norms is not None]
        assert [p.step for p in known] == list(range(UPDATES))
        assert [p.norms.log10_raw for p in known] == pytest.approx(norms[name][UPDATES:], abs=1e-4)
        assert [p.norms.log10_clipped for p in known] == pytest.approx(norms[name][UPDATES:], abs=1e-4)


def test_an_optimizer_within_the_backward_pass_is_measured_at_every_update():
    ends = []
    for watched in (False, True):
        run = Run(watched)
        net = Net()
        optimizers = {p: torch.optim.SGD([p], 0.1) for p in net.parameters()}

        def hook(p: Tensor, optimizers: Any = optimizers) -> None:
            optimizers[p].step()
            optimizers[p].zero_grad()

        for p in net.parameters():
            p.register_post_accumulate_grad_hook(hook)
        run.watch(net)
        for x in run.batches():
            net.loss(x).backward()
        ends.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    run.flows[0].close()
    signals = [p.step for p in run.flows[0].trajectory.points if p.kind == "signal"]
    assert signals == list(range(UPDATES + 1))


def test_an_optimizer_that_takes_over_goes_on_counting():
    run = Run(watched=True)
    net = Net()
    run.watch(net)
    first, second = (torch.optim.SGD(net.parameters(), rate) for rate in (0.1, 0.01))
    for place, x in enumerate(run.batches(8)):
        net.zero_grad()
        net.loss(x).backward()
        (first if place < 4 else second).step()
    (flow,) = run.flows
    # That it was no other optimizer beside the first is known at its second step.
    assert flow.at == 7
    flow.close()


@pytest.mark.parametrize("broken", range(6))
def test_no_error_in_any_hook_leaves_it(broken, monkeypatch):
    made = []
    plain_hook = Hook.__init__

    def sabotaged(self: Hook, look: Callable[..., None], failed: Callable[[Exception], None]) -> None:
        made.append(self)

        def fails(*given: object) -> None:
            raise RuntimeError("sabotage")

        plain_hook(self, fails if len(made) - 1 == broken else look, failed)

    monkeypatch.setattr(Hook, "__init__", sabotaged)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    flow = gradscope.Monitor(net, log=None, screen=False, every=1)

    def train() -> None:
        for _ in range(3):
            net.loss(torch.randn(5, LENGTH, 2)).backward()
            flow.step(1.0)
            optimizer.step()

    with pytest.warns(UserWarning, match="stopped measuring at step 0: RuntimeError: sabotage"):
        train()
    flow.close()
    assert "stopped measuring at step 0: RuntimeError: sabotage" in flow.trajectory.notes


def test_a_warning_made_an_error_does_not_end_the_training(monkeypatch):
    monkeypatch.setattr("gradscope.monitor.measuring.Signal", None)
    net = Net()
    flow = gradscope.Monitor(net, log=None, screen=False)
    net.loss(torch.randn(5, LENGTH, 2)).backward()
    flow.step()  # warnings are errors in these tests
    assert "TypeError" in flow.trajectory.notes[0]


def test_a_model_that_nobody_holds_is_freed_and_its_hooks_with_it():
    gc.collect()
    before = len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)
    net = Net()
    flow = gradscope.Monitor(net, log=None, screen=False, every=1)
    net.loss(torch.randn(5, LENGTH, 2)).backward()
    flow.step(1.0)
    gone = weakref.ref(net)
    del net, flow
    gc.collect()
    assert gone() is None
    assert (len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)) == before


def test_a_refused_monitor_leaves_no_hook(tmp_path):
    net = Net()
    before = len(_global_optimizer_pre_hooks)
    with pytest.raises(UsageError):
        gradscope.Monitor(net, log=tmp_path / "nowhere" / "flow.jsonl")
    assert len(_global_optimizer_pre_hooks) == before
    assert not net.rnn._forward_hooks


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_scripting_a_watched_layer_says_what_to_do():
    net = Net()
    flow = gradscope.Monitor(net, log=None, screen=False)
    with pytest.raises(AttributeError, match=r"call its close\(\) first"):
        torch.jit.script(net.rnn)
    flow.close()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_between_processes_the_raw_norm_is_of_the_averaged_gradient():
    """One process stands for several: what they do to a gradient between them is a hook of its own."""

    def averaged(_, bucket):
        future: Any = torch.futures.Future()
        future.set_result(bucket.buffer() / 7)
        return future

    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        run, net = Run(watched=True), nn.parallel.DistributedDataParallel(Net())
        net.register_comm_hook(None, averaged)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        run.watch(net)
        for x in run.batches():
            optimizer.zero_grad()
            net(x).square().mean().backward()
            run.step(torch.zeros(()), None, list(net.parameters()))
            optimizer.step()
            run.done()
        run.flows[0].close()
    finally:
        torch.distributed.destroy_process_group()
    norms = {p.step: p.norms for p in run.flows[0].trajectory.points if p.norms is not None}
    assert {step: n.log10_raw for step, n in norms.items()} == pytest.approx(run.raw, abs=1e-5)
    assert {step: n.log10_clipped for step, n in norms.items()} == pytest.approx(run.raw, abs=1e-5)


def _same_at_every_step(flow: gradscope.Monitor) -> None:
    """Signal and whole analysis of one layer and step are of one gradient."""
    points = flow.trajectory.points
    pairs = [(a, b) for a in points for b in points if (a.kind, b.kind) == ("signal", "analysis")]
    pairs = [(a, b) for a, b in pairs if (a.step, a.layer) == (b.step, b.layer)]
    assert pairs
    for signal, analysis in pairs:
        assert (analysis.reach, analysis.needed_lag) == (signal.reach, signal.needed_lag)
        assert (analysis.gradient_share, analysis.rate) == (signal.gradient_share, signal.rate)


# -- what is said of a gradient that ends where the sequences do ------------------------------------------------------


class Reader(Net):
    """A layer whose gradient stays as it is, and a loss that reads some of its outputs."""

    def __init__(self, reads: slice = slice(None), kind: type[Net] = Net) -> None:
        super().__init__(nn.LSTM(2, 6, batch_first=True))
        self.reads, self.kind, self.state = reads, kind, None
        with torch.no_grad():
            self.rnn.bias_hh_l0[6:12] = 7.0

    def run(self, x: Tensor) -> Tensor:
        return self.kind.run(self, x)

    def loss(self, x: Tensor) -> Tensor:
        return (self.run(x)[:, self.reads] - 1).square().mean()


def told(net: Net, needs_lag: int, lengths: tuple[int, ...] = (LENGTH,)) -> gradscope.Monitor:
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    flow = gradscope.Monitor(net, needs_lag=needs_lag, log=None, screen=False, every=1)
    for step in range(6):
        optimizer.zero_grad()
        net.loss(torch.randn(4, lengths[step % len(lengths)], 2)).backward()
        optimizer.step()
    flow.close()
    return flow


@pytest.mark.parametrize(
    ("made", "lag", "words"),
    [
        (lambda: Reader(kind=Stateful), 100, "windows of rnn are 12 steps and the carried state is detached"),
        (Reader, 100, "needed lag 100, but the sequences of rnn have 12 steps: gradients end there"),
        (lambda: Reader(slice(0, -1)), 11, "needed lag 11, but the loss reads no output of rnn after step 11 of 12"),
    ],
)
def test_a_needed_lag_that_no_gradient_can_reach_is_said_at_once_and_is_no_vanishing(made, lag, words):
    torch.manual_seed(0)
    flow = told(made(), lag)
    assert any(words in note for note in flow.trajectory.notes)
    points = flow.trajectory.points
    assert {point.status for point in points} == {"inconclusive"}
    assert {p.reach for p in points} == {p.needed_lag for p in points} == {11 if lag == 100 else 10}
    verdicts = {v.code: v for v in flow.trajectory.verdicts}
    assert (verdicts["GS501"].status, verdicts["GS505"].status) == ("skip", "skip")
    assert "goes back more than" in verdicts["GS505"].message
    assert trajectory_status(flow.trajectory) == "inconclusive"
    _same_at_every_step(flow)


@pytest.mark.parametrize("lengths", [(30, 30, 12, 12), (30, 12, 20)])
def test_a_shorter_batch_is_no_fall_of_the_reach(lengths):
    torch.manual_seed(0)
    flow = told(Reader(slice(-1, None)), 15, lengths)
    verdicts = {v.code: v.status for v in flow.trajectory.verdicts}
    assert (verdicts["GS501"], verdicts["GS502"], verdicts["GS505"]) == ("pass", "pass", "pass")
    assert trajectory_status(flow.trajectory) in ("healthy", "inconclusive")


class Translator(Net):
    """An encoder of long sequences that hands its state to a decoder of short ones."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.LSTM(2, 6, batch_first=True), nn.LSTM(2, 6, batch_first=True)
        self.rnn = nn.Identity()
        with torch.no_grad():
            self.enc.bias_hh_l0[6:12] = self.dec.bias_hh_l0[6:12] = 7.0

    def run(self, x: Tensor) -> Tensor:
        return self.dec(x[:, :5], self.enc(x)[1])[0]


def test_a_layer_of_short_sequences_does_not_stand_for_the_run():
    torch.manual_seed(0)
    flow = told(Translator(), 9)
    assert {v.code: v.status for v in flow.trajectory.verdicts}["GS505"] == "pass"
    assert trajectory_status(flow.trajectory) == "healthy"
    assert any("the gradient passes on through the state that dec is handed" in note for note in flow.trajectory.notes)


class Episodes(Net):
    """Called step by step as an agent is: every sequence begins anew somewhere, where a mask sets its state to zero."""

    begins = (0, 3, 7, 0)

    def run(self, x: Tensor) -> Tensor:
        outputs, state = [], torch.zeros(1, len(x), 6)
        for t in range(x.shape[1]):
            goes_on = torch.tensor([[float(t != begin)] for begin in self.begins])
            output, state = self.rnn(x[:, t : t + 1], state * goes_on)
            outputs.append(output)
        return torch.cat(outputs, 1)


def test_episodes_are_followed_as_far_back_as_they_go():
    torch.manual_seed(0)
    net, x = Episodes(), torch.randn(4, LENGTH, 2).requires_grad_()
    flow = gradscope.Monitor(net, needs_lag=5, log=None, screen=False)
    net.loss(x).backward()
    flow.step(0.0)
    flow.close()
    signal = flow.trajectory.points[0]
    # Sequences 0 and 3 go on through all steps.
    sizes = x.grad[[0, 3]].double().norm(dim=-1).log10().flip(1).mean(0)
    assert signal.length == LENGTH
    known = dict(zip(signal.lags, signal.log10_influence, strict=True))
    assert known[5] - known[0] == pytest.approx(float(sizes[5] - sizes[0]), abs=1e-4)


class Cut(Net):
    def run(self, x: Tensor) -> Tensor:
        outputs, state = [], None
        for step in x.split(1, 1):
            output, state = self.rnn(step, state)
            state = state.detach()
            outputs.append(output)
        return torch.cat(outputs, 1)


def test_steps_that_hand_on_no_gradient_have_no_lags():
    torch.manual_seed(0)
    flow = told(Cut(), 5)
    assert "no signal of rnn: it is called with one step at a time, and no gradient passes" in flow.trajectory.notes[0]


class Half(nn.GRU):
    def forward(self, *given: Any) -> Any:
        output, state = super().forward(*given)
        return output / 2, state


class Odd(nn.GRU):
    def forward(self, *given: Any) -> Any:
        return {"output": super().forward(*given)[0]}


class ReadsOdd(Net):
    def run(self, x: Tensor) -> Tensor:
        return self.rnn(x)["output"]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Net(Half(2, 6, batch_first=True)), "Half computes something else than nn.GRU: outputs differ by"),
        (lambda: ReadsOdd(Odd(2, 6, batch_first=True)), "Odd returns something else than nn.GRU does"),
    ],
)
def test_a_layer_that_is_not_what_it_is_named_after_is_not_measured(made, words):
    assert words in told(made(), 5).trajectory.notes[0]


def test_a_silent_layer_is_named():
    nets = nn.ModuleDict({"a": nn.GRU(2, 3), "b": nn.GRU(2, 3), "c": nn.GRU(2, 3)})
    optimizer = torch.optim.SGD(nets["a"].parameters(), 0.1)
    flow = gradscope.Monitor(nets, log=None, screen=False)
    (nets["a"](torch.randn(5, 4, 2))[0][-1].sum() + nets["b"](torch.randn(5, 4, 2))[0].detach().sum()).backward()
    optimizer.step()
    flow.close()
    assert "nothing was measured of b: no gradient came back to what it returned" in flow.trajectory.notes
    assert "nothing was measured of c: it never ran with gradients switched on" in flow.trajectory.notes


def test_at_the_end_the_last_batch_that_trained_is_measured():
    flows = []
    for asks in (False, True):
        run = Run(watched=True)
        net = Loop()(run)
        if asks:
            asked_of_the_inputs(net, torch.randn(5, LENGTH, 2))
        flows += run.flows
        run.flows[0].close()
    (plain, asked) = ([replace(p, seconds=None) for p in flow.trajectory.points] for flow in flows)
    assert plain == asked


def test_an_empty_batch_ends_no_measuring():
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    flow = gradscope.Monitor(net, every=1, log=None, screen=False)
    for size in (0, 5):
        net(torch.randn(size, LENGTH, 2)).sum().backward()
        optimizer.step()
    flow.close()
    assert [point.step for point in flow.trajectory.points if point.kind == "signal"] == [1, 2]
    assert any("its batch is empty" in note for note in flow.trajectory.notes)


def test_of_a_model_that_is_not_trained_it_says_so():
    net, x = Net().requires_grad_(False), nn.Parameter(torch.randn(5, LENGTH, 2))
    optimizer = torch.optim.SGD([x], 0.1)
    flow = gradscope.Monitor(net, log=None, screen=False)
    net.loss(x).backward()
    optimizer.step()
    flow.close()
    assert "none to a parameter of the model: nothing of that is trained" in flow.trajectory.notes[0]


def test_updates_that_a_loss_scaler_skips_are_said():
    run = Run(watched=True)
    SKIPPED(run)
    assert any("the loss scaler skipped updates before step 0" in note for note in run.flows[0].trajectory.notes)


@pytest.mark.parametrize("lag", [None, 10])
def test_a_gradient_that_grows_is_neither_vanishing_nor_overflow(lag):
    """Lifted into the range of float32, what lies beyond the needed lag left it, and was called non-finite."""
    net = nn.RNN(4, 4, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        net.weight_hh_l0.copy_(1.5 * torch.eye(4))
        net.weight_ih_l0.copy_(1e-3 * torch.eye(4))
        net.bias_ih_l0.zero_()
        net.bias_hh_l0.zero_()
    flow = gradscope.Monitor(net, needs_lag=lag, log=None, screen=False)
    net(torch.rand(4, 200, 4))[0][:, -1].sum().backward()
    flow.step(0.0)
    flow.close()
    assert {p.reach for p in flow.trajectory.points} == {199}
    assert [p.rate for p in flow.trajectory.points] == pytest.approx([math.log(1.5)] * 2, abs=1e-6)
    assert {p.status for p in flow.trajectory.points} <= {"exploding", "inconclusive"}
    assert {v.code: v.status for v in flow.trajectory.verdicts}["GS505"] == "pass"


def test_a_complex_model_is_analysed_with_its_imaginary_parts():
    torch.manual_seed(0)

    class Rotation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Parameter(torch.polar(torch.full((6,), 0.9), torch.rand(6)))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 6, dtype=self.turn.dtype)
            for t in range(x.shape[1]):
                h = self.turn * h + x[:, t]
            return h.real

    model = Rotation()
    made = _copied(model)
    assert made.turn.dtype == torch.complex128
    torch.testing.assert_close(made.turn.detach(), model.turn.detach().to(torch.complex128))


def test_a_run_goes_on_after_a_resume_with_the_same_weights(tmp_path):
    ends = []
    for watched in (False, True):
        run, net = Run(watched), Net()
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for start in (0, UPDATES):
            run.watch(net, log=tmp_path / "flow.jsonl", resume=start or None)
            for x in run.batches():
                optimizer.zero_grad()
                net.loss(x).backward()
                optimizer.step()
            for flow in run.flows:
                flow.close()
        ends.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    steps = [p.step for p in read_flow(str(tmp_path / "flow.jsonl")).points if p.kind == "signal"]
    assert steps == list(range(2 * UPDATES + 1))


def test_a_loss_or_a_batch_that_is_none_is_left_out_and_said():
    net = Net()
    flow = gradscope.Monitor(net, log=None, screen=False)
    net.loss(torch.randn(5, LENGTH, 2)).backward()
    flow.step({"loss": 1.0}, {"x": 2.0})
    flow.close()
    assert [p.kind for p in flow.trajectory.points] == ["signal", "analysis"]
    assert flow.trajectory.notes == (
        "flow.step was handed a dict as a loss and leaves it out",
        "flow.step was handed a dict as x and leaves it out; x is a tensor",
    )


def test_weights_of_one_call_are_not_taken_for_those_of_the_layer():
    net, x = Net(), torch.randn(5, LENGTH, 2)
    flow = gradscope.Monitor(net, log=None, screen=False)
    weights = dict(net.named_parameters())
    steps = torch.autograd.grad(net.loss(x), [*weights.values()], create_graph=True)
    adapted = {name: p - 0.1 * step for (name, p), step in zip(weights.items(), steps, strict=True)}
    torch.func.functional_call(net, adapted, x).square().mean().backward()
    flow.step(0.0)
    flow.close()
    assert any("weights that it has for this call alone" in note for note in flow.trajectory.notes)
    # No update was made: what the layer is told of is the call with weights of its own, at step 0.
    assert {point.step for point in flow.trajectory.points} == {0}


def test_a_part_of_the_loss_that_is_weighted_by_zero_hides_no_other():
    """A part that is warmed up later: of two calls the newest gets a gradient of exactly zero."""
    torch.manual_seed(0)
    net = nn.GRU(3, 8, batch_first=True)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    flow = gradscope.Monitor(net, every=5, log=None, screen=False)
    for _ in range(6):
        optimizer.zero_grad()
        first, second = (net(torch.randn(4, 10, 3))[0][:, -1] for _ in range(2))
        (first.square().mean() + 0.0 * second.mean()).backward()
        optimizer.step()
    flow.close()
    reaches = [point.reach for point in flow.trajectory.points]
    assert reaches
    assert all(reach is not None and reach > 0 for reach in reaches)
