"""Recurrences found in the computation of loops as people write them, held against autograd alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils import _pytree as pytree

from gradscope.forward.joined_chain import JoinedChain
from gradscope.forward.loop_jacobians import LoopChain
from gradscope.forward.traced_pass import TracedPass, trace_pass
from gradscope.forward.walk import State
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.loop_trace import LoopTrace
from gradscope.numerics.pick_trace import choose_module_trace
from gradscope.numerics.trace import Unavailable
from patterns import PATTERNS, Base, BothWays, Pattern, Reversed, Running, Skipping, Stacked

X = torch.randn(2, 11, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def loss(raw: Any) -> Tensor:
    return sum((value.square().sum() for value in pytree.tree_leaves(raw)), torch.zeros(()))


def traced(module: torch.nn.Module, x: Tensor = X, **settings: Any) -> LoopTrace:
    torch.manual_seed(9)
    found = choose_module_trace(WholeModule("m", module, 3, kind="module", **settings), x)
    assert isinstance(found, LoopTrace)
    return found


def edges(one: TracedPass, state: State) -> list[GradientEdge]:
    return [GradientEdge(one.graph.nodes[value[0]], value[1]) for value in state if value is not None]


def by_autograd(one: TracedPass, before: State, after: State) -> Tensor:
    """d(after)/d(before) by torch's own engine; parts of a state that feed each other are held apart."""
    rows = []
    ends, starts = edges(one, after), edges(one, before)
    shapes = [one.graph.shape(value) for value in after if value is not None]
    inner = [_jacobian([end], [one.graph.shape(v)], starts) for end, v in zip(starts, _values(before), strict=True)]
    whole = _jacobian(ends, shapes, starts)
    # A total derivative by an early part counts what it does through later parts: those are taken off, last first.
    columns = [shape.numel() for shape in (one.graph.shape(value) for value in _values(before))]
    places = [0, *torch.tensor(columns).cumsum(0).tolist()]
    apart = whole.clone()
    for later in reversed(range(len(columns))):
        for early in range(len(columns)):
            if early != later:
                through = inner[later][:, places[early] : places[early + 1]]
                apart[:, places[early] : places[early + 1]] -= apart[:, places[later] : places[later + 1]] @ through
    rows.append(apart)
    return torch.cat(rows)


def _values(state: State) -> list[Any]:
    return [value for value in state if value is not None]


def _jacobian(ends: list[GradientEdge], shapes: list[torch.Size], starts: list[GradientEdge]) -> Tensor:
    """Row by row."""
    rows = []
    for place, shape in enumerate(shapes):
        for entry in range(shape.numel()):
            seeds = [torch.zeros(one, dtype=torch.float64) for one in shapes]
            seeds[place].view(-1)[entry] = 1
            found = torch.autograd.grad(ends, starts, seeds, retain_graph=True, allow_unused=True)
            sizes = [start.node._input_metadata[start.output_nr].shape for start in starts]
            filled = [
                torch.zeros(s, dtype=torch.float64) if g is None else g for g, s in zip(found, sizes, strict=True)
            ]
            rows.append(torch.cat([g.reshape(-1) for g in filled]))
    return torch.stack(rows)


@pytest.mark.parametrize("case", PATTERNS, ids=str)
def test_the_state_is_that_of_the_textbook(case: Pattern) -> None:
    trace = traced(case.module())
    chain = trace.chain(0)
    assert (chain.length, chain.size, chain.begins) == (11 - case.begins, case.size, case.begins)
    zero = tuple(chain.begins + t for t in range(1, chain.length + 1) if not chain.jacobian(t).any())
    assert zero == case.zero
    assert trace.cut_steps(0) == case.cut


@pytest.mark.parametrize("case", PATTERNS, ids=str)
def test_outputs_and_gradients_are_those_of_the_module(case: Pattern) -> None:
    trace = traced(case.module())
    check = trace.equality(trace.cotangent(loss))
    assert check is not None
    assert check.passed
    assert check.output < 1e-12
    assert check.grad < 1e-10


@pytest.mark.parametrize("case", PATTERNS, ids=str)
def test_jacobians_are_those_of_autograd(case: Pattern) -> None:
    trace = traced(case.module())
    one = trace.opening(0)
    chain = trace.chain(0)
    tied = any(walk.ties for walk in one.walks)
    for t, (before, after) in enumerate(pairwise(joint_states(one)[case.begins :]), 1):
        if case.begins + t in case.zero or (t == 1 and tied) or set(before) & set(after):
            continue
        expected = by_autograd(one, before, after)
        steps = (case.begins + t - 1, case.begins + t)
        ahead, behind = (places(one, chain, step) for step in steps[::-1])
        own = chain.jacobian(t)[ahead][:, behind]
        assert torch.allclose(own, expected, rtol=0, atol=1e-12), t


