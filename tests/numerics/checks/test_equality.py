"""What the equality check sees, and what it must not take for a difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope
from gradscope.models.cell import Cell
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.equality import comparable_weights
from gradscope.numerics.fused_backward import Flow
from gradscope.numerics.module_trace import ModuleTrace
from gradscope.records import EqualityCheck
from modules import CASES, CellLoop, ModuleCase, OwnLoop, Wrapped

X = torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def checked(module: nn.Module, x: Tensor = X, change: Callable[[Any], None] | None = None) -> EqualityCheck:
    trace = ModuleTrace(WholeModule("m", module.to(x.dtype).eval(), 3, kind="module"), x)
    if change is not None:
        change(trace.seen.recurrences[0])
    found = trace.equality(trace.cotangent(lambda y: y[:, -1].square().sum()))
    assert found is not None
    return found


def wrapped(case: str) -> nn.Module:
    return next(one for one in CASES if one.name == case).module()


@pytest.mark.parametrize("name", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"])
@pytest.mark.parametrize(
    "case",
    ["RNN(num_layers=2,bidirectional=False) y", "LSTM(num_layers=1,bidirectional=True) y", "GRUCell loop", "chunks"],
)
def test_one_altered_weight_is_seen(case: str, name: str) -> None:
    def altered(one: Any) -> None:
        cell: Cell = one.cells[-1][-1]
        cell.parameters[name].view(-1)[-1] += 1e-6

    assert checked(wrapped(case)).passed
    found = checked(wrapped(case), change=altered)
    assert not found.passed
    assert found.output > 1e-10 or found.grad > 1e-10


def test_another_state_to_start_from_is_seen() -> None:
    def moved(one: Any) -> None:
        one.__dict__["start"] = tuple(state.detach() + 1e-6 for state in one.start)

    assert not checked(wrapped("GRUCell loop"), change=moved).passed


def frozen(*names: str) -> nn.Module:
    torch.manual_seed(0)
    module = Wrapped(nn.LSTM, num_layers=2)
    module.head = nn.Linear(6, 2)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in names and "all" not in names)
    return module


@pytest.mark.parametrize("names", [("rnn.weight_hh_l0",), ("rnn.bias_ih_l1", "rnn.weight_ih_l0"), ("all",)])
def test_frozen_weights_are_no_difference_and_stay_frozen(names: tuple[str, ...]) -> None:
    module = frozen(*names)
    before = [p.requires_grad for p in module.parameters()]
    assert checked(module).passed
    assert [p.requires_grad for p in module.parameters()] == before
    assert all(p.grad is None for p in module.parameters())


class Shared(nn.Module):
    """Recurrent weights of one GRU that another GRU, the head or the loss read as well."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.low, self.high = nn.GRU(3, 3, batch_first=True), nn.GRU(3, 3, batch_first=True)
        self.head = nn.Linear(3, 9)
        if how == "recurrence":
            self.high.weight_hh_l0 = self.low.weight_hh_l0
        if how == "head":
            self.head.weight = self.low.weight_ih_l0

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.high(self.low(x)[0])[0])
        return functional.linear(y, self.low.weight_hh_l0.T) if self.how == "function" else y


@pytest.mark.parametrize("how", ["recurrence", "head", "function"])
def test_weights_that_something_else_reads_are_no_difference(how: str) -> None:
    assert checked(Shared(how)).passed


def test_gradients_of_weights_are_held_where_the_chain_has_all_of_them() -> None:
    def weights(module: nn.Module) -> list[str]:
        trace = ModuleTrace(WholeModule("m", module.double().eval(), 3, kind="module"), X)
        names = {part: name for name, part in module.named_modules()}
        return [names[part] for part in comparable_weights(trace.seen)]

    assert weights(Shared("none")) == ["low", "high"]
    assert weights(Shared("head")) == ["high"]
    assert weights(Shared("function")) == ["high"]
    assert weights(Shared("recurrence")) == []
    assert weights(CellLoop()) == ["cell"]
    assert weights(OwnLoop()) == []
    made = CellLoop()
    nn.utils.parametrizations.weight_norm(made.cell, "weight_hh")
    assert weights(made) == []


