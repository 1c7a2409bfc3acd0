"""Layers that each run over the whole sequence are one state: the same numbers as with the steps outermost."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.forward.joined_chain import JoinedChain
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.chain_rule import through_product
from gradscope.numerics.pick_trace import choose_module_trace

WIDTH, FEATURES, LENGTH = 4, 3, 10
X = torch.randn(3, LENGTH, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


class Stack(nn.Module):
    """Layers of one kind with something between them; the same weights in both orders of the loops."""

    by_layer = True
    depth = 2

    def __init__(self, between: str, kind: type[nn.Module], depth: int = 2) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.cells = nn.ModuleList(kind(WIDTH, WIDTH) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(depth))
        self.mixes = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.embed = nn.Linear(FEATURES, WIDTH)
        self.between = between
        self.double()

    def first(self, x: Tensor, place: int) -> object:
        zeros = [x.new_zeros(len(x), WIDTH) for _ in range(2)]
        return tuple(zeros) if isinstance(self.cells[place], nn.LSTMCell) else zeros[0]

    def joined(self, y: Tensor, h: Tensor, place: int) -> Tensor:
        """What a layer hands on, of what it was given and what it made."""
        if "norm" in self.between:
            h = self.norms[place](h)
        if "linear" in self.between:
            h = self.mixes[place](h)
        return y + h if "residual" in self.between else h

    def run(self, place: int, x: Tensor, state: object) -> tuple[object, Tensor]:
        state = self.cells[place](x, state)
        return state, state[0] if isinstance(state, tuple) else state

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        return self.layers_first(y) if self.by_layer else self.steps_first(y)

    def layers_first(self, y: Tensor) -> Tensor:
        for place in range(len(self.cells)):
            state, outputs = self.first(y, place), []
            for t in range(y.shape[1]):
                state, h = self.run(place, y[:, t], state)
                outputs.append(h)
            y = self.joined(y, torch.stack(outputs, 1), place)
        return y

    def steps_first(self, y: Tensor) -> Tensor:
        states, outputs = [self.first(y, place) for place in range(len(self.cells))], []
        for t in range(y.shape[1]):
            flow = y[:, t]
            for place in range(len(self.cells)):
                states[place], h = self.run(place, flow, states[place])
                flow = self.joined(flow, h, place)
            outputs.append(flow)
        return torch.stack(outputs, 1)


class StepsFirst(Stack):
    by_layer = False


class Modules(nn.Module):
    """The layers of torch.nn with something between them."""

    def __init__(self, between: str, kind: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.embed = nn.Linear(FEATURES, WIDTH)
        self.lower, self.upper = (kind(WIDTH, WIDTH, batch_first=True) for _ in range(2))
        self.norm, self.mix, self.between = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), between
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        h = self.lower(y)[0]
        if "norm" in self.between:
            h = self.norm(h)
        if "linear" in self.between:
            h = self.mix(h)
        return self.upper(y + h if "residual" in self.between else h)[0]


def by_hand(module: Stack, x: Tensor) -> list[Tensor]:
    """J_t of the first sequence: the step of all layers, differentiated by torch."""
    pair = isinstance(module.cells[0], nn.LSTMCell)
    count = 2 if pair else 1

    def step(t: int, flat: Tensor) -> Tensor:
        flow, found = module.embed(x[:1, t]), []
        for place, own in enumerate(flat.chunk(len(module.cells), 1)):
            state = tuple(own.chunk(2, 1)) if pair else own
            state, h = module.run(place, flow, state)
            found.append(torch.cat(state, 1) if pair else state)
            flow = module.joined(flow, h, place)
        return torch.cat(found, 1)

    s, found = torch.zeros(1, len(module.cells) * count * WIDTH, dtype=torch.float64), []
    for t in range(x.shape[1]):
        found.append(torch.autograd.functional.jacobian(lambda s, t=t: step(t, s), s)[0, :, 0])
        s = step(t, s).detach()
    return found


def sigma(matrix: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrix)


def held(own: Tensor, expected: list[Tensor]) -> None:
    product = theirs = torch.eye(own.shape[-1], dtype=torch.float64)
    for t, jacobian in enumerate(expected):
        assert torch.allclose(sigma(own[t]), sigma(jacobian), atol=1e-12), t + 1
        product, theirs = own[t] @ product, jacobian @ theirs
        assert torch.allclose(sigma(product), sigma(theirs), atol=1e-12), t + 1


BETWEEN = ["nothing", "residual", "linear norm residual"]


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize(("kind", "depth"), [(nn.RNNCell, 3), (nn.LSTMCell, 2)])
def test_jacobians_are_those_of_the_step_of_all_layers(between: str, kind: type[nn.Module], depth: int) -> None:
    module = Stack(between, kind, depth)
    chain = choose_module_trace(WholeModule("m", module, FEATURES, kind="module"), X).chain(0)
    assert chain.length == LENGTH
    held(chain.dense(0, LENGTH)[0], by_hand(module, X))


@pytest.mark.parametrize("seed", range(25))
def test_stacks_drawn_at_random(seed: int) -> None:
    drawn = random.Random(seed)
    between = " ".join(part for part in ("linear", "norm", "residual") if drawn.random() < 0.5)
    kind = drawn.choice([nn.RNNCell, nn.GRUCell, nn.LSTMCell])
    module = drawn.choice([Stack, StepsFirst])(between, kind, drawn.choice([1, 2, 3]))
    x = X[:1, : drawn.choice([5, 7])]
    trace = choose_module_trace(WholeModule("m", module, FEATURES, kind="module"), x)
    chain = trace.chain(0)
    assert (chain.begins, chain.length) == (0, x.shape[1])
    held(chain.dense(0, chain.length)[0], by_hand(module, x))
    first, last, steps = trace.ends(0)
    assert float((through_product(chain, last, steps) - first).norm()) < 1e-12 * float(first.norm())


@pytest.mark.parametrize(("between", "loss"), [("norm", "final"), ("residual", "every")])
def test_loops_by_layer_or_by_step_give_the_same_numbers(between: str, loss: str) -> None:
    one, other = (gradscope.analyze(kind(between, nn.GRUCell), X, loss=loss).models[0] for kind in (Stack, StepsFirst))
    for name in ("lyapunov", "log10_condition", "directions", "reach", "rate", "carried_floats"):
        mine, theirs = getattr(one.summary, name), getattr(other.summary, name)
        assert mine == theirs or mine == pytest.approx(theirs, rel=1e-6), name
    for model in (one, other):
        assert model.summary.chain_rule_residual < 1e-12
    for name in ("log10_grad_state", "log10_grad_input", "log10_jacobian_norm", "log10_product_norm", "weight_share"):
        mine, theirs = (torch.tensor(model.series.values[name]).double() for model in (one, other))
        if name != "weight_share":
            assert torch.allclose(mine, theirs, atol=1e-9), name
    assert one.status == other.status
    assert len(one.layers) == 2


@pytest.mark.parametrize(("kind", "between"), [(nn.RNN, "norm"), (nn.GRU, "linear residual"), (nn.LSTM, "residual")])
def test_modules_with_something_between_are_one_state(kind: type[nn.Module], between: str) -> None:
    module = Modules(between, kind)
    trace = choose_module_trace(WholeModule("m", module, FEATURES, kind="module"), X)
    chain = trace.chain(0)
    cells = {nn.RNN: nn.RNNCell, nn.GRU: nn.GRUCell, nn.LSTM: nn.LSTMCell}
    twin = Stack(between, cells[kind])
    weights = dict(zip(("lower", "upper"), twin.cells, strict=True))
    with torch.no_grad():
        for name, cell in weights.items():
            for key, parameter in cell.named_parameters():
                parameter.copy_(getattr(getattr(module, name), f"{key}_l0"))
        for mine, theirs in ((twin.embed, module.embed), (twin.norms[0], module.norm), (twin.mixes[0], module.mix)):
            mine.load_state_dict(theirs.state_dict())
    held(chain.dense(0, LENGTH)[0], by_hand(twin, X))
    model = gradscope.analyze(module, X).models[0]
    assert model.summary.chain_rule_residual < 1e-12
    assert len(model.summary.lyapunov) == chain.size
    assert len(model.layers) == 2


def own_gradients(module: Stack, pull: Callable[[Tensor], Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(norms of dL/dx_own by sequence and step, norm of dL/dW) of every layer, by torch."""
    y, inputs = module.embed(X), []
    for place in range(len(module.cells)):
        y = y.detach().requires_grad_() if not place else y
        inputs.append(y)
        state, outputs = module.first(y, place), []
        for t in range(LENGTH):
            state, h = module.run(place, y[:, t], state)
            outputs.append(h)
        y = module.joined(y, torch.stack(outputs, 1), place)
    weights = [list(cell.parameters()) for cell in module.cells]
    flat = [*inputs, *(p for own in weights for p in own)]
    found = list(torch.autograd.grad(pull(y), flat))
    each = []
    for place, own in enumerate(weights):
        start = len(inputs) + sum(map(len, weights[:place]))
        norm = torch.cat([g.flatten() for g in found[start : start + len(own)]]).norm()
        each.append((found[place].norm(dim=-1), norm))
    return each


