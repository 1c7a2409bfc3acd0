"""Whatever a module returns, its numbers are those of plain autograd; the matrix is form x layout x loss."""

from __future__ import annotations

import math
from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.errors import UsageError
from gradscope.models.output_shape import OutputShape, readings
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.module_trace import ModuleTrace
from gradscope.numerics.pick_trace import choose_module_trace
from gradscope.records import ModelResult
from gradscope.sequences.losses import direction

BATCH, STEPS = 3, 7


class Net(nn.Module):
    """A loop over steps that returns its states in the form asked for."""

    def __init__(self, form: str, *, time_first: bool = False) -> None:
        super().__init__()
        self.form, self.time_first = form, time_first
        self.w, self.u, self.one, self.two = nn.Linear(5, 5), nn.Linear(4, 5), nn.Linear(5, 1), nn.Linear(5, 2)

    def states(self, x: Tensor) -> Tensor:
        """(batch, T, features)."""
        h, states = torch.zeros(len(x), 5, dtype=x.dtype), []
        for step in x.unbind(1):
            h = torch.tanh(self.w(h) + self.u(step))
            states.append(h)
        return torch.stack(states, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.states(x.transpose(0, 1) if self.time_first else x)
        return FORMS[self.form][0](self, y)


Made = Callable[[Net, Tensor], Any]
FORMS: dict[str, tuple[Made, Made]] = {
    # what it returns of its states (batch, T, features), and the standard form of that
    "(B, T, F)": (lambda net, y: net.two(y), lambda net, y: net.two(y)),
    "(T, B, F)": (lambda net, y: net.two(y).transpose(0, 1), lambda net, y: net.two(y)),
    "(B, F, T)": (lambda net, y: net.two(y).transpose(1, 2), lambda net, y: net.two(y)),
    "(B, T, F, G)": (
        lambda net, y: torch.stack([net.two(y), y[..., :2]], -1),
        lambda net, y: torch.stack([net.two(y), y[..., :2]], -1).flatten(2),
    ),
    "(B, T)": (lambda net, y: net.one(y)[..., 0], lambda net, y: net.one(y)),
    "(B, F)": (lambda net, y: net.two(y[:, -1]), lambda net, y: net.two(y[:, -1])),
    "(B, F), F = T": (
        lambda net, y: torch.cat([y[:, -1], net.two(y[:, -1])], -1),
        lambda net, y: torch.cat([y[:, -1], net.two(y[:, -1])], -1),
    ),
    "(B,)": (lambda net, y: net.one(y[:, -1]).squeeze(-1), lambda net, y: net.one(y[:, -1])),
    "(layers, B, F)": (
        lambda net, y: torch.stack([y[:, -1], y[:, -2]]),
        lambda net, y: torch.cat([y[:, -1], y[:, -2]], -1),
    ),
    "scalar": (lambda net, y: net.two(y[:, -1]).square().sum(), lambda net, y: net.two(y[:, -1]).square().sum()),
    "tuple": (lambda net, y: (net.one(y[:, -1])[:, 0], y), lambda net, y: net.one(y[:, -1])),
    "dict": (lambda net, y: {"y": net.two(y), "h": y}, lambda net, y: net.two(y)),
}


def by_hand(net: Net, x: Tensor, loss: Callable[[Tensor], Tensor]) -> list[float]:
    """log10 of the geometric mean over sequences of ||dL/dx_t||, by plain autograd."""
    leaf = x.clone().requires_grad_()
    loss(FORMS[net.form][1](net, net.states(leaf))).backward()
    assert leaf.grad is not None
    return leaf.grad.norm(dim=-1).log10().mean(0).tolist()


def textbook(name: str) -> Callable[[Tensor], Tensor]:
    """`final` and `every` of the standard form, as README says them."""

    def loss(y: Tensor) -> Tensor:
        if not y.ndim:
            return y
        read = y[:, -1] if name == "final" and y.ndim == 3 else y
        return (read @ direction(0, y.shape[-1])).sum()

    return loss


def measured(net: nn.Module, x: Tensor, loss: Any, **settings: Any) -> ModelResult:
    return gradscope.analyze(net, x, loss, **settings).models[0]


@pytest.mark.parametrize(("loss", "time_first"), [("final", False), ("every", False), ("final", True)])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_and_influence_are_those_of_autograd(form: str, loss: str, time_first: bool) -> None:
    torch.manual_seed(3)
    net, x = Net(form, time_first=time_first).double(), torch.randn(BATCH, STEPS, 4, dtype=torch.float64)
    found = measured(net, x, loss, layout="time-first" if time_first else "batch-first")
    assert found.loaded.equality_check is not None
    assert found.loaded.equality_check.passed
    values = found.series.values
    assert values["log10_grad_input"] == pytest.approx(by_hand(net, x, textbook(loss)), abs=1e-9)
    # The influence is that of the newest answer alone.
    newest = textbook("every" if form == "scalar" else "final")
    assert values["log10_influence"] == pytest.approx(by_hand(net, x, newest)[::-1], abs=1e-9)
    assert found.summary.chain_rule_residual == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("tuple", "dict")])