@pytest.mark.parametrize("case", [case for case in PATTERNS if case.first], ids=str)
def test_products_carry_the_adjoint_to_the_first_state(case: Pattern) -> None:
    """dL/ds_0 = P_0^T dL/ds_T for a loss on the last output: by the graph on one side, by Jacobians on the other."""
    trace = traced(case.module())
    chain = trace.chain(0)
    if trace.output.ndim != 3:
        pytest.skip("the output has no steps")
    first, last, steps = trace.ends(0)
    product = torch.eye(chain.size, dtype=torch.float64)
    for t in range(1, steps - case.begins + 1):
        product = chain.jacobian(t) @ product
    one, whole = trace.opening(0), torch.zeros(chain.size, dtype=torch.float64)
    whole[places(one, chain, steps)] = last
    found = (product.mT @ whole)[places(one, chain, case.begins)]
    assert float((found - first).abs().max()) < 1e-12


def joint_states(one: TracedPass) -> list[State]:
    """s_0 .. s_T, layers side by side in the order in which they run."""
    return [sum(parts, ()) for parts in zip(*(walk.states for walk in one.walks), strict=True)]


def places(one: TracedPass, chain: LoopChain | JoinedChain, t: int) -> list[int]:
    """Where the numbers of s_t stand in a Jacobian."""
    parts = chain.parts if isinstance(chain, JoinedChain) else (chain,)
    found, start = [], 0
    for part, walk in zip(parts, one.walks, strict=True):
        found += [start + int(place) for place in part.places(walk.states[t])]
        start += part.size
    return found


