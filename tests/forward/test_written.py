"""Tensors that a module writes into: outputs of a layer, parts of its state, and what a reset leaves of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

import gradscope
from gradscope.records import ModelResult

STEPS, SIZE = 9, 4
X = torch.randn(3, STEPS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
RESETS = (6, 5, 8)
"""The step of each sequence at which x asks for a fresh state."""
X[..., 0].clamp_(max=0.9)
X[torch.arange(3), torch.tensor(RESETS) - 1, 0] = 2.0
Write = Callable[[Tensor, Tensor, int], Tensor]


class Cell(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.i, self.h = nn.Linear(features, SIZE), nn.Linear(SIZE, SIZE)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.i(x) + self.h(h))


class Stack(nn.Module):
    """Layers one after the other, each of which writes its outputs into a tensor of zeros."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self.write, self.cells = write, nn.ModuleList([Cell(3), Cell(SIZE), Cell(SIZE)])

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            out, h = x.new_zeros(len(x), STEPS, SIZE), x.new_zeros(len(x), SIZE)
            for t in range(STEPS):
                h = cell(x[:, t], h)
                out = self.write(out, h, t)
            x = out
        return x


def item(out: Tensor, h: Tensor, t: int) -> Tensor:
    out[:, t] = h
    return out


def halves(out: Tensor, h: Tensor, t: int) -> Tensor:
    out[:, t, :2] = h[:, :2]
    out[:, t, 2:] = h[:, 2:]
    return out


def added(out: Tensor, h: Tensor, t: int) -> Tensor:
    out[:, t] += h
    return out


def rows(out: Tensor, h: Tensor, t: int) -> Tensor:
    out[torch.arange(len(h)), t] = h
    return out


WRITES = {
    "out[:, t] = h": item,
    "two writes a step": halves,
    "out[:, t] += h": added,
    "out[rows, t] = h": rows,
    "index_copy_": lambda out, h, t: out.index_copy_(1, torch.tensor([t]), h[:, None]),
    "index_add": lambda out, h, t: out.index_add(1, torch.tensor([t]), h[:, None]),
    "scatter": lambda out, h, t: out.scatter(1, torch.full((len(h), 1, SIZE), t), h[:, None]),
    "select_scatter": lambda out, h, t: torch.select_scatter(out, h, 1, t),
}


def measured(module: nn.Module) -> ModelResult:
    return gradscope.analyze(module, X, loss=lambda out: out[:, -1].sum()).models[0]


def norms(step: Callable[[Tensor, int], Tensor], size: int) -> list[float]:
    """log10 of the norms of J_1 .. J_T of the first sequence, by autograd on a step that writes into nothing."""
    state, found = torch.zeros(1, size, dtype=torch.float64), []
    for t in range(STEPS):
        whole = jacobian(lambda s, t=t: step(s, t)[0], state)[:, 0]
        found.append(float(torch.linalg.matrix_norm(whole, 2).log10()))
        state = step(state, t).detach()
    return found


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_outputs_that_are_written_into_a_tensor_are_no_state(write):
    torch.manual_seed(0)
    module = Stack(write).double()
    found = measured(module)

    def step(state: Tensor, t: int) -> Tensor:
        x, made = X[:1, t], []
        for cell, h in zip(module.cells, state.split(SIZE, -1), strict=True):
            x = cell(x, h)
            made.append(x)
        return torch.cat(made, -1)

    assert found.size == 3 * SIZE
    assert found.series.values["log10_jacobian_norm"] == pytest.approx(norms(step, 3 * SIZE), abs=1e-9)


class Loop(nn.Module):
    """A loop whose state is what `update` makes of the state before and of the new one."""

    def __init__(self, update: Callable[[Tensor, Tensor, Tensor], Tensor], *, first: bool = False) -> None:
        super().__init__()
        self.cell, self.update, self.first = Cell(3), update, first

    def step(self, h: Tensor, x: Tensor) -> Tensor:
        if self.first:
            return self.cell(x, self.update(h, h, x))
        return self.update(h, self.cell(x, h), x)

    def forward(self, x: Tensor) -> Tensor:
        h, out = x.new_zeros(len(x), SIZE), []
        for now in x.unbind(1):
            h = self.step(h, now)
            out.append(h)
        return torch.stack(out, 1)


def parts(h: Tensor, new: Tensor, x: Tensor) -> Tensor:
    h = h.clone()
    h[:, :2] = new[:, :2]
    h[:, 2:] = 0.5 * h[:, 2:] + new[:, 2:]
    return h


def units(h: Tensor, new: Tensor, x: Tensor) -> Tensor:
    made = torch.zeros_like(new)
    for unit in range(SIZE):
        made[:, unit] = new[:, unit]
    return made


