"""Cells that bring nothing but a step: their chains come from torch.func and equal the closed forms."""

from __future__ import annotations

import pytest
import torch

from cases import Case
from gradscope import analyze
from gradscope.errors import UsageError
from gradscope.models.stack import Recurrent
from gradscope.models.user_step import CustomCell
from gradscope.numerics.adjoint import backpropagate


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


class Cell:
    """`initial_state` and a step, as users write them."""

    def __init__(self, initial, step) -> None:
        self.initial_state, self.step = initial, step


REAL = torch.float64
W = torch.tensor([[0.6, -0.8], [0.7, 0.5]], dtype=REAL)
X = torch.linspace(-2, 2, 3 * 9 * 2, dtype=REAL).reshape(3, 9, 2)
STARTS = torch.tensor([[0.0, 0.0], [2.0, -1.0], [-3.0, 3.0]], dtype=REAL)


def turned(x, s):
    return torch.tanh(s @ W.T + x)


def last(y):
    return y[:, -1].sum()


def influence_of(step, start) -> list[float]:
    """log10 I(k), geometric mean over sequences, by autograd through the loop."""
    x, s = X.clone().requires_grad_(), start
    for t in range(9):
        s = step(x[:, t], s)
    (gradient,) = torch.autograd.grad(s.sum(), x)
    return gradient.norm(dim=-1).log10().mean(0).flip(0).tolist()


@pytest.mark.parametrize("initial", [STARTS, lambda batch: STARTS[:batch]], ids=["tensor", "function"])
def test_every_sequence_starts_from_its_own_row(initial) -> None:
    report = analyze(Cell(initial, turned), X, loss=last, item=2)
    assert report.models[0].series.values["log10_influence"] == pytest.approx(influence_of(turned, STARTS), abs=1e-9)
    assert report.models[0].summary.chain_rule_residual < 1e-12
    first = torch.func.jacrev(lambda s: turned(X[2, :1], s[None])[0])(STARTS[2])
    norm = float(torch.linalg.matrix_norm(first, 2).log10())
    assert report.models[0].series.values["log10_jacobian_norm"][0] == pytest.approx(norm, abs=1e-9)


def test_a_random_start_is_drawn_once() -> None:
    cell = Cell(lambda batch: torch.randn(batch, 2, dtype=REAL), turned)
    assert analyze(cell, X, loss=last).models[0].summary.chain_rule_residual < 1e-12


def test_states_for_another_number_of_sequences_are_refused() -> None:
    with pytest.raises(UsageError, match=r"shape \(2, 2\); expected \(2,\) or \(3, 2\) for 3 sequences"):
        analyze(Cell(STARTS[:2], turned), X, loss=last)


@pytest.mark.parametrize("initial", [(W[0], W[1]), lambda batch: (W[0], W[1])], ids=["tuple", "function"])
def test_a_state_in_two_parts_is_refused_with_the_remedy(initial) -> None:
    with pytest.raises(UsageError, match=r"is a tuple; expected one tensor \(size,\)"):
        analyze(Cell(initial, turned), X, loss=last)


def test_a_step_that_mixes_sequences_is_told_of() -> None:
    mixed = Cell(torch.zeros(2, dtype=REAL), lambda x, s: turned(x, s) + s.mean(0, keepdim=True) / 2)
    found = analyze(mixed, X, loss=last).models[0]
    assert found.status == "degenerate"
    assert {v.code: v.status for v in found.verdicts}["GS403"] == "fail"
    assert found.summary.mixed in {(1, 3), (2, 3)}
    assert analyze(mixed, X[:1], loss=last).models[0].summary.mixed is None


def test_a_branch_on_all_sequences_is_taken_by_each() -> None:
    def branching(x, s):
        return s * (0.5 if float(x.detach().sum()) > 0 else 0.9) + x

    def alone(x, s):
        return torch.cat([branching(x[b : b + 1], s[b : b + 1]) for b in range(len(x))])

    found = analyze(Cell(torch.zeros(2, dtype=REAL), branching), X, loss=last).models[0]
    expected = influence_of(alone, torch.zeros(3, 2, dtype=REAL))
    assert found.series.values["log10_influence"] == pytest.approx(expected, abs=1e-9)
    assert found.summary.mixed is None


def test_a_step_may_write_into_what_it_is_given() -> None:
    given = X.clone()
    writing = Cell(torch.zeros(2, dtype=REAL), lambda x, s: s.mul_(0.9).add_(x.mul_(2)))
    found = analyze(writing, given, loss=last).models[0]
    assert torch.equal(given, X)
    assert found.summary.gain == pytest.approx(0.9, abs=1e-12)


def test_a_step_may_return_a_coarser_type() -> None:
    coarse = Cell(torch.zeros(2, dtype=REAL), lambda x, s: turned(x, s).float())
    found = analyze(coarse, X, loss=last).models[0]
    expected = influence_of(turned, torch.zeros(3, 2, dtype=REAL))
    assert found.series.values["log10_influence"] == pytest.approx(expected, abs=1e-5)