def test_a_loss_of_the_users_own_is_given_what_the_module_returns(form: str) -> None:
    torch.manual_seed(4)
    net, x = Net(form).double(), torch.randn(BATCH, STEPS, 4, dtype=torch.float64)
    seen: list[torch.Size] = []

    def loss(y: Tensor) -> Tensor:
        seen.append(y.shape)
        return y.square().sum()

    values = measured(net, x, loss).series.values
    assert set(seen) == {net(x).shape}
    leaf = x.clone().requires_grad_()
    net(leaf).square().sum().backward()
    assert leaf.grad is not None
    assert values["log10_grad_input"] == pytest.approx(leaf.grad.norm(dim=-1).log10().mean(0).tolist(), abs=1e-9)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_loss_on_a_layer_of_torch_nn_is_given_its_output_batch_first(bidirectional: bool) -> None:
    torch.manual_seed(5)
    layer = nn.LSTM(4, 3, bidirectional=bidirectional).double()
    seen: list[Any] = []

    def loss(y: Any) -> Tensor:
        seen.append(tuple(y.shape))
        return y[:, -1].sum()

    measured(layer, torch.randn(BATCH, STEPS, 4, dtype=torch.float64), loss)
    assert set(seen) == {(BATCH, STEPS, 3 * (1 + bidirectional))}


@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize(
    ("own", "standard", "has_steps"),
    [
        ((), (), False),
        ((3,), (3, 1), False),
        ((3, 7), (3, 7), False),
        ((3, 3), (3, 3), False),
        ((3, 7, 2), (3, 7, 2), True),
        ((7, 3, 2), (3, 7, 2), True),
        ((3, 7, 2, 4), (3, 7, 8), True),
        ((2, 3, 5), (3, 10), False),
        ((3, 4, 5), (3, 4, 5), False),
        ((7, 2), (7, 2), False),
    ],
)
def test_the_likeliest_axes_by_their_sizes(
    own: tuple[int, ...], standard: tuple[int, ...], has_steps: bool, time_first: bool
) -> None:
    roles = next(iter(readings(own, 3, 7, time_first=time_first)), (None, None))
    shape = OutputShape.of(own, 7, roles)
    assert (shape.standard, shape.has_steps) == (standard, has_steps)
    assert shape.has_sequences == (own != () and own != (7, 2))
    y = torch.arange(math.prod(own)).reshape(own)
    assert shape.standardised(y).shape == standard
    assert torch.equal(shape.as_returned(shape.standardised(y)), y)


@pytest.mark.parametrize(("own", "roles"), [((3, 7), (0, 1)), ((7, 3), (1, 0))])
def test_a_matrix_by_step(own: tuple[int, int], roles: tuple[int, int]) -> None:
    assert roles in readings(own, 3, 7, time_first=roles == (1, 0))
    shape = OutputShape.of(own, 7, roles)
    assert (shape.standard, shape.has_steps) == ((3, 7, 1), True)
    y = torch.arange(21).reshape(own)
    assert torch.equal(shape.standardised(y)[..., 0], y if own == (3, 7) else y.T)
    assert torch.equal(shape.as_returned(shape.standardised(y)), y)
    assert roles in readings((7, 7), 7, 7, time_first=False)


class Sized(Net):
    """A net whose outputs have a width that is stated, and whose steps are all there or not at all."""

    def __init__(self, form: str, width: int, *, time_first: bool, steps: int | None = None) -> None:
        super().__init__(form, time_first=time_first)
        self.two, self.steps = nn.Linear(5, width), steps

    def forward(self, x: Tensor) -> Any:
        assert self.steps in (None, x.shape[0 if self.time_first else 1])
        return super().forward(x)


