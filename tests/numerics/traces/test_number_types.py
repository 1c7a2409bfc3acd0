"""Number types inside: agreement is judged by the coarsest that took part, and a module of float32 runs in float32."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.models.tolerances import TOLERANCES, coarsest, tolerance
from gradscope.models.whole_module import WholeModule, types_of
from gradscope.numerics.equality import against_gradients
from gradscope.records import ModelResult
from gradscope.renderers.number_blocks import _checks

X = torch.randn(3, 12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


class Gated(nn.Module):
    """A gated loop of which the gate is computed in another number type, as Mamba and RWKV do."""

    def __init__(self, low: torch.dtype, *, graph: bool = True) -> None:
        super().__init__()
        self.low, self.graph = low, graph
        self.g, self.w, self.u, self.head = (
            nn.Linear(4, 5, bias=False),
            nn.Linear(5, 5),
            nn.Linear(4, 5),
            nn.Linear(5, 2),
        )

    def gate(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.graph and torch.is_grad_enabled()):
            return torch.sigmoid(x.to(self.low) @ self.g.weight.to(self.low).T)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 5)
        for step in x.unbind(1):
            h = self.gate(step).to(x.dtype) * h + torch.tanh(self.w(h) + self.u(step))
        return self.head(h)


def measured(net: nn.Module, **settings: object) -> ModelResult:
    return gradscope.analyze(net, X, lambda y: y.sum(), **settings).models[0]


def by_autograd(net: nn.Module) -> list[float]:
    """log10 ||dL/dx_t||, geometric mean, each sequence by itself."""
    rows = []
    for row in X.split(1):
        leaf = row.clone().requires_grad_()
        net(leaf).sum().backward()
        assert leaf.grad is not None
        rows.append(leaf.grad.norm(dim=-1))
    return torch.cat(rows).log10().mean(0).tolist()


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("low", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_coarser_type_inside_is_followed_and_said(low: torch.dtype, graph: bool) -> None:
    torch.manual_seed(1)
    net = Gated(low, graph=graph).double()
    found = measured(net)
    check = found.loaded.equality_check
    assert found.kind == "recurrent"
    assert check is not None
    assert check.passed
    assert check.inside == (None if low == torch.float64 else str(low)[6:])
    assert dict(_checks(found))["checked"].endswith(f"({check.inside} inside)") == (low != torch.float64)
    near = {torch.float64: 1e-9, torch.float32: 1e-4}.get(low, 0.05)
    assert found.series.values["log10_influence"][::-1] == pytest.approx(by_autograd(net), abs=near)
    assert "lyapunov" not in found.skipped


def test_one_table_is_ordered_by_digits() -> None:
    order = sorted(TOLERANCES, key=lambda kind: torch.finfo(kind).eps)
    assert order == [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    for fine, coarse in itertools.pairwise(order):
        assert coarsest((fine, coarse)) == coarse
        for name in ("outputs", "gradients", "one_step"):
            assert getattr(tolerance((fine,)), name) < getattr(tolerance((coarse,)), name)
    assert coarsest((torch.int64,)) == torch.float64


@pytest.mark.parametrize(("types", "passes"), [((), False), ((torch.float32,), False), ((torch.bfloat16,), True)])
def test_what_a_type_does_not_explain_is_a_difference(types: tuple[torch.dtype, ...], passes: bool) -> None:
    one = torch.ones(4, 1, 2, dtype=torch.float64)
    assert against_gradients([], (one * 1.01, one), [], "Net", types).passed == passes


def of_zeros(x: Tensor) -> Tensor:
    return torch.zeros(len(x), 5, dtype=torch.float32)


def of_full(x: Tensor) -> Tensor:
    return torch.full((len(x), 5), 0.5, dtype=torch.float32)


def of_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(numpy.zeros((len(x), 5), dtype="float32"))


KEPT = torch.zeros(1, 5)


def of_attribute(x: Tensor) -> Tensor:
    return KEPT.expand(len(x), -1)


class Plain(nn.Module):
    """A loop from a state in float32, whatever its weights are."""

    def __init__(self, first: Callable[[Tensor], Tensor], *, cell: bool) -> None:
        super().__init__()
        self.first, self.cell = first, nn.GRUCell(4, 5) if cell else None
        self.w, self.u = nn.Linear(5, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h, states = self.first(x), []
        for step in x.unbind(1):
            h = torch.tanh(self.w(h) + self.u(step)) if self.cell is None else self.cell(step, h)
            states.append(h)
        return torch.stack(states, 1)


@pytest.mark.parametrize("cell", [True, False])
@pytest.mark.parametrize("first", [of_zeros, of_full, of_numpy, of_attribute])
def test_a_module_of_float32_runs_in_float32_and_says_so(first: Callable[[Tensor], Tensor], cell: bool) -> None:
    torch.manual_seed(2)
    net = Plain(first, cell=cell)
    loss = lambda y: y[:, -1].sum()  # noqa: E731
    found = gradscope.analyze(net, X, loss, seeds=2).models[0]
    leaf = X.float().requires_grad_()
    loss(net(leaf)).backward()
    assert leaf.grad is not None
    assert found.kind == "recurrent"
    assert "float32" in found.heading
    assert sum("run in float32" in note for note in found.notes) == 1
    assert found.series.values["log10_grad_input"] == pytest.approx(
        leaf.grad.norm(dim=-1).log10().mean(0).tolist(), abs=1e-4
    )
    assert next(net.parameters()).dtype == torch.float32


def test_the_width_of_a_module_of_float32_is_found_without_an_input() -> None:
    found = gradscope.analyze(Plain(of_zeros, cell=False), length=12).models[0]
    assert "float32" in found.heading


def test_zeros_of_the_default_type_stay_in_float64() -> None:
    found = gradscope.analyze(Plain(lambda x: torch.zeros(len(x), 5), cell=False), X).models[0]
    assert "float64" in found.heading
    assert not any("float32" in note for note in found.notes)


class Island(nn.Module):
    """Two layers of parameters in two number types; the code turns one into the other."""

    def __init__(self, low: torch.dtype, kind: str) -> None:
        super().__init__()
        self.low, self.kind = low, kind
        self.e, self.w, self.n = nn.Linear(4, 5).to(low), nn.Linear(5, 5), nn.LayerNorm(5)
        self.cell, self.lower = nn.GRUCell(5, 5), nn.LSTM(4, 5, batch_first=True).to(low)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "fused":
            return self.n(self.lower(x.to(self.low))[0].float())
        h, out = torch.zeros(len(x), 5), []
        for step in x.unbind(1):
            read = self.e(step.to(self.low)).float()
            h = self.cell(read, h) if self.kind == "cell" else torch.tanh(self.w(h) + read)
            out.append(h)
        return torch.stack(out, 1)


def only_low(module: Island) -> Island:
    """All in one type that linear algebra does not know."""
    module.to(module.low)
    module.forward = lambda x: _walked(module, x)  # type: ignore[method-assign]
    return module


def _walked(module: Island, x: Tensor) -> Tensor:
    h = torch.zeros(len(x), 5, dtype=module.low)
    for step in x.unbind(1):
        h = torch.tanh(module.w(h) + module.e(step))
    return h


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["written", "cell", "fused", "low"])
def test_a_module_that_mixes_types_runs_in_its_own_and_says_so(kind: str, low: torch.dtype) -> None:
    torch.manual_seed(3)
    net = Island(low, kind) if kind != "low" else only_low(Island(low, kind))
    loss = lambda y: (y.float() * torch.arange(5.0)).sum()  # noqa: E731
    found = gradscope.analyze(net, X, loss).models[0]
    check = found.loaded.equality_check
    assert check is not None
    assert check.passed
    assert any(note.startswith("run in the number types it was made in") for note in found.notes)
    rows = []
    for row in X.split(1):
        leaf = row.float().requires_grad_()
        loss(net(leaf.to(low) if kind == "low" else leaf)).backward()
        assert leaf.grad is not None
        rows.append(leaf.grad.norm(dim=-1))
    right = torch.cat(rows).log10().mean(0).tolist()
    assert found.series.values["log10_grad_input"] == pytest.approx(right, abs=0.1)
    assert None not in found.series.values["log10_jacobian_norm"][1:]
    assert {p.dtype for p in net.parameters()} == ({low} if kind == "low" else {low, torch.float32})


class Table(nn.Module):
    """Token ids, embedded: features are tried first, and what they are refused for is no mix of types."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell = nn.Embedding(7, 3), nn.GRUCell(3, 4)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.table(ids[:, 0]).new_zeros(len(ids), 4)
        for t in range(ids.shape[1]):
            h = self.cell(self.table(ids[:, t]), h)
        return h


