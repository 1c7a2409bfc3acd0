"""A module that keeps something, run twice as if for the first time."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn

from gradscope.isolation.caller_state import generators, own_random_numbers
from gradscope.models.user_modules import alike, as_before


class Keeper(nn.Module):
    """Keeps its input, counts in place, replaces a buffer, remembers words."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(2))
        self.word, self.pair, self.fine = "before", None, [1]

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.seen = x.detach()
        self.pair, self.new, self.word = (x, x), x, "after"
        return x * self.count


def test_tensors_are_put_back_and_words_are_not() -> None:
    module = Keeper()
    seen, count = module.seen, module.count
    with as_before(module):
        module(torch.ones(2))
    assert module.seen is seen
    assert torch.equal(module.count, torch.zeros(()))
    assert module.pair is None
    assert not hasattr(module, "new")
    assert module.word == "after"
    assert float(count) == 1  # what a graph may hold is left alone; the module has a fresh copy


def test_what_is_put_back_is_still_differentiable() -> None:
    module, x = Keeper(), torch.ones(2, requires_grad=True)
    with as_before(module):
        y = module(x)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones(2))


def test_an_exception_puts_back_too() -> None:
    module = Keeper()
    try:
        with as_before(module):
            module(torch.ones(2))
            raise ValueError
    except ValueError:
        pass
    assert module.pair is None
    assert float(module.count) == 0


def test_draws_are_repeated_and_disturb_nobody() -> None:
    torch.manual_seed(1)
    states = generators()
    with own_random_numbers(states=states):
        first = torch.rand(3), random.random(), np.random.rand()
    with own_random_numbers(states=states):
        again = torch.rand(3), random.random(), np.random.rand()
    assert torch.equal(first[0], again[0])
    assert first[1:] == again[1:]
    assert torch.equal(states["cpu"], torch.get_rng_state())


def test_alike_is_equal_within_rounding() -> None:
    a = torch.tensor([1.0, float("nan"), 1e-30], dtype=torch.float64)
    assert alike((a, "x"), (a + 1e-12, "y"))
    assert not alike(a, a + torch.tensor([1e-6, 0, 0], dtype=torch.float64))
    assert not alike(torch.ones(2), torch.ones(3))
    assert alike(torch.zeros(0), torch.zeros(0))
