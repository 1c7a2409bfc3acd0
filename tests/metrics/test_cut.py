"""GS401 and GS405: a gradient that is exactly zero where the numbers pass, at old steps and before the recurrence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.records import ModelResult, Verdict
from modules import CellLoop

X = torch.randn(3, 12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A projection, something done to it, an LSTM, and a head."""

    def __init__(self, between: Callable[[Tensor], Tensor], *, whole: bool = False, ids: bool = False) -> None:
        super().__init__()
        self.between, self.whole = between, whole
        self.front = nn.Embedding(9, 4) if ids else nn.Linear(4, 4)
        self.rnn, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.rnn(self.between(self.front(x)))[0]
        return self.head(y if self.whole else y[:, -1])


def by_numpy(y: Tensor) -> Tensor:
    return torch.from_numpy(y.detach().numpy().copy())


def without_gradient(y: Tensor) -> Tensor:
    with torch.no_grad():
        return y * 2


def the_newest_alone(y: Tensor) -> Tensor:
    return torch.cat([y[:, :-3].detach(), y[:, -3:]], 1)


def measured(net: nn.Module, x: Tensor = X) -> tuple[ModelResult, Verdict]:
    torch.manual_seed(1)
    found = gradscope.analyze(net.double(), x).models[0]
    return found, next(verdict for verdict in found.verdicts if verdict.code == "GS401")


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("between", [Tensor.detach, by_numpy, without_gradient, lambda y: y.data])
def test_a_detach_before_the_recurrence(between: Callable[[Tensor], Tensor], whole: bool) -> None:
    found, _ = measured(Net(between, whole=whole))
    verdict = next(verdict for verdict in found.verdicts if verdict.code == "GS405")
    assert (found.status, verdict.status, verdict.severity) == ("degenerate", "fail", "error")
    assert set(found.summary.unheard or ()) == {"front.weight", "front.bias", "the input"}
    assert found.summary.input_cut is None


def test_of_token_ids() -> None:
    x = torch.randint(0, 9, (3, 12), generator=torch.Generator().manual_seed(0))
    assert measured(Net(Tensor.detach, ids=True), x)[0].status == "degenerate"
    assert measured(Net(lambda y: y, ids=True), x)[1].status == "pass"


def test_a_gradient_that_reaches_the_newest_inputs_alone() -> None:
    found, verdict = measured(Net(the_newest_alone))
    assert found.summary.input_cut == 9
    assert "up to step 9, lag 3 and more" in verdict.message
    assert found.status == "degenerate"


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y,
        lambda y: y * 0,  # what is not read at all
        lambda y: torch.cat([y[:, :-3] * 0, y[:, -3:]], 1),
        lambda y: torch.relu(y - 100),  # units that are dead
    ],
)
def test_what_does_not_hang_on_the_input_is_no_cut(between: Callable[[Tensor], Tensor]) -> None:
    found, verdict = measured(Net(between))
    assert found.summary.input_cut is None
    assert verdict.status == "pass"


