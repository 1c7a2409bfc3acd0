"""What is said of how a module was taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gradscope


class Tagger(nn.Module):
    """A bidirectional GRU of which the head reads the last output, or the mean."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.rnn, self.head, self.last = nn.GRU(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 2), last

    def forward(self, x: Tensor) -> Tensor:
        y = self.rnn(x)[0]
        return self.head(y[:, -1] if self.last else y.mean(1))


def notes(module: nn.Module) -> str:
    x = torch.randn(4, 15, 3, generator=torch.Generator().manual_seed(0))
    return " | ".join(gradscope.analyze(module, x, loss=lambda y: y.square().sum()).models[0].notes)


def test_the_last_output_of_a_reverse_half_has_seen_one_input() -> None:
    assert "the last output of rnn, whose reverse half has seen the last input alone" in notes(Tagger(last=True))
    assert "reverse half" not in notes(Tagger(last=False))


class Summing(nn.Module):
    """A contracting recurrence, by torch or in a loop, that returns its steps in a form of its own."""

    def __init__(self, form: str, by_loop: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head, self.form, self.by_loop = nn.RNN(3, 6, batch_first=True), nn.Linear(6, 2), form, by_loop
        self.u, self.w = nn.Linear(3, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h, hs = x.new_zeros(len(x), 6), []
        for step in x.unbind(1) if self.by_loop else ():
            h = torch.tanh(self.u(step) + 0.5 * self.w(h))
            hs.append(h)
        y = self.head(torch.stack(hs, 1) if self.by_loop else self.rnn(x)[0])
        forms = {"last": y[:, -1], "two": y[:, -2:].sum(1), "number": y.square().sum(), "each": y.square().sum((1, 2))}
        forms |= {"pooled": y.mean(1), "flat": y.flatten(1), "classes first": y.transpose(1, 2).flatten(1), "steps": y}
        return forms[self.form]


@pytest.mark.parametrize("by_loop", [False, True])
@pytest.mark.parametrize(
    ("form", "summed"), [("number", True), ("each", True), ("pooled", True), ("last", False), ("two", False)]
)
def test_a_sum_over_steps_that_the_module_makes_is_said(form: str, summed: bool, by_loop: bool) -> None:
    said = notes(Summing(form, by_loop))
    assert ("adds up 15 of 15 steps inside the module" in said) == summed, said


@pytest.mark.parametrize("by_loop", [False, True])
@pytest.mark.parametrize("form", ["flat", "classes first"])
def test_steps_and_classes_in_one_axis_are_looked_back_from_the_newest_step(form: str, by_loop: bool) -> None:
    x = torch.randn(4, 15, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, other = (
        gradscope.analyze(Summing(kind, by_loop).double(), x, lambda y: y.square().sum()).models[0]
        for kind in (form, "steps")
    )
    assert one.series.values["log10_influence"] == pytest.approx(other.series.values["log10_influence"], abs=1e-9)
    assert "adds up" not in " ".join(one.notes)
