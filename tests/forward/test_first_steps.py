"""Every J_t of a written loop, from its first full state on, beside the step written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.loop_trace import LoopTrace
from gradscope.numerics.pick_trace import choose_module_trace

WIDTH, FEATURES, LENGTH = 3, 2, 12
Step = Callable[["Cell", int, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""(weights, t from 0, x_t, parts of the state) -> parts of the next state."""


class Cell(nn.Module):
    """The weights that all loops below share."""

    def __init__(self) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(1)
        shapes = {"w": (12, FEATURES), "u": (12, WIDTH), "v": (6, 2 * WIDTH)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(0.6 * torch.randn(shape, generator=drawn, dtype=torch.float64)))

    def zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), WIDTH)

    def tanh(self, x: Tensor, h: Tensor | float) -> Tensor:
        return torch.tanh(x @ self.w[:3].T + (h @ self.u[:3].T if isinstance(h, Tensor) else 0.0))

    def gated(self, both: Tensor, h: Tensor) -> Tensor:
        z, n = (both @ self.v[:, : both.shape[1]].T).chunk(2, 1)
        return z.sigmoid() * h + (1 - z.sigmoid()) * n.tanh()


class FromNumber(Cell):
    def forward(self, x: Tensor) -> Tensor:
        h, outputs = 0.0, []
        for t in range(x.shape[1]):
            h = self.tanh(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class TimesNumber(Cell):
    """The number becomes a tensor by what it is multiplied with."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = 0, []
        for t in range(x.shape[1]):
            h = self.tanh(x[:, t], h * torch.ones(len(x), WIDTH, dtype=x.dtype))
            outputs.append(h)
        return torch.stack(outputs, 1)


class SameZeros(Cell):
    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        h = c = torch.zeros(len(x), WIDTH, dtype=x.dtype)
        for t in range(x.shape[1]):
            h, c = lstm(self, t, x[:, t], (h, c))
            outputs.append(h)
        return torch.stack(outputs, 1)


class DelayLine(Cell):
    """The last three states, a list that has to be filled first."""

    def forward(self, x: Tensor) -> Tensor:
        line: list[Tensor] = []
        for t in range(x.shape[1]):
            total = x[:, t] @ self.w[:3].T
            if line:
                total = total + line[-1] @ self.u[:3].T
            if len(line) >= 3:
                total = total + line[-3] @ self.u[3:6].T
            line.append(torch.tanh(total))
        return torch.stack(line, 1)


class ZeroLine(Cell):
    """The same, filled with one tensor of zeros."""

    def forward(self, x: Tensor) -> Tensor:
        line, outputs = [self.zeros(x)] * 3, []
        for t in range(x.shape[1]):
            line = list(delayed(self, t, x[:, t], tuple(line)))
            outputs.append(line[-1])
        return torch.stack(outputs, 1)


class FastAndSlow(Cell):
    def forward(self, x: Tensor) -> Tensor:
        fast, slow, outputs = self.zeros(x), self.zeros(x), []
        for t in range(x.shape[1]):
            fast, slow = fast_and_slow(self, t, x[:, t], (fast, slow))
            outputs.append(fast)
        return torch.stack(outputs, 1)


class Masked(Cell):
    """The state of sequences that end is taken away before the next step reads it."""

    keep: float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        kept = torch.ones(x.shape[1], dtype=x.dtype)
        kept[9:10] = self.keep
        for t, x_t in enumerate(x.unbind(1)):
            h = h * kept[t]
            h = self.tanh(x_t, h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class HalfMasked(Masked):
    keep = 0.5


class MaskedByInput(Cell):
    """The mask is read off the input."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            done = (x[:, t, :1] > 1.0).to(x.dtype)
            h = self.tanh(x[:, t], h * (1 - done))
            outputs.append(h)
        return torch.stack(outputs, 1)


class DecayedAtTheEnd(Cell):
    """Each step ends with a decay of the new state, which the next one and the output read."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.zeros(x)
        for t in range(x.shape[1]):
            h = self.tanh(x[:, t], h)
            h = h * (0.4 + 0.05 * t)
        return h[:, None]


class RatesBesidePotentials(Cell):
    """Two tensors stand before the first step; later ones read a state, and what is computed from it."""

    def forward(self, x: Tensor) -> Tensor:
        v, r, outputs = self.zeros(x), self.zeros(x), []
        for t in range(x.shape[1]):
            v = 0.7 * v + x[:, t] @ self.w[:3].T + r @ self.u[:3].T
            r = torch.tanh(v)
            outputs.append(r)
        return torch.stack(outputs, 1)


class MadeAnew(Cell):
    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            if t and t % 5 == 0:
                h = self.zeros(x)
            h = self.tanh(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class ZeroedByNumber(Cell):
    """Made anew as a number."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = 0.0, []
        for t in range(x.shape[1]):
            h = self.tanh(x[:, t], 0.0 if t and t % 5 == 0 else h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class TwoLayers(Cell):
    """Gates over cat((x, h)): both layers' parts belong to one moment."""

    count = 2

    def forward(self, x: Tensor) -> Tensor:
        states, outputs = tuple(self.zeros(x) for _ in range(self.count)), []
        for t in range(x.shape[1]):
            states = layered(self, t, x[:, t], states)
            outputs.append(states[-1])
        return torch.stack(outputs, 1)


class HiddenFirst(Cell):
    """Parts of one shape that are made in another order than they are updated in."""

    def begin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h, c = self.zeros(x), self.zeros(x)
        return h, c

    def forward(self, x: Tensor) -> Tensor:
        outputs, s = [], self.begin(x)
        for t in range(x.shape[1]):
            h, c = lstm(self, t, x[:, t], s)
            s = h, c
            outputs.append(h)
        return torch.stack(outputs, 1)


class CellFirst(HiddenFirst):
    def begin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        c, h = self.zeros(x), self.zeros(x)
        return h, c


class FarthestFirst(Cell):
    """The state of the upper layer is there before that of the lower one."""

    def forward(self, x: Tensor) -> Tensor:
        upper = self.zeros(x)
        lower, outputs = self.zeros(x), []
        for t in range(x.shape[1]):
            lower, upper = layered(self, t, x[:, t], (lower, upper))
            outputs.append(upper)
        return torch.stack(outputs, 1)


class ThreeLayers(TwoLayers):
    count = 3


def plain(cell: Cell, t: int, x: Tensor, s: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (cell.tanh(x, s[0]),)


def lstm(cell: Cell, t: int, x: Tensor, s: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    i, f, g, o = (x @ cell.w.T + s[0] @ cell.u.T).chunk(4, -1)
    c = f.sigmoid() * s[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def delayed(cell: Cell, t: int, x: Tensor, s: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    h = torch.tanh(x @ cell.w[:3].T + s[2] @ cell.u[:3].T + s[0] @ cell.u[3:6].T)
    return s[1], s[2], h


def fast_and_slow(cell: Cell, t: int, x: Tensor, s: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    fast = torch.tanh(x @ cell.w[:3].T + s[0] @ cell.u[:3].T + s[1] @ cell.u[3:6].T)
    return fast, torch.tanh(fast @ cell.u[6:9].T + s[1]) if t % 3 == 2 else s[1]


def masked(keep: float) -> Step:
    return lambda cell, t, x, s: (cell.tanh(x, s[0] * (keep if t == 9 else 1.0)),)


def masked_by_input(cell: Cell, t: int, x: Tensor, s: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (cell.tanh(x, s[0] * (1 - (x[:, :1] > 1.0).to(x.dtype))),)


def decayed(cell: Cell, t: int, x: Tensor, s: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (cell.tanh(x, s[0]) * (0.4 + 0.05 * t),)


def rates(cell: Cell, t: int, x: Tensor, s: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (0.7 * s[0] + x @ cell.w[:3].T + s[0].tanh() @ cell.u[:3].T,)


def made_anew(cell: Cell, t: int, x: Tensor, s: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (cell.tanh(x, s[0] * (0.0 if t and t % 5 == 0 else 1.0)),)


def layered(cell: Cell, t: int, x: Tensor, s: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    found: list[Tensor] = []
    flow = x
    for h in s:
        flow = cell.gated(torch.cat((flow, h), 1), h)
        found.append(flow)
    return tuple(found)


@dataclass(frozen=True)
class Loop:
    module: type[Cell]
    step: Step
    parts: int = 1
    begins: int = 0
    zero: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.module.__name__


LOOPS = [
    Loop(FromNumber, plain, begins=1),
    Loop(TimesNumber, plain, begins=1),
    Loop(SameZeros, lstm, 2, begins=1),
    Loop(HiddenFirst, lstm, 2),
    Loop(CellFirst, lstm, 2),
    Loop(FarthestFirst, layered, 2),
    Loop(DelayLine, delayed, 3, begins=3),
    Loop(ZeroLine, delayed, 3, begins=2),
    Loop(FastAndSlow, fast_and_slow, 2),
    Loop(Masked, masked(0.0), zero=(10,)),
    Loop(HalfMasked, masked(0.5)),
    Loop(MaskedByInput, masked_by_input, zero=(6,)),
    Loop(DecayedAtTheEnd, decayed),
    Loop(RatesBesidePotentials, rates, begins=1),
    Loop(MadeAnew, made_anew, zero=(6, 11)),
    Loop(ZeroedByNumber, made_anew, begins=1, zero=(6, 11)),
    Loop(TwoLayers, layered, 2),
    Loop(ThreeLayers, layered, 3),
]
X = torch.randn(2, LENGTH, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def by_hand(loop: Loop, module: Cell, x: Tensor) -> list[Tensor]:
    """J_t of the first sequence for every step after the first full state."""
    parts = tuple(torch.zeros(1, WIDTH, dtype=torch.float64) for _ in range(loop.parts))
    found = []
    for t in range(x.shape[1]):

        def flat(s: Tensor, t: int = t) -> Tensor:
            return torch.cat(loop.step(module, t, x[:1, t], tuple(s.chunk(loop.parts, 1))), 1)

        s = torch.cat(parts, 1)
        found.append(torch.autograd.functional.jacobian(flat, s)[0, :, 0])
        parts = tuple(flat(s).detach().chunk(loop.parts, 1))
    return found[loop.begins :]


def sigma(matrix: Tensor) -> Tensor:
    """Singular values: the same in whatever order the parts of a state are taken."""
    return torch.linalg.svdvals(matrix)


ALL = [(loop, LENGTH) for loop in LOOPS]
SHORT = [(loop, 6) for loop in LOOPS if loop.module not in (DelayLine, FastAndSlow)]


@pytest.mark.parametrize(("loop", "length"), [*ALL, *SHORT, (LOOPS[-2], 4), (LOOPS[-1], 3)], ids=str)
def test_jacobians_and_products_are_those_of_the_step(loop: Loop, length: int) -> None:
    module, x = loop.module(), X[:, :length]
    trace = choose_module_trace(WholeModule("m", module, FEATURES, kind="module"), x)
    assert isinstance(trace, LoopTrace)
    chain = trace.chain(0)
    expected = by_hand(loop, module, x)
    assert (chain.begins, chain.length) == (loop.begins, len(expected))
    own, product, theirs = chain.dense(0, chain.length)[0], torch.eye(chain.size), torch.eye(chain.size)
    product, theirs = product.double(), theirs.double()
    for t, jacobian in enumerate(expected):
        assert torch.allclose(sigma(own[t]), sigma(jacobian), atol=1e-12), loop.begins + t + 1
        product, theirs = own[t] @ product, jacobian @ theirs
        assert torch.allclose(sigma(product), sigma(theirs), atol=1e-12), loop.begins + t + 1
    zero = tuple(loop.begins + t + 1 for t in range(len(own)) if not own[t].any())
    assert zero == tuple(t for t in loop.zero if t <= length)
    assert any(torch.allclose(own, torch.stack(expected)[:, p][:, :, p], atol=1e-12) for p in orders(loop.parts))


def orders(parts: int) -> list[Tensor]:
    """Places of a state's numbers for every order of its parts, which holds for all steps."""
    whole = torch.arange(parts * WIDTH).reshape(parts, WIDTH)
    return [whole[list(order)].flatten() for order in permutations(range(parts))]


@pytest.mark.parametrize("loop", [loop for loop in LOOPS if not loop.zero], ids=str)
def test_no_step_that_is_not_there_is_singular(loop: Loop) -> None:
    report = gradscope.analyze(loop.module(), X, loss="every" if loop.module is not DecayedAtTheEnd else "final")
    (model,) = report.models
    expected = by_hand(loop, loop.module(), X)
    assert model.summary.rank_lost_at is None
    total = float(sum(torch.linalg.slogdet(jacobian).logabsdet for jacobian in expected)) / len(expected)
    assert sum(model.summary.lyapunov) == pytest.approx(total, rel=1e-6)
    assert model.summary.log10_condition is None or math.isfinite(model.summary.log10_condition)
    assert model.summary.chain_rule_residual is None or model.summary.chain_rule_residual < 1e-12
    for name in ("log10_jacobian_norm", "log10_product_norm", "log10_grad_state"):
        values = model.series.values[name]
        absent = loop.begins
        assert values[:absent] == (None,) * absent
        assert None not in values[absent:]
    norms = model.series.values["log10_jacobian_norm"][loop.begins :]
    assert torch.allclose(10 ** torch.tensor(norms).double(), torch.stack([sigma(j)[0] for j in expected]), atol=1e-9)
    begun = f"Jacobians begin at step {loop.begins}"
    assert any(begun in note for note in model.notes) == bool(loop.begins)