def test_the_weights_of_every_step_and_sequence_are_those_of_autograd() -> None:
    """Each step's contribution to dL/dW, with one leaf per step for the weights."""
    module = next(case for case in PATTERNS if case.name == "unbound").module()
    trace = traced(module)
    v = trace.cotangent(loss)
    own = trace.adjoint(v).weight
    assert own is not None
    names = ("w.weight", "w.bias", "u.weight", "u.bias")
    for b in range(2):
        copies = [
            {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()} for _ in range(11)
        ]
        h, value = torch.zeros(1, 4, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for t, weights in enumerate(copies):
            before = h @ weights["w.weight"].T + weights["w.bias"] + X[b : b + 1, t] @ weights["u.weight"].T
            h = torch.tanh(before + weights["u.bias"])
            value = value + module.v(h).square().sum()
        value.backward()
        norms = [torch.cat([weights[name].grad.flatten() for name in names]).norm() for weights in copies]
        assert torch.allclose(10 ** own[:, b], torch.stack(norms), rtol=1e-10)


def test_a_loop_from_the_end_says_so() -> None:
    trace = traced(Reversed().double().eval())
    assert trace.names == ("loop.reverse",)
    assert trace.equality(trace.cotangent(loss)).passed
    with pytest.raises(Unavailable, match="reads the sequence from its end"):
        trace.chain(0)


def test_both_ways_are_two_recurrences() -> None:
    trace = traced(BothWays().double().eval())
    assert trace.names == ("loop", "loop.reverse")
    assert trace.equality(trace.cotangent(loss)).passed
    there = traced(BothWays().double().eval(), key="loop")
    assert there.chain(0).size == 4


def test_steps_of_another_number_are_counted() -> None:
    trace = traced(Skipping().double().eval())
    with pytest.raises(Unavailable, match="walks 5 steps of its own where the input has 11"):
        trace.chain(0)


def test_a_long_loop_keeps_its_scale() -> None:
    """Each step divides by 8: after 1,000 of them the gradient is 2^-3000 of what it was, far outside float64."""
    module = Running().double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.w.weight.copy_(torch.eye(4) / 8)
        module.u.weight[:3, :3].copy_(torch.eye(3))
        module.v.weight.fill_(1)
    x = torch.zeros(2, 1000, 3, dtype=torch.float64)
    trace = traced(module, x)
    logs = trace.input_gradient(trace.cotangent(lambda y: (y * 1000).sum()))
    expected = torch.tensor([sum(8.0**-k for k in range(1000 - t)) for t in range(1000)], dtype=torch.float64)
    assert torch.allclose(logs[0], (expected * 2 * 3**0.5).log10(), atol=1e-12)


def test_names_are_those_of_the_code() -> None:
    one = trace_pass(
        WholeModule("m", next(c for c in PATTERNS if c.name == "zoneout").module(), 3, kind="module"), X[:1]
    )
    assert one.states(one.walks[0])[1] == ["h", "c"]


class UnboundTwice(Stacked):
    """Layer by layer, each taking its steps apart at once."""

    def forward(self, x: Tensor) -> Tensor:
        h, below = self.zeros(x), []
        for step in x.unbind(1):
            h = self.cell(step, h)
            below.append(h)
        h, outputs = self.zeros(x), []
        for step in torch.stack(below, 1).unbind(1):
            h = torch.tanh(self.u2(step) + self.w2(h))
            outputs.append(h)
        return torch.stack(outputs, 1)


def test_layers_that_take_their_steps_apart_at_once_have_one_state() -> None:
    assert traced(UnboundTwice().double().eval()).chain(0).size == 8


class Cached(nn.Module):
    """Attention unrolled by step, with a cache of what was seen before."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        cache, h, outputs = x.new_zeros(len(x), 1, 4), x.new_zeros(len(x), 4), []
        for t in range(x.shape[1]):
            cache = torch.cat([cache, (self.k(x[:, t]) + 0.1 * h)[:, None]], 1)
            weights = torch.softmax((cache @ self.q(x[:, t])[..., None])[..., 0], 1)
            h = (weights[..., None] * cache).sum(1)
            outputs.append(h)
        return torch.stack(outputs, 1)


def test_a_cache_that_grows_is_no_state() -> None:
    trace = traced(Cached().double().eval())
    with pytest.raises(Unavailable, match=r"carries grows with every step .* a cache, not a state"):
        trace.chain(0)
    assert trace.equality(trace.cotangent(loss)).passed
    (walk,) = trace.first.walks
    assert [later - earlier for earlier, later in pairwise(walk.grows)][2:] == [4] * (len(walk.grows) - 3)


class Scan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1).tanh()


def test_a_scan_over_the_whole_axis_says_why_it_has_no_steps() -> None:
    trace = choose_module_trace(WholeModule("m", Scan(), 3, kind="module"), X)
    with pytest.raises(Unavailable, match=r"takes all steps at once \(a scan over the whole axis\)"):
        trace.chain(0)
    assert trace.input_gradient(trace.cotangent(loss)).shape == (2, 11)


@pytest.mark.parametrize(("first", "second"), [(3, -1), (-1, 3), (-4, 0), (2, 2)])
def test_a_buffer_gives_back_what_was_written_last_however_it_is_counted(first: int, second: int) -> None:
    class Buffered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.u = nn.Linear(4, 4), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), 4)
            for step in x.unbind(1):
                new = torch.tanh(self.w(h) + self.u(step))
                buffer = x.new_zeros(len(x), 4, 4)
                buffer[:, first] = new
                # Equal numbers, and no gradient: only the place tells which is read.
                buffer[:, second] = new.detach()
                h = buffer[:, second]
            return h + self.u(x[:, -1])

    trace = traced(Buffered().double().eval())
    assert trace.equality(trace.cotangent(loss)).passed
    found = trace.input_gradient(trace.cotangent(loss))
    assert bool((found[:, :-1] == -torch.inf).all())
    assert bool((found[:, -1] > -torch.inf).all())


class Reader(Base):
    """A decoder that looks at all of an encoder's states at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.w2, self.u2 = nn.Linear(4, 4), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, keys = self.zeros(x), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            keys.append(h)
        states, d, outputs = torch.stack(keys, 1), h, []
        for t in range(x.shape[1]):
            seen = torch.softmax((states @ d[..., None])[..., 0], 1)
            context = (seen[..., None] * states).sum(1)
            d = torch.tanh(self.w2(d) + self.u2(torch.cat([x[:, t], context], 1)))
            outputs.append(d)
        return torch.stack(outputs, 1)


def test_a_decoder_and_its_encoder_have_a_chain_each() -> None:
    for key in ("loop", "loop#2"):
        trace = traced(Reader().double().eval(), key=key)
        assert trace.chain(0).size == 4
        assert trace.equality(trace.cotangent(loss)).passed
    assert any("taken as given" in remark for remark in trace.remarks)


class SingleGate(Base):
    """A gate in float32 of input and state side by side, and a state that begins as one number for all sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(1, 1, dtype=x.dtype)
        for t in range(x.shape[1]):
            h = h.expand(len(x), 4)
            both = torch.cat((x[:, t], h), -1).float()
            z = nn.functional.linear(both, self.gate.weight.float()).sigmoid()
            h = z * h + (1 - z) * self.cell(x[:, t], h)
        return h


def test_gradients_have_the_number_type_of_their_values() -> None:
    """What torch's engine does between operations, which the gradients along the graph have to do as well."""
    torch.manual_seed(0)
    module = SingleGate().double()
    trace = traced(module)
    own = trace.input_gradient(trace.cotangent(loss))
    x = X.clone().requires_grad_()
    (true,) = torch.autograd.grad(loss(module(x)), x)
    assert torch.allclose(own, true.norm(dim=-1).log10(), rtol=0, atol=1e-5)
    assert trace.layers[0][1].values["state.h"].shape == (11, 2, 4)
