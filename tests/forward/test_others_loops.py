"""Loops as others write them: solvers between two inputs, gates of the time, last steps that update nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction, checkpoint

import gradscope
from gradscope.errors import UsageError
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.loop_trace import LoopTrace
from gradscope.numerics.pick_trace import choose_module_trace

STEPS, FEATURES = 8, 3
X = torch.randn(1, STEPS, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Solver(nn.Module):
    """h flows by itself for some time before each input is read, as in an ODE-RNN."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.flow, self.cell, self.turns = nn.Linear(5, 5), nn.GRUCell(FEATURES, 5), turns

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        for _ in range(self.turns):
            k = torch.tanh(self.flow(h))
            h = h + 0.25 * (k + torch.tanh(self.flow(h + 0.5 * k)))
        return self.cell(x, h)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 5)
        for now in x.unbind(1):
            h = self.step(now, h)
        return h


class Liquid(nn.Module):
    """The input is read again in every turn of the solver."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.r = nn.Linear(FEATURES, 5), nn.Linear(5, 5)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        for _ in range(3):
            f = torch.sigmoid(self.i(x) + self.r(h))
            h = (h + 0.25 * f) / (1.25 + 0.25 * f)
        return h

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 5)
        for t in range(x.shape[1]):
            h = self.step(x[:, t], h)
        return h


class Weighted(nn.Module):
    """What is read at a step is a mean weighted by exponentials; the sums of the last step are read by nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v = nn.Linear(FEATURES, 3), nn.Linear(FEATURES, 3)
        self.w, self.u = (nn.Parameter(torch.rand(3)) for _ in range(2))

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        top, above, below = state.chunk(3, -1)
        k, v = self.k(x), self.v(x)
        q = torch.maximum(top - self.w.exp(), k)
        old, new = torch.exp(top - self.w.exp() - q), torch.exp(k - q)
        return torch.cat([q, old * above + new * v, old * below + new], -1)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.k(x), self.v(x)
        above = below = torch.zeros_like(k[:, 0])
        top = torch.full_like(above, -1e38)
        out = []
        for t in range(x.shape[1]):
            q = torch.maximum(top, self.u + k[:, t])
            old, new = torch.exp(top - q), torch.exp(self.u + k[:, t] - q)
            out.append((old * above + new * v[:, t]) / (old * below + new))
            q = torch.maximum(top - self.w.exp(), k[:, t])
            old, new = torch.exp(top - self.w.exp() - q), torch.exp(k[:, t] - q)
            above, below, top = old * above + new * v[:, t], old * below + new, q
        return torch.stack(out, 1)


class Letters(nn.Module):
    """The tutorial's recurrence, whose answer is read beside the state and not from it."""

    def __init__(self) -> None:
        super().__init__()
        self.on, self.out = nn.Linear(FEATURES + 5, 5), nn.Linear(FEATURES + 5, 4)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return self.on(torch.cat([x, h], 1))

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 5)
        for t in range(x.shape[1]):
            both = torch.cat([x[:, t], h], 1)
            h, answer = self.on(both), self.out(both)
        return answer