def test_a_layer_is_told_by_its_own_input_and_weights() -> None:
    module = Stack("norm", nn.GRUCell)
    trace = choose_module_trace(WholeModule("m", module, FEATURES, kind="module"), X)
    v = trace.cotangent(lambda y: y.square().sum())
    expected = own_gradients(module, lambda y: y.square().sum())
    for layer, (_, weight) in zip(trace.layer_adjoints(v), expected, strict=True):
        assert layer.weight_gradient == pytest.approx(float(weight.log10()), abs=1e-9)
    upper = trace.layer_adjoints(v)[1]
    assert torch.allclose(10**upper.input.T, expected[1][0], atol=1e-12)


@pytest.mark.parametrize("between", ["norm", "residual"])
def test_a_lower_layer_by_itself_keeps_the_chain_rule(between: str) -> None:
    module = Stack(between, nn.GRUCell)
    for name in ("cells.0", "cells.1"):
        model = gradscope.analyze(module, X, key=name).models[0]
        assert model.summary.chain_rule_residual < 1e-12, name
        assert len(model.summary.lyapunov) == WIDTH


class Convolved(Stack):
    """What stands between reads several steps."""

    def joined(self, y: Tensor, h: Tensor, place: int) -> Tensor:
        return nn.functional.avg_pool1d(h.mT, 3, 1, 1).mT