class Features(nn.Module):
    """A frozen recurrence under no_grad, whose features multiply the input."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.rnn(x)[0]
        return y * x


def test_a_part_without_gradient_beside_one_that_has_it() -> None:
    found, verdict = measured(Features())
    assert found.summary.input_cut == 11
    assert verdict.status == "fail"
    assert found.status == "degenerate"


class Axes(nn.Module):
    """An LSTM that takes time first, and what is made of its output."""

    def __init__(self, read: Callable[[Tensor], Tensor], *, says: bool = False) -> None:
        super().__init__()
        self.read, self.rnn, self.head = read, nn.LSTM(4, 5), nn.Linear(5, 2)
        if says:
            self.batch_first = False

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.rnn(x)[0]))


class Loop(Axes):
    def forward(self, x: Tensor) -> Tensor:
        h, states = x.new_zeros(x.shape[1], 5), []
        for step in x:
            h = torch.tanh(step @ self.rnn.weight_ih_l0[:5].T + h @ self.rnn.weight_hh_l0[:5].T)
            states.append(h)
        return self.head(self.read(torch.stack(states)))


@pytest.mark.parametrize("kind", [Axes, Loop])
@pytest.mark.parametrize(
    ("read", "says", "status", "turned"),
    [
        (lambda y: y[:, -1], False, "degenerate", False),  # meant batch first: it walks along the batch
        (lambda y: y[-1], False, None, True),  # meant time first: only so are there answers by sequence
        (lambda y: y, False, "inconclusive", True),  # could be either
        (lambda y: y, True, None, True),
    ],
)
def test_axes_are_not_guessed_healthy(
    kind: type[Axes], read: Callable[[Tensor], Tensor], says: bool, status: str | None, turned: bool
) -> None:
    torch.manual_seed(1)
    net = kind(read, says=says)
    found = gradscope.analyze(net, length=12, batch=3).models[0]
    given = gradscope.analyze(net, length=12, batch=3, layout="time-first").models[0]
    verdict = next(verdict for verdict in found.verdicts if verdict.code == "GS403")
    if status == "inconclusive":
        assert found.status == (status if given.status == "healthy" else given.status)
    else:
        assert found.status == (status or given.status)
    assert any("time first" in note for note in found.notes) == turned
    assert ("--layout" in " ".join(found.notes)) == (status == "inconclusive")
    assert verdict.status == {"degenerate": "fail", "inconclusive": "inconclusive", None: "pass"}[status]


class Padded(nn.Module):
    """A loop that keeps its state where a step is padding: all zeros, or id 0."""

    def __init__(self, *, ids: bool = False, detached: int = 0) -> None:
        super().__init__()
        self.ids, self.detached = ids, detached
        self.front, self.cell, self.head = nn.Embedding(9, 4), nn.GRUCell(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        there = x != 0 if self.ids else x.abs().sum(-1) > 0
        steps = self.front(x) if self.ids else x
        h = steps.new_zeros(len(x), 5)
        for t in range(x.shape[1]):
            step = steps[:, t].detach() if t < self.detached else steps[:, t]
            h = torch.where(there[:, t, None], self.cell(step, h), h)
        return self.head(h)


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize(("padding", "detached", "cut"), [(5, 0, None), (0, 5, 5), (3, 5, 5)])
def test_an_input_that_is_only_asked_whether_it_is_there_is_no_cut(
    ids: bool, kind: torch.dtype, padding: int, detached: int, cut: int | None
) -> None:
    torch.manual_seed(0)
    x = torch.randint(1, 9, (3, 12)) if ids else X.to(kind, copy=True)
    x[:, :padding] = 0
    found = gradscope.analyze(Padded(ids=ids, detached=detached).to(kind), x).models[0]
    assert found.summary.input_cut == cut
    assert found.summary.zero_lags == (7, 5)
    assert (found.status == "degenerate") == (cut is not None)


@pytest.mark.parametrize(("needs_lag", "status"), [(None, "fail"), (3, "fail"), (2, "warn")])
def test_what_is_cut_beyond_the_needed_lag_is_remarked_on_and_changes_no_status(
    needs_lag: int | None, status: str
) -> None:
    torch.manual_seed(1)
    for net, cut in ((Net(the_newest_alone), None), (CellLoop(cuts=(10,)), 10)):
        x = X[..., : 4 if isinstance(net, Net) else 3]
        found = gradscope.analyze(net.double(), x, needs_lag=needs_lag).models[0]
        assert (found.summary.cut, found.summary.input_cut) == (cut, 9)
        assert next(verdict for verdict in found.verdicts if verdict.code == "GS401").status == status
        assert (found.status == "degenerate") == (status == "fail")


def test_a_unit_that_is_dead_in_a_recurrence_that_explodes_is_no_cut():
    """h_2 = relu(6 h_1 - 100) = 0 with a margin of 94: a change of h_1 = 1 by rounding does not move it."""
    rnn = torch.nn.RNN(1, 1, nonlinearity="relu", batch_first=True, bias=False).double()
    torch.nn.init.constant_(rnn.weight_hh_l0, 6.0)
    torch.nn.init.constant_(rnn.weight_ih_l0, 1.0)
    x = torch.ones(1, 22, 1, dtype=torch.float64)
    x[0, 1] = -100
    (result,) = gradscope.analyze(rnn, x).models
    assert float(rnn(x)[0].detach().max()) > 1e14
    assert result.summary.cut is None
    assert not [v.code for v in result.verdicts if v.code == "GS401" and v.status in ("fail", "warn")]