LIKE_SIZES = [(b, t, f) for t in (2, 5) for b in (1, t, 7) for f in (1, t)]


def trace_of(net: Sized, batch: int, steps: int) -> ModuleTrace:
    """A trace of the net, of which dL/dx is that of autograd."""
    x, model = torch.randn(batch, steps, 4, dtype=torch.float64), net.double()
    trace = choose_module_trace(WholeModule("net", model, 4, kind="module", time_first=net.time_first), x)
    loss = textbook("final")
    loss.reads_raw = False  # type: ignore[attr-defined]
    own = trace.input_gradient(trace.cotangent(loss)).mean(0).tolist()
    assert own == pytest.approx(by_hand(net, x, loss), abs=1e-9), (batch, steps)
    return trace


@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize("form", ["(B, T, F)", "(T, B, F)", "(B, F, T)", "(B, T)", "(B, F)", "(layers, B, F)"])
def test_axes_of_one_size_are_told_apart(form: str, time_first: bool) -> None:
    torch.manual_seed(5)
    for batch, steps, width in dict.fromkeys(LIKE_SIZES):
        trace = trace_of(Sized(form, width, time_first=time_first), batch, steps)
        assert trace.output_shape.has_steps == ("T" in form)
        assert not trace.model.ambiguous


@pytest.mark.parametrize("form", ["(B, T)", "(B, T, F)", "(T, B, F)", "(B, F, T)"])
def test_where_no_other_number_of_steps_is_taken_the_order_of_what_is_heard_tells(form: str) -> None:
    torch.manual_seed(6)
    trace = trace_of(Sized(form, 5, time_first=False, steps=5), 5, 5)
    assert trace.output_shape.has_steps
    assert not trace.model.ambiguous


def test_axes_that_cannot_be_told_are_said() -> None:
    torch.manual_seed(7)
    net = Sized("(B, F)", 5, time_first=False, steps=5)
    found = gradscope.analyze(net, input_size=4, length=5, batch=3).models[0]
    verdict = next(one for one in found.verdicts if one.code == "GS403")
    assert (verdict.status, "--layout" in verdict.advice) == ("inconclusive", True)
    assert any("(3, 5)" in note and "ambiguous" in note for note in found.notes)
    stated = gradscope.analyze(net, input_size=4, length=5, batch=3, layout="batch-first").models[0]
    assert {one.status for one in stated.verdicts if one.code == "GS403"} == {"pass"}


@pytest.mark.parametrize("batch_first", [False, True])
def test_as_many_sequences_as_steps_are_taken_in_the_order_that_a_layer_walks(batch_first: bool) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(4, 5, batch_first=batch_first)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    model = WholeModule("net", Wrapped().double(), 4, kind="module", time_first=None)
    trace = choose_module_trace(model, torch.randn(6, 6, 4, dtype=torch.float64))
    assert trace.followed
    assert model.time_first is not batch_first