class UpperBackwards(Stack):
    def layers_first(self, y: Tensor) -> Tensor:
        state, outputs = self.first(y, 0), []
        for t in range(y.shape[1]):
            state, h = self.run(0, y[:, t], state)
            outputs.append(h)
        y, state, outputs = self.norms[0](torch.stack(outputs, 1)), self.first(y, 1), []
        for t in reversed(range(y.shape[1])):
            state, h = self.run(1, y[:, t], state)
            outputs.append(h)
        return torch.stack(outputs[::-1], 1)


@pytest.mark.parametrize(("kind", "why"), [(Convolved, "more of"), (UpperBackwards, "")])
def test_what_has_no_joint_state_says_why(kind: type[Stack], why: str) -> None:
    model = gradscope.analyze(kind("nothing", nn.GRUCell), X).models[0]
    assert model.summary.lyapunov is None
    assert any("no Jacobians" in note and why in note for note in model.notes), model.notes
    assert len(model.layers) == 2


def test_a_chain_that_misses_the_gradient_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    own = JoinedChain.jacobian
    monkeypatch.setattr(JoinedChain, "jacobian", lambda chain, t: own(chain, t) * (0.5 if t == 3 else 1.0))
    model = gradscope.analyze(Stack("norm", nn.GRUCell), X).models[0]
    assert any("no Jacobians" in note and "off by 5e-01" in note for note in model.notes), model.notes
    assert model.summary.chain_rule_residual is None
    assert model.summary.lyapunov is None
    assert "log10_jacobian_norm" not in model.series.values
    assert model.summary.reach is not None
    doubted = [verdict for verdict in model.verdicts if verdict.code == "GS103"]
    assert [verdict.status for verdict in doubted] == ["inconclusive"]
    assert "off by 5e-01" in doubted[0].message


