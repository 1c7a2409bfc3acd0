"""Cells that bring nothing but a step: their chains come from torch.func and equal the closed forms."""

from __future__ import annotations

import pytest
import torch

from cases import Case
from gradscope.errors import UsageError
from gradscope.models.custom import CustomCell
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.gradients.adjoint import backpropagate


def wrapped(case: Case) -> tuple[Recurrent, Recurrent]:
    model = case.model()
    cell = model.cells[0]
    return model, Recurrent("custom", [CustomCell("cell", cell.step, cell.initial_state(1)[0], case.input_size)])


@pytest.mark.parametrize("family", ["rnn", "gru", "lstm", "lru"])
def test_chain_equals_the_closed_form(family: str) -> None:
    case = Case(family)
    model, custom = wrapped(case)
    torch.testing.assert_close(custom.run(case.x()).dense(0, 7), model.run(case.x()).dense(0, 7), rtol=0, atol=1e-13)


@pytest.mark.parametrize("family", ["rnn", "gru"])
def test_adjoint_equals_the_closed_form(family: str) -> None:
    case = Case(family)
    model, custom = wrapped(case)
    v = torch.randn(case.batch, case.length, 5, dtype=torch.float64)
    mine, theirs = backpropagate(custom.run(case.x()), v), backpropagate(model.run(case.x()), v)
    torch.testing.assert_close(mine.state, theirs.state, rtol=0, atol=1e-12)
    torch.testing.assert_close(mine.input, theirs.input, rtol=0, atol=1e-12)
    assert mine.weight is None


def test_a_modules_weights_are_its_own() -> None:
    class Cell(torch.nn.Module):
        def __init__(self, inner) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(inner.parameters["weight_ih"].clone())
            self.u = torch.nn.Parameter(inner.parameters["weight_hh"].clone())
            self.b = torch.nn.Parameter(inner.parameters["bias_ih"].clone())
            self.c = torch.nn.Parameter(inner.parameters["bias_hh"].clone())

        def forward(self, x, s):
            return torch.tanh(x @ self.w.T + self.b + s @ self.u.T + self.c)

    case = Case("rnn")
    model = case.model()
    custom = Recurrent("c", [CustomCell("cell", Cell(model.cells[0]), torch.zeros(5, dtype=torch.float64), 3)])
    v = torch.randn(case.batch, case.length, 5, dtype=torch.float64)
    mine, theirs = backpropagate(custom.run(case.x()), v), backpropagate(model.run(case.x()), v)
    torch.testing.assert_close(mine.weight, theirs.weight, rtol=0, atol=1e-12)
    assert mine.weight_gradient == pytest.approx(theirs.weight_gradient, abs=1e-12)


def test_steps_that_vmap_cannot_follow_are_differentiated_one_by_one() -> None:
    def branching(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return s * 0.5 if float(x.sum()) > 0 else s * 2.0

    x = torch.tensor([[[1.0], [-1.0], [1.0]]], dtype=torch.float64)
    model = Recurrent("b", [CustomCell("cell", branching, torch.ones(2, dtype=torch.float64), 1)])
    found = model.run(x).dense(0, 3)[0]
    assert [float(j[0, 0]) for j in found] == [0.5, 2.0, 0.5]


def test_a_step_that_fails_or_returns_the_wrong_shape_is_one_clear_line() -> None:
    state, x = torch.zeros(2, dtype=torch.float64), torch.zeros(1, 3, 1, dtype=torch.float64)
    with pytest.raises(UsageError, match=r"returns \(1, 3\); expected a state \(1, 2\)"):
        Recurrent("c", [CustomCell("c", lambda x, s: torch.zeros(1, 3), state, 1)]).run(x)
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        Recurrent("c", [CustomCell("c", lambda x, s: s * (1 / 0), state, 1)]).run(x)


@pytest.mark.parametrize("where", ["random", "remembered"])
def test_a_step_that_is_another_function_at_every_call_is_refused(where: str) -> None:
    calls: list[int] = []

    def step(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        factor = 1 + torch.rand(3, dtype=s.dtype) / 5 if where == "random" else 1 + len(calls) / 10
        return torch.tanh(s + x) * factor

    cell = CustomCell("cell", step, torch.zeros(3, dtype=torch.float64), 3)
    with pytest.raises(UsageError, match="returns another state when it is called again"):
        Recurrent("custom", [cell]).run(torch.ones(2, 9, 3, dtype=torch.float64))