class OneByOne(nn.Module):
    """Sequences walked one after the other, of which one number is made."""

    def __init__(self, made: str) -> None:
        super().__init__()
        self.made, self.w, self.u = made, nn.Linear(5, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        values = []
        for sequence in x:
            h = torch.zeros(5, dtype=x.dtype)
            for step in sequence:
                h = torch.tanh(self.w(h) + self.u(step))
            values.append(h.sum())
        return getattr(torch.stack(values), self.made)(0)


@pytest.mark.parametrize("made", ["sum", "mean", "logsumexp"])
def test_one_number_for_sequences_that_take_ways_of_their_own(made: str) -> None:
    torch.manual_seed(8)
    net, x = OneByOne(made).double(), torch.randn(3, 6, 4, dtype=torch.float64)
    found = measured(net, x, "final")
    leaf = x.clone().requires_grad_()
    net(leaf).backward()
    assert leaf.grad is not None
    by_step = leaf.grad.norm(dim=-1).log10().mean(0).tolist()
    assert found.series.values["log10_grad_input"] == pytest.approx(by_step, abs=1e-9)
    if made == "logsumexp":
        assert any("neither the sum nor the mean" in note for note in found.notes)
        return
    own = [p.grad.norm() for p in net.parameters() if p.grad is not None]
    assert found.summary.log10_grad_weight == pytest.approx(float(torch.stack(own).norm().log10()), abs=1e-9)
    assert found.loaded.equality_check is not None
    assert found.loaded.equality_check.passed


class Beside(nn.Module):
    """A recurrence that returns something else beside its outputs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn, self.kind = nn.GRU(3, 4, batch_first=True), kind

    def forward(self, x: Tensor) -> object:
        y = self.rnn(x)[0]
        if self.kind == "mask":
            return y, x.abs().sum(-1) > 0
        return (y.argmax(-1), y) if self.kind == "ids first" else (y, torch.fft.rfft(y, dim=-1))


@pytest.mark.parametrize("kind", ["mask", "ids first", "spectrum"])
def test_what_is_returned_beside_the_outputs_changes_no_gradient(kind: str) -> None:
    torch.manual_seed(0)
    module, x = Beside(kind).double(), torch.randn(2, 9, 3, dtype=torch.float64)
    place = 1 if kind == "ids first" else 0
    found = gradscope.analyze(module, x, lambda raw: raw[place][:, -1].square().sum()).models[0]
    leaf = x.clone().requires_grad_()
    module(leaf)[place][:, -1].square().sum().backward()
    assert found.series.values["log10_grad_input"] == pytest.approx(leaf.grad.norm(dim=-1).log10().mean(0).tolist())


def test_a_loss_that_reads_a_complex_output_is_refused_with_the_remedy() -> None:
    module, x = Beside("spectrum").double(), torch.randn(2, 9, 3, dtype=torch.float64)
    with pytest.raises(UsageError, match="view_as_real"):
        gradscope.analyze(module, x, lambda raw: raw[1][:, -1].abs().square().sum() + raw[0][:, 3].sum())


@dataclass(frozen=True)
class Outputs:
    """What a module returns under names."""

    label: str
    y: Any
    last: Any = None


class Named(OrderedDict):
    """A mapping of a user's own."""


class Pair(NamedTuple):
    label: str
    outputs: Any


STRUCTURES: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "dataclass": (lambda y: Outputs("a", y, y[:, -1]), lambda raw: raw.y),
    "one inside another": (lambda y: Outputs("a", Outputs("b", [y])), lambda raw: raw.y.y[0]),
    "ordered": (lambda y: Named(label="a", y=y), lambda raw: raw["y"]),
    "mapping": (lambda y: UserDict(y=y), lambda raw: raw["y"]),
    "tuple of a dataclass": (lambda y: Pair("a", Outputs("b", y)), lambda raw: raw.outputs.y),
    "namespace": (lambda y: SimpleNamespace(y=y, again=y), lambda raw: raw.again),
    "distribution": (lambda y: torch.distributions.Normal(y, y.new_ones(())), lambda raw: raw.loc),
}