def chosen(h: Tensor, new: Tensor, x: Tensor) -> Tensor:
    h = 0.3 * h
    h[new > 0] = new[new > 0]
    return h


def moved(h: Tensor, new: Tensor, x: Tensor) -> Tensor:
    h, active = h.clone(), x[:, 1] > -0.5
    h[active] = new[active]
    return h


def by_place(h: Tensor, new: Tensor, x: Tensor) -> Tensor:
    h, active = h.clone(), (x[:, 1] > -0.5).nonzero().flatten()
    h[active] = new[active]
    return h


def shifted(h: Tensor, new: Tensor, x: Tensor) -> Tensor:
    h = h.roll(-1, 1)
    h[:, -1] = new[:, 0]
    return h


def active(h: Tensor, new: Tensor, x: Tensor) -> Tensor:
    return torch.where(x[:, 1:2] > -0.5, new, h)


UPDATES = {
    "parts": (parts, lambda h, new, x: torch.cat([new[:, :2], 0.5 * h[:, 2:] + new[:, 2:]], 1)),
    "unit by unit": (units, lambda h, new, x: new),
    "where a mask of units is": (chosen, lambda h, new, x: torch.where(new > 0, new, 0.3 * h)),
    "sequences of a mask": (moved, active),
    "sequences of an index": (by_place, active),
    "a line of delays": (shifted, lambda h, new, x: torch.cat([h[:, 1:], new[:, :1]], 1)),
}


@pytest.mark.parametrize(("update", "plain"), UPDATES.values(), ids=UPDATES)
def test_a_state_that_is_written_into_is_one(update, plain):
    torch.manual_seed(0)
    module = Loop(update).double()
    found = measured(module)
    wanted = norms(lambda h, t: plain(h, module.cell(X[:1, t], h), X[:1, t]), SIZE)
    assert found.size == SIZE
    known = found.series.values["log10_jacobian_norm"]
    assert known[1:] == pytest.approx(wanted[1:], abs=1e-9)


def filled(h: Tensor, same: Tensor, x: Tensor) -> Tensor:
    h = h.clone()
    h[x[:, 0] > 1] = 0
    return h


def one_by_one(h: Tensor, same: Tensor, x: Tensor) -> Tensor:
    h = h.clone()
    for place in range(len(h)):
        if x[place, 0] > 1:
            h[place] = 0.0
    return h


@pytest.mark.parametrize(
    "reset",
    [
        filled,
        one_by_one,
        lambda h, same, x: h.index_fill(0, (x[:, 0] > 1).nonzero().flatten(), 0.0),
        lambda h, same, x: h.masked_fill((x[:, 0] > 1)[:, None], 0.0),
    ],
)
def test_a_state_that_is_overwritten_with_zeros_is_made_anew(reset):
    torch.manual_seed(0)
    found = measured(Loop(reset, first=True).double())
    assert found.summary.made_anew == found.summary.zeroed == (RESETS[0],)
    assert next(verdict.status for verdict in found.verdicts if verdict.code == "GS401") == "fail"


class Scalar(nn.Module):
    """A state of many numbers that begins as a single one for all sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.v = nn.Linear(3, SIZE), nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        v, out = self.v, []
        for now in x.unbind(1):
            v = v + self.i(now)
            v = v * torch.sigmoid(v)
            out.append(v)
        return torch.stack(out, 1)


def test_a_state_may_begin_as_one_number():
    torch.manual_seed(0)
    module = Scalar().double()
    found = measured(module)
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, -1].sum(), x)
    wanted = gradient.norm(dim=-1).log10().mean(0).flip(0).tolist()
    assert found.size == SIZE
    assert found.series.values["log10_influence"] == pytest.approx(wanted, abs=1e-9)


class Gated(nn.Module):
    """(h, c), of which the head reads a piece."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(3 + SIZE, 4 * SIZE)

    def forward(self, x: Tensor) -> Tensor:
        h, c, out = x.new_zeros(len(x), SIZE), x.new_zeros(len(x), SIZE), []
        for now in x.unbind(1):
            i, f, g, o = self.cell(torch.cat([now, h], 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            out.append(h[:, :2].square())
        return torch.stack(out, 1)


def test_a_piece_of_a_state_is_read_of_that_state():
    torch.manual_seed(0)
    module = Gated().double()
    found = measured(module)
    last = module(X)[:, -1].sqrt().detach()
    wanted = (2 * last).norm(dim=1).log10().mean()
    assert found.size == 2 * SIZE
    assert found.series.values["log10_grad_state"][-1] == pytest.approx(float(wanted), abs=1e-9)