class Leaving(nn.Module):
    """A gate of a parameter and the time: other numbers at every step."""

    def __init__(self, gate: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.cell, self.tau, self.gate = nn.RNNCell(FEATURES, 5), nn.Parameter(torch.rand(5) + 1), gate

    def forward(self, x: Tensor) -> Tensor:
        h, out = x.new_zeros(len(x), 5), []
        for t in range(x.shape[1]):
            k = self.gate(self.tau, t)
            h = k * self.cell(x[:, t], h) + (1 - k) * h
            out.append(h)
        return torch.stack(out, 1)


class Rows(nn.Module):
    """Peepholes that are rows of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.v = nn.Linear(FEATURES, 8), nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        new, forget = self.i(x).chunk(2, -1)
        c, out = x.new_zeros(len(x), 4), []
        for t in range(x.shape[1]):
            f = torch.sigmoid(forget[:, t] + self.v[0] * c)
            c = f * c + (1 - f) * new[:, t]
            out.append(torch.sigmoid(self.v[1] * c) * c)
        return torch.stack(out, 1)


def traced(module: nn.Module) -> LoopTrace:
    torch.manual_seed(1)
    model = WholeModule("net", module.double().eval(), FEATURES, kind="module", time_first=None)
    trace = choose_module_trace(model, X)
    assert isinstance(trace, LoopTrace)
    return trace


@pytest.mark.parametrize(
    ("made", "size", "begins"),
    [
        (lambda: Solver(1), 5, 0),
        (lambda: Solver(2), 5, 0),
        (lambda: Solver(3), 5, 0),
        (Liquid, 5, 0),
        (Weighted, 9, 1),
        (Letters, 5, 0),
    ],
)
def test_jacobians_are_those_of_the_step(made, size, begins):
    torch.manual_seed(0)
    module = made().double()
    trace = traced(module)
    chain = trace.chain(0)
    assert (chain.size, chain.length, trace.begins) == (size, STEPS - begins, begins)
    state = torch.zeros(1, size, dtype=torch.float64)
    if size == 9:
        state[:, :3] = -1e38
    for t in range(1, STEPS):
        if t > begins:
            wanted = torch.autograd.functional.jacobian(lambda s, t=t: module.step(X[:, t - 1], s)[0], state)[:, 0]
            assert torch.allclose(chain.jacobian(t - begins), wanted, atol=1e-12, rtol=1e-9)
        state = module.step(X[:, t - 1], state).detach()


def test_the_last_state_that_nothing_updates_ends_no_exponent():
    torch.manual_seed(0)
    model = gradscope.analyze(Weighted().double(), X).models[0]
    assert model.size == 9
    assert model.summary.lyapunov[0] > -5


@pytest.mark.parametrize(
    "gate",
    [
        lambda tau, t: torch.sigmoid(tau * t),
        lambda tau, t: torch.sigmoid(tau + t),
        lambda tau, t: torch.where((t - tau) % tau.detach() < 0.5, ((t - tau) % 2) / tau, 0.1 * tau),
        lambda tau, t: tau * torch.linspace(0.1, 0.2 + t / 20, 5, dtype=tau.dtype),
    ],
)
def test_what_a_parameter_is_used_as_differs_by_step(gate):
    trace = traced(Leaving(gate))
    check = trace.equality(trace.cotangent(lambda raw: raw[:, -1].square().sum()))
    assert check.passed
    assert check.grad < 1e-12


def test_an_operation_without_gradient_is_told_as_torch_would():
    module = Leaving(lambda tau, t: t % tau)
    with pytest.raises(RuntimeError, match="not implemented"):
        module(X.float()).sum().backward()
    with pytest.raises(UsageError, match="no gradient for an operation"):
        gradscope.analyze(module, X.float())


def test_rows_of_one_parameter_are_measured():
    torch.manual_seed(0)
    module = Rows().double()
    trace = traced(module)
    check = trace.equality(trace.cotangent(lambda raw: raw[:, -1].square().sum()))
    assert check.passed
    assert check.grad < 1e-12


class Mixed(nn.Module):
    """Two layers, of which one keeps its state in float32, under a head in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.head = nn.RNNCell(FEATURES, 4), nn.GRUCell(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, below = x.new_zeros(len(x), 4), []
        for now in x.unbind(1):
            h = self.low(now.to(h), h)
            below.append(h)
        g = torch.zeros(len(x), 5, dtype=torch.float32)
        out = []
        for now in below:
            g = self.high(now, g.to(x)).float()
            out.append(g)
        return self.head(torch.stack(out, 1).to(x)).float()


def test_layers_of_two_number_types_are_one_state():
    torch.manual_seed(0)
    module = Mixed().double()
    found = gradscope.analyze(module, X.repeat(2, 1, 1)).models[0]
    assert found.size == 9
    assert found.summary.directions is not None
    trace = traced(module)
    chain, state = trace.chain(0), (torch.zeros(1, 4).double(), torch.zeros(1, 5).double())

    def step(both: Tensor, x: Tensor) -> Tensor:
        h = module.low(x, both[:, :4])
        return torch.cat([h, module.high(h, both[:, 4:])], 1)

    both = torch.cat(state, 1)
    for t in range(1, STEPS):
        wanted = torch.autograd.functional.jacobian(lambda s, t=t: step(s, X[:, t - 1])[0], both)[:, 0]
        assert torch.allclose(chain.jacobian(t).double(), wanted, atol=1e-6)
        both = step(both, X[:, t - 1]).detach()


class Scaled(torch.autograd.Function):
    """tanh(scale x + h / 2): an argument that is no tensor before those that are, and writes into views."""

    @staticmethod
    def forward(ctx, scale, x, h):
        made = scale * x + h / 2
        for part in made.view(-1, 1).unbind(0):
            part.tanh_()
        ctx.scale = scale
        ctx.save_for_backward(made)
        return made

    @staticmethod
    def backward(ctx, gradient):
        (made,) = ctx.saved_tensors
        back = gradient * (1 - made**2)
        return None, ctx.scale * back, back / 2


class Foreign(nn.Module):
    """A loop as packages write it: by their own function, from a state that is told to want a gradient, recomputed."""

    calls = staticmethod(Scaled.apply)

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.i, self.r, self.head = how, nn.Linear(FEATURES, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        if self.how == "function":
            return type(self).calls(0.7, self.i(x), self.r(h))
        return torch.tanh(self.i(x) + self.r(h) / 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 5)
        if self.how == "set":
            h.requires_grad = True
        for t, now in enumerate(x.unbind(1)):
            if self.how == "cut" and t == 3:
                h = h.detach()
                h.requires_grad = True
            if self.how == "not":
                h = h if t else h.requires_grad_(False)
            h = checkpoint(self.step, now, h, use_reentrant=True) if self.how == "checkpoint" else self.step(now, h)
        return self.head(h)


@pytest.mark.parametrize("how", ["function", "set", "cut", "not", "checkpoint"])
def test_what_packages_do_in_a_step_changes_no_gradient(how):
    torch.manual_seed(0)
    module, x = Foreign(how).double(), X.repeat(2, 1, 1).clone().requires_grad_()
    module(x).sum().backward()
    own = vars(CheckpointFunction).copy()
    found = gradscope.analyze(module, x.detach(), torch.sum).models[0]
    assert dict(vars(CheckpointFunction)) == dict(own)
    assert found.size == 5
    right = x.grad[0].flip(0).norm(dim=1).log10()
    kept = found.series.values["log10_influence"][:STEPS]
    assert torch.allclose(torch.tensor(kept, dtype=torch.float64), right, atol=1e-12)
    if how not in ("cut", "function"):
        assert found.summary.chain_rule_residual < 1e-12


class Checking(nn.Module):
    """It looks at the largest number of a state, and stops where that is none of its own, as step sizes of solvers."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(FEATURES, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 5)
        for now in x.unbind(1):
            h = torch.stack([self.cell(now[b], h[b]) for b in range(len(x))])
            largest = h.abs().max().item()
            assert largest == h.detach().abs().numpy().max(), "underflow"
        return h


def test_a_sequence_that_refuses_the_numbers_of_its_batch_goes_its_own_way():
    torch.manual_seed(0)
    module, x = Checking().double(), torch.cat([X, 3 * X, X / 2]).requires_grad_()
    module(x).sum().backward()
    found = gradscope.analyze(module, x.detach(), torch.sum).models[0]
    right = x.grad.norm(dim=2).log10().mean(0).flip(0)
    kept = torch.tensor(found.series.values["log10_influence"][:STEPS], dtype=torch.float64)
    assert torch.allclose(kept, right, atol=1e-12)