def test_weights_keep_all_their_digits_whatever_types_were_tried() -> None:
    torch.manual_seed(0)
    ids, net = torch.arange(24).reshape(2, 12) % 7, Table().double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.div_(3)  # what float32 would round
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    told: list[Tensor] = []
    gradscope.analyze(net, ids, lambda y: (told.append(y.detach()), y.sum())[1])
    assert all(torch.equal(y, net(ids)) for y in told)
    taken = WholeModule("net", net, 3, kind="module", own_types=types_of(net))
    taken.fitted(torch.ones(2, 12, 3, dtype=torch.float64))
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


class LongIsland(Island):
    """What reads the input is of half precision; the recurrence forgets far below its range."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 5)
        for step in x.unbind(1):
            h = self.cell(self.e(step.to(self.low)).float(), h)
        return h


def test_gradients_keep_their_scale_on_the_way_through_half_precision() -> None:
    torch.manual_seed(3)
    x = torch.randn(2, 80, 4, generator=torch.Generator().manual_seed(1))
    net = LongIsland(torch.float16, "cell")
    found = gradscope.analyze(net, x, lambda y: y.sum()).models[0].series.values["log10_grad_input"]
    wide = LongIsland(torch.float64, "cell").double()
    wide.load_state_dict(net.state_dict())
    wide.float().e.double()
    rows = []
    for row in x.double().split(1):
        leaf = row.clone().requires_grad_()
        wide(leaf).sum().backward()
        assert leaf.grad is not None
        rows.append(leaf.grad.norm(dim=-1))
    assert found == pytest.approx(torch.cat(rows).log10().mean(0).tolist(), abs=0.05)
    assert found[0] < -10