class Scalar(nn.Module):
    """h' = tanh(x + slope h), the loss on the last step."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, 1, batch_first=True, bias=False)
        with torch.no_grad():
            self.rnn.weight_hh_l0.fill_(slope)
            self.rnn.weight_ih_l0.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0] + 1


@pytest.mark.parametrize("slope", [1e-3, 4.0, 50.0])
def test_where_torch_overflows_or_underflows_there_is_no_difference(slope: float) -> None:
    found = checked(Scalar(slope), torch.zeros(1, 700, 1, dtype=torch.float64))
    assert found.passed
    assert found.grad < 1e-12


def test_a_wrong_quiet_step_is_seen_beside_loud_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = ModuleTrace.flow

    def halved(self: ModuleTrace, v: Any) -> Flow:
        found = flow(self, v)
        found.given.m[0, 3] /= 2
        return found

    module, x = Scalar(1e-3), torch.zeros(1, 40, 1, dtype=torch.float64)
    assert checked(module, x).passed
    monkeypatch.setattr(ModuleTrace, "flow", halved)
    found = checked(module, x)
    assert not found.passed
    assert found.grad == pytest.approx(0.5)


def test_float32_has_a_limit_of_its_own() -> None:
    torch.manual_seed(0)
    module = CellLoop(nn.LSTMCell)
    found = checked(module, X.float())
    assert found.passed
    assert 1e-9 < max(found.output, found.grad) < 1e-4


def test_a_loss_that_reads_nothing_is_no_failure() -> None:
    case: ModuleCase = CASES[0]
    trace = ModuleTrace(WholeModule("m", case.module(), 3, kind="module"), X)
    found = trace.equality(trace.cotangent(lambda y: torch.zeros((), dtype=torch.float64)))
    assert found is not None
    assert found.passed
    assert found.grad == 0


def test_a_gradient_that_torch_rounds_to_zero_is_no_difference() -> None:
    torch.manual_seed(0)
    report = gradscope.analyze(nn.RNN(1, 256, batch_first=True), x=torch.full((2, 40, 1), 3e5), dtype="float64")
    (model,) = report.models
    assert model.loaded.equality_check is not None
    assert model.loaded.equality_check.passed
    assert model.status == "vanishing"


class Begun(nn.Module):
    """A loop whose first state, or head, is made with parameters that its steps read too."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.w, self.u = way, nn.Linear(5, 5), nn.Linear(3, 5)
        self.h0 = nn.Parameter(torch.randn(2, 5))

    def forward(self, x: Tensor) -> Tensor:
        h0 = {
            "zeros": lambda: torch.zeros(5, dtype=x.dtype),
            "squashed": lambda: torch.tanh(self.h0[0]),
            "by the recurrent matrix": lambda: torch.tanh(self.w(self.h0[0])),
            "by a piece of it": lambda: torch.tanh(self.w.weight)[1] + self.w.weight[0],
            "a piece of it": lambda: self.w.weight[0],
            "of the input": lambda: torch.tanh(self.u(x.mean(1))),
            "tied head": lambda: torch.zeros(5, dtype=x.dtype),
        }[self.way]()
        h, states = h0.expand(len(x), 5), []
        for step in x.unbind(1):
            h = torch.tanh(self.w(h) + self.u(step))
            states.append(h)
        y = torch.stack(states, 1)
        return self.w(y) if self.way == "tied head" else y


@pytest.mark.parametrize(
    "way",
    ["zeros", "squashed", "by the recurrent matrix", "by a piece of it", "a piece of it", "of the input", "tied head"],
)
def test_the_weight_gradient_is_that_of_every_way_to_the_weights_of_the_steps(way: str) -> None:
    torch.manual_seed(0)
    module = Begun(way).double()
    found = gradscope.analyze(module, X, lambda y: y[:, -1].square().sum(), fix=False).models[0]
    module(X)[:, -1].square().sum().backward()
    own = [p.grad.norm() for p in (*module.w.parameters(), *module.u.parameters()) if p.grad is not None]
    assert found.loaded.equality_check is not None
    assert found.loaded.equality_check.passed
    assert found.summary.log10_grad_weight == pytest.approx(float(torch.stack(own).norm().log10()), abs=1e-10)
