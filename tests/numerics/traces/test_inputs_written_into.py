"""Modules that write into their input get a copy: gradients arrive at the input as it was given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradscope

X = torch.randn(3, 10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
SHIFT = torch.randn(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def scaled(x: Tensor) -> None:
    x.mul_(0.5)


def first_zeroed(x: Tensor) -> None:
    x[:, 0] = 0


def shifted(x: Tensor) -> None:
    x += SHIFT


def large_ones_removed(x: Tensor) -> None:
    x.masked_fill_(x > 1, 0)


class Writes(nn.Module):
    """What is written into x, and what reads it then."""

    def __init__(self, write: Callable[[Tensor], None], reads: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.write, self.reads = write, reads
        self.cell, self.gru = nn.GRUCell(4, 5), nn.GRU(4, 5, batch_first=True)
        self.w, self.u = nn.Linear(5, 5), nn.Linear(4, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        self.write(x)
        if self.reads == "mean":
            return torch.tanh(self.u(x)).mean(1)
        if self.reads == "gru":
            return self.gru(x)[0]
        h = x.new_zeros(len(x), 5)
        for step in x.unbind(1):
            h = self.cell(step, h) if self.reads == "cell" else torch.tanh(self.w(h) + self.u(step))
        return h


@pytest.mark.parametrize("reads", ["written", "cell", "gru", "mean"])
@pytest.mark.parametrize("write", [scaled, first_zeroed, shifted, large_ones_removed])
def test_gradients_are_those_of_the_input_before_it_was_written_into(
    write: Callable[[Tensor], None], reads: str
) -> None:
    net, x = Writes(write, reads), X.clone()
    found = gradscope.analyze(net, x, lambda y: y.square().sum()).models[0]
    assert torch.equal(x, X)
    rows = []
    for row in X.split(1):
        leaf = row.clone().requires_grad_()
        net(leaf.clone()).square().sum().backward()
        assert leaf.grad is not None
        rows.append(leaf.grad.norm(dim=-1))
    right = torch.cat(rows).log10().mean(0).tolist()
    assert found.series.values["log10_grad_input"] == pytest.approx(right, abs=1e-9)
    assert (found.kind == "recurrent") == (reads != "mean")
    assert found.loaded.equality_check is None or found.loaded.equality_check.passed


class WritesIds(nn.Module):
    """Negative ids are padding and become the first word."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.cell = nn.Embedding(9, 4), nn.GRUCell(4, 5)

    def forward(self, ids: Tensor) -> Tensor:
        ids[ids == 8] = 0
        h = self.e.weight.new_zeros(len(ids), 5)
        for step in ids.unbind(1):
            h = self.cell(self.e(step), h)
        return h


def test_ids_that_are_written_into_stay_the_callers() -> None:
    ids = torch.arange(18).reshape(2, 9) % 9
    found = gradscope.analyze(WritesIds(), ids, lambda y: y.sum()).models[0]
    assert torch.equal(ids, torch.arange(18).reshape(2, 9) % 9)
    assert found.kind == "recurrent"
