"""The backward pass through several recurrences, held against closed forms far outside of what float64 holds."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.models.fused_recurrence import run_opened
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.fused_backward import feeds, flow_back, last_first
from gradscope.numerics.logscale import log10_norm
from modules import CASES, Translator


def unit(slope: float) -> nn.RNN:
    """h' = tanh(x + slope h); at zero input its state is zero and every Jacobian is the slope."""
    rnn = nn.RNN(1, 1, batch_first=True, bias=False).double()
    with torch.no_grad():
        rnn.weight_hh_l0.fill_(slope)
        rnn.weight_ih_l0.fill_(1)
    return rnn


class Above(nn.Module):
    """One on top of the other."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = unit(low), unit(high)

    def forward(self, x: Tensor) -> Tensor:
        return self.high(self.low(x)[0])[0]


class After(nn.Module):
    """The first reads half of the sequence and hands its last state to the second, which reads the rest."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__()
        self.first, self.second = unit(first), unit(second)

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return self.second(x[:, half:], self.first(x[:, :half])[1])[0]


def gradient(module: nn.Module, steps: int) -> list[float]:
    """log10 |dy_T/dx_t|."""
    seen = run_opened(WholeModule("m", module.eval(), 1, kind="module"), torch.zeros(1, steps, 1, dtype=torch.float64))
    order = last_first(feeds(seen))
    assert order is not None
    v = torch.zeros_like(seen.raw)
    v[:, -1] = 1
    given = flow_back(seen, order, [seen.raw], [v]).given
    return log10_norm(given.m, given.e)[0].tolist()


SLOPES = [(1 / 16, 1 / 32, 600), (16.0, 32.0, 600), (0.5, 2.0, 1500), (1e-3, 3.0, 900), (-0.9, 0.2, 1200)]


@pytest.mark.parametrize(("low", "high", "steps"), SLOPES)
def test_a_recurrence_above_another(low: float, high: float, steps: int) -> None:
    """dy_T/dx_t = sum_k high^(T-k) low^(k-t) = (high^n - low^n) / (high - low), n = T - t + 1."""
    found = gradient(Above(low, high), steps)
    with mpmath.workdps(50):
        a, b = mpmath.mpf(high), mpmath.mpf(low)
        expected = [float(mpmath.log10(abs((a**n - b**n) / (a - b)))) for n in range(steps, 0, -1)]
    assert found == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("first", "second", "steps"), SLOPES)
def test_a_state_handed_from_one_recurrence_to_the_next(first: float, second: float, steps: int) -> None:
    """dy_T/dx_t = second^(T-t) in the second half, second^(T/2) first^(T/2-t) in the first."""
    found, half = gradient(After(first, second), steps), steps // 2
    with mpmath.workdps(50):
        a, b = mpmath.log10(abs(mpmath.mpf(first))), mpmath.log10(abs(mpmath.mpf(second)))
        early = [float(half * b + (half - t) * a) for t in range(1, half + 1)]
        late = [float((steps - t) * b) for t in range(half + 1, steps + 1)]
    assert found == pytest.approx(early + late, abs=1e-10)


def test_the_order_is_from_the_last_read_to_the_first() -> None:
    assert last_first([set(), {0}, {0, 1}]) == [2, 1, 0]
    assert last_first([{1}, set()]) == [0, 1]
    assert last_first([{1}, {0}]) is None
    assert last_first([]) == []


def test_what_reads_what_is_found_in_the_graph() -> None:
    case = next(case for case in CASES if case.name == "translator")
    module = case.module()
    assert isinstance(module, Translator)
    seen = run_opened(WholeModule("translator", module, 4, kind="module"), case.x())
    assert [one.name for one in seen.recurrences] == ["encoder", "decoder"]
    assert feeds(seen) == [set(), {0}]


class Broken(nn.Module):
    """What the backward pass needs is written over."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.rnn(x)[0].sigmoid()
        z = y * 1
        y.zero_()
        return z


def test_a_module_that_torch_cannot_differentiate_is_one_line() -> None:
    seen = run_opened(WholeModule("m", Broken().eval(), 2, kind="module"), torch.zeros(1, 4, 2))
    with pytest.raises(UsageError, match=r"torch cannot differentiate the module: .*inplace") as caught:
        flow_back(seen, [0], [seen.raw], [torch.ones_like(seen.raw)])
    assert "\n" not in str(caught.value)