class Structured(nn.Module):
    """A recurrence of torch.nn or a loop, whose outputs are handed on in a structure."""

    def __init__(self, form: Callable[[Tensor], Any], written: bool) -> None:
        super().__init__()
        self.form, self.written, self.cell, self.rnn = form, written, nn.GRUCell(3, 5), nn.GRU(3, 5, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        if not self.written:
            return self.form(self.rnn(x)[0])
        h, out = x.new_zeros(len(x), 5), []
        for step in x.unbind(1):
            h = self.cell(step, h)
            out.append(h)
        return self.form(torch.stack(out, 1))


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_tensors_are_found_and_losses_get_them_in_any_structure(structure: str, written: bool) -> None:
    form, read = STRUCTURES[structure]
    torch.manual_seed(0)
    net = Structured(form, written).double()
    x = torch.randn(3, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaf = x.clone().requires_grad_()
    (own,) = torch.autograd.grad(read(net(leaf))[:, 5].sum(), leaf)
    expected = own[:, :6].norm(dim=-1).log10().mean(0).flip(0).tolist()
    model = gradscope.analyze(net, x, loss=lambda raw: read(raw)[:, 5].sum()).models[0]
    assert model.series.values["log10_influence"] == pytest.approx(expected, abs=1e-9)
    assert model.loaded.equality_check.passed
    assert gradscope.analyze(net, x).models[0].summary.reach is not None


class Returning(nn.Module):
    """A tanh recurrence with a head, and what `form` makes of states and logits."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head, self.form = nn.RNN(3, 5, batch_first=True), nn.Linear(5, 2), form

    def forward(self, x: Tensor) -> Any:
        states = self.rnn(x)[0]
        return self.form(states, self.head(states))


@pytest.mark.parametrize(
    ("form", "loss"),
    [
        (lambda h, y: (h, y), lambda raw: raw[1].square().sum()),
        (lambda h, y: {"features": h[:, -1], "logits": y}, lambda raw: raw["logits"].square().sum()),
        (lambda h, y: (h, y.transpose(0, 1)), lambda raw: raw[1].square().sum()),
        (lambda h, y: (h, y), lambda raw: raw[1].square().sum() + raw[0].abs().sum()),
        (lambda h, y: y.reshape(-1, 2), lambda raw: raw.square().sum()),
        (lambda h, y: y[:, None], lambda raw: raw.square().sum()),
        (lambda h, y: y[:, 1::2], lambda raw: raw.square().sum()),
        (lambda h, y: list(y.unbind(1)), lambda raw: torch.stack(raw).square().sum()),
    ],
)
def test_a_loss_at_every_step_is_looked_back_from_the_newest_whatever_output_it_reads(
    form: Callable[[Tensor, Tensor], Any], loss: Callable[[Any], Tensor]
) -> None:
    module = Returning(form).double()
    x = torch.randn(3, 30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaf = x.clone().requires_grad_()
    states = module.rnn(leaf)[0]
    whole = loss(form(states, module.head(states)))
    # What the newest step alone gets: the states before it enter the loss through the last one only.
    (by_state,) = torch.autograd.grad(whole, states, retain_graph=True)
    newest = torch.zeros_like(by_state)
    newest[:, -1] = by_state[:, -1]
    (by_input,) = torch.autograd.grad(states, leaf, newest)
    right = by_input.norm(dim=-1).log10().mean(0).flip(0)
    found = gradscope.analyze(module, x, loss=loss).models[0]
    assert found.series.values["log10_influence"] == pytest.approx(right.tolist(), abs=1e-9)
    assert found.summary.reach == int((right[1:] >= right[1] - 2).nonzero().max()) + 1


@pytest.mark.parametrize("loop", [False, True])
def test_flattened_logits_of_token_ids_are_looked_back_from_the_newest_too(loop: bool) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table, self.head = nn.Embedding(7, 3), nn.Linear(5, 7)
            self.rnn: nn.Module = nn.RNNCell(3, 5) if loop else nn.RNN(3, 5, batch_first=True)

        def read(self, x: Tensor) -> Tensor:
            if not loop:
                return self.rnn(x)[0]
            states, h = [], x.new_zeros(len(x), 5)
            for step in x.unbind(1):
                states.append(h := self.rnn(step, h))
            return torch.stack(states, 1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.read(self.table(ids))).reshape(-1, 7)

    module = Words().double()
    ids = torch.randint(7, (3, 20), generator=torch.Generator().manual_seed(1))
    leaf = module.table(ids).detach().requires_grad_()
    logits = module.head(module.read(leaf))
    each = nn.functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none") / ids.numel()
    (right,) = torch.autograd.grad(each[:, -1].sum(), leaf)
    found = gradscope.analyze(module, ids, loss=lambda y: nn.functional.cross_entropy(y, ids.flatten())).models[0]
    wanted = right.norm(dim=-1).log10().mean(0).flip(0).tolist()
    assert found.series.values["log10_influence"] == pytest.approx(wanted, abs=1e-9)
    assert found.status == "vanishing"


def test_a_module_that_refuses_other_numbers_than_its_own_is_measured_as_a_whole() -> None:
    class Bounded(Returning):
        def forward(self, x: Tensor) -> Any:
            if bool((x > 1).any()):
                raise ValueError("an input is a share")
            return super().forward(x)

    module = Bounded(lambda h, y: y.reshape(-1, 2)).double()
    x = torch.rand(3, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[:, -1] = 1
    leaf = x.clone().requires_grad_()
    (right,) = torch.autograd.grad(module(leaf).square().sum(), leaf)
    found = gradscope.analyze(module, x, loss=lambda y: y.square().sum()).models[0]
    wanted = right.norm(dim=-1).log10().mean(0).flip(0).tolist()
    assert found.series.values["log10_influence"] == pytest.approx(wanted, abs=1e-9)