def test_a_model_whose_chain_misses_the_gradient_is_not_called_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Listed(nn.LSTMCell)
    with torch.no_grad():
        for cell in kept.cells:
            cell.bias_hh[WIDTH : 2 * WIDTH] = 6.0
    assert gradscope.analyze(kept, X).models[0].status == "healthy"
    own = JoinedChain.jacobian
    monkeypatch.setattr(JoinedChain, "jacobian", lambda chain, t: own(chain, t) * (0.5 if t == 3 else 1.0))
    assert gradscope.analyze(kept, X).models[0].status == "inconclusive"


class Truncated(nn.Module):
    """Truncated BPTT: the state is detached between two calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.lstm = nn.LSTM(FEATURES, WIDTH, batch_first=True).double()

    def forward(self, x: Tensor) -> Tensor:
        lower, (h, c) = self.lstm(x[:, :5])
        return torch.cat([lower, self.lstm(x[:, 5:], (h.detach(), c.detach()))[0]], 1)


def test_a_detached_state_is_cut_on_both_sides_of_the_chain_rule() -> None:
    model = gradscope.analyze(Truncated(), X).models[0]
    assert model.summary.cut == 6
    assert model.summary.chain_rule_residual is None
    assert "exactly zero" in model.skipped["chain_rule_residual"]


class Listed(Stack):
    """Each layer walks the sequence and hands a list on, with nothing that holds all steps at once between them."""

    def __init__(
        self,
        kind: type[nn.Module] = nn.RNNCell,
        between: str = "nothing",
        depth: int = 2,
        *,
        begin: str = "zeros",
        before: str = "nothing",
        output: str = "steps",
    ) -> None:
        super().__init__(between, kind, depth)
        self.begin, self.before, self.output = begin, before, output
        self.learned = nn.Parameter(torch.randn(depth, 2, WIDTH, dtype=torch.float64))

    def begun(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        one = x.new_zeros(len(x), WIDTH)
        parts = 2 if isinstance(self.cells[0], nn.LSTMCell) else 1
        if self.begin == "learned":
            return [tuple(part.expand(len(x), -1) for part in own[:parts]) for own in self.learned]
        fresh = (lambda: one) if self.begin == "shared" else (lambda: torch.zeros_like(one))
        return [tuple(fresh() for _ in range(parts)) for _ in self.cells]

    def moved(self, t: int, place: int, flow: Tensor, state: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
        """A layer's step t, t = 0 .. T - 1: its new state, and what it hands on."""
        if self.before == "reset" and t and t % 4 == 0:
            state = tuple(flow.new_zeros(len(flow), WIDTH) for _ in state)
        if self.before == "mask":
            state = tuple(part * float(t % 5 > 0) for part in state)
        if self.before == "detach" and t and t % 3 == 0:
            state = tuple(part.detach() for part in state)
        new, h = self.run(place, flow, state if len(state) > 1 else state[0])
        return new if isinstance(new, tuple) else (new,), self.joined(flow, h, place)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        flows = [self.embed(x[:, t]) for t in range(x.shape[1])]
        for place, state in enumerate(self.begun(x)):
            above = []
            for t, flow in enumerate(flows):
                state, out = self.moved(t, place, flow, state)
                above.append(out)
            flows = above
        if self.output == "last":
            return flows[-1]
        if self.output == "scalar":
            return flows[-1].sum()
        return {"y": torch.stack(flows, 1)} if self.output == "named" else torch.stack(flows, 1)

    def unrolled(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """s_0 .. s_T, (batch, size) each made from the one before alone, and y_T, made of s_T and x_T."""
        states = [torch.cat([part for own in self.begun(x) for part in own], 1).clone().requires_grad_()]
        for t in range(x.shape[1]):
            flow, made = self.embed(x[:, t]), []
            for place, own in enumerate(states[-1].chunk(len(self.cells), 1)):
                new, flow = self.moved(t, place, flow, own.split(WIDTH, 1))
                made += new
            states.append(torch.cat(made, 1))
        flow = self.embed(x[:, -1])
        for place, own in enumerate(states[-1].chunk(len(self.cells), 1)):
            flow = self.joined(flow, own[:, :WIDTH], place)
        return states, flow


LISTED = {
    "lists": {},
    "lists of an LSTM": {"kind": nn.LSTMCell},
    "three layers with residual sums": {"kind": nn.GRUCell, "between": "linear residual", "depth": 3},
    "norms at every step": {"kind": nn.GRUCell, "between": "norm"},
    "one tensor of zeros for all layers": {"kind": nn.LSTMCell, "begin": "shared"},
    "learned first states": {"kind": nn.GRUCell, "begin": "learned", "depth": 3, "between": "linear"},
    "a detach every third step": {"kind": nn.GRUCell, "before": "detach"},
    "a new state every fourth step": {"kind": nn.GRUCell, "before": "reset"},
    "a mask": {"kind": nn.LSTMCell, "before": "mask"},
    "the last output alone": {"kind": nn.LSTMCell, "output": "last"},
    "one number for all sequences": {"output": "scalar"},
    "a dict": {"kind": nn.GRUCell, "output": "named", "begin": "shared"},
}


@pytest.mark.parametrize("case", LISTED.values(), ids=LISTED)
def test_layers_that_hand_a_list_on_are_one_state(case: dict[str, object]) -> None:
    module = Listed(**case)
    last = lambda raw: raw["y"] if isinstance(raw, dict) else raw  # noqa: E731
    end = lambda y: y[:, -1].sum() if y.ndim == 3 else y.sum()  # noqa: E731
    model = gradscope.analyze(module, X, lambda raw: end(last(raw))).models[0]
    begins = 1 if case.get("begin") == "shared" else 0
    assert len(model.layers) == len(module.cells)
    states, y = module.unrolled(X)
    one = [s.detach()[:1] for s in states]
    jacobians = [_step_jacobian(module, t, one[t]) for t in range(LENGTH)]
    assert model.size == len(jacobians[0])
    assert near(model.series.values["log10_jacobian_norm"][begins:], [sigma(j)[0] for j in jacobians[begins:]])
    products = [torch.eye(model.size, dtype=torch.float64)]
    for j in reversed(jacobians):
        products.insert(0, products[0] @ j)
    assert near(model.series.values["log10_product_norm"][begins:], [sigma(p)[0] for p in products[begins:]])
    found = torch.autograd.grad(y.sum(), states, allow_unused=True)
    norms = [torch.zeros(3) if g is None else g.norm(dim=1) for g in found[begins:]]
    means = [n[n > 0].log().mean().exp() if n.any() else n.sum() for n in norms]
    assert near(model.series.values["log10_grad_state"][begins:], means)


def _step_jacobian(module: Listed, t: int, s: Tensor) -> Tensor:
    """d(all layers' states)/d(those of the step before) at step t + 1, of the first sequence."""

    def step(s: Tensor) -> Tensor:
        flow, made = module.embed(X[:1, t]), []
        for place, own in enumerate(s.chunk(len(module.cells), 1)):
            new, flow = module.moved(t, place, flow, own.split(WIDTH, 1))
            made += new
        return torch.cat(made, 1)

    return torch.autograd.functional.jacobian(step, s)[0, :, 0]


def near(own: Sequence[float], expected: Sequence[Tensor]) -> bool:
    """Whether these are the logarithms of those; -inf is told of what is exactly zero."""
    pairs = zip(own, (float(one) for one in expected), strict=True)
    return all(a == -math.inf if b == 0 else abs(a - math.log10(b)) < 1e-8 for a, b in pairs)


def test_a_layer_of_lists_is_told_by_its_own_input_and_weights() -> None:
    module = Listed(nn.GRUCell, "norm")
    trace = choose_module_trace(WholeModule("m", module, FEATURES, kind="module"), X)
    v = trace.cotangent(lambda y: y.square().sum())
    expected = own_gradients(module, lambda y: y.square().sum())
    for layer, (_, weight) in zip(trace.layer_adjoints(v), expected, strict=True):
        assert layer.weight_gradient == pytest.approx(float(weight.log10()), abs=1e-9)


def test_a_mean_over_sequences_is_told_by_sequence() -> None:
    """The sequences mix in it, but the gradient of each is its part of the mean."""

    class Mean(Modules):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, -1].mean()

    module = Mean("nothing", nn.LSTM)
    model = gradscope.analyze(module, X, lambda y: y).models[0]
    x = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(module(x), x)
    assert near(model.series.values["log10_grad_input"], found.norm(dim=-1).log().mean(0).exp())
    assert model.summary.chain_rule_residual is not None or "no steps" in model.skipped["chain_rule_residual"]
    assert "log10_grad_state" in model.series.values
