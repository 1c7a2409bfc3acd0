"""Parts of a state that rest at some steps, of which the last state has all; and a tree, in which no state goes on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import gradscope

HIDDEN = 3


class Hierarchical(nn.Module):
    """A cell at every step, and one above it at every third."""

    size = 2 * HIDDEN

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.GRUCell(4 + HIDDEN, HIDDEN), nn.GRUCell(HIDDEN, HIDDEN)

    def step(self, s: Tensor, x: Tensor, t: int) -> Tensor:
        h, u = s.chunk(2, -1)
        h = self.low(torch.cat([x, u], -1), h)
        return torch.cat([h, self.high(h, u) if t % 3 == 2 else u], -1)

    def forward(self, x: Tensor) -> Tensor:
        h = u = x.new_zeros(len(x), HIDDEN)
        u, ys = u.clone(), []
        for t in range(x.shape[1]):
            h = self.low(torch.cat([x[:, t], u], -1), h)
            if t % 3 == 2:
                u = self.high(h, u)
            ys.append(h)
        return torch.stack(ys, 1)


class Clockwork(nn.Module):
    """Blocks in a list, block i made anew at every 2^i-th step of what is computed for all of them."""

    blocks = 3
    size = 3 * HIDDEN

    def __init__(self) -> None:
        super().__init__()
        self.fed, self.back = nn.Linear(4, self.size), nn.Linear(self.size, self.size)

    def made(self, s: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return torch.tanh(self.fed(x) + self.back(s)).split(HIDDEN, -1)

    def step(self, s: Tensor, x: Tensor, t: int) -> Tensor:
        new, old = self.made(s, x), s.split(HIDDEN, -1)
        return torch.cat([new[i] if t % 2**i == 0 else old[i] for i in range(self.blocks)], -1)

    def forward(self, x: Tensor) -> Tensor:
        blocks, ys = [x.new_zeros(len(x), HIDDEN) for _ in range(self.blocks)], []
        for t in range(x.shape[1]):
            new = self.made(torch.cat(blocks, -1), x[:, t])
            blocks = [new[i] if t % 2**i == 0 else blocks[i] for i in range(self.blocks)]
            ys.append(torch.cat(blocks, -1))
        return torch.stack(ys, 1)


@pytest.mark.parametrize("steps", [13, 14, 15, 16])
@pytest.mark.parametrize("kind", [Hierarchical, Clockwork])
def test_the_last_state_has_what_its_step_left_as_it_was(kind: type[Hierarchical | Clockwork], steps: int) -> None:
    torch.manual_seed(0)
    module, x = kind().double(), torch.randn(1, steps, 4, dtype=torch.float64)
    state, jacobians = torch.zeros(1, kind.size, dtype=torch.float64), []
    for t in range(steps):
        one = torch.autograd.functional.jacobian(lambda s, t=t: module.step(s, x[:, t], t), state)
        jacobians.append(one[0, :, 0])
        state = module.step(state, x[:, t], t).detach()
    products = [torch.eye(kind.size, dtype=torch.float64)]
    for one in reversed(jacobians):
        products.append(products[-1] @ one)
    found = gradscope.analyze(module, x, lambda y: y[:, -1].sum()).models[0]
    by_hand = [float(torch.linalg.matrix_norm(one, 2).log10()) for one in jacobians]
    assert list(found.series.values["log10_jacobian_norm"]) == pytest.approx(by_hand, abs=1e-9)
    by_hand = [float(torch.linalg.matrix_norm(one, 2).log10()) for one in reversed(products)]
    assert list(found.series.values["log10_product_norm"]) == pytest.approx(by_hand, abs=1e-9)
    assert (found.size, found.summary.rank_lost_at) == (kind.size, None)


class Unread(Hierarchical):
    """What is made at every step is taken at every third alone, and the output after the loop reads that."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, u = x.new_zeros(len(x), HIDDEN), x.new_zeros(len(x), HIDDEN)
        for t in range(x.shape[1]):
            h, made = self.low(torch.cat([x[:, t], u], -1), h), self.high(h, u)
            u = self.high(h, u) if t % 3 == 2 else u
            del made
        return self.head(u)


@pytest.mark.parametrize("steps", [12, 14, 16])
def test_an_output_after_the_loop_reads_the_last_state(steps: int) -> None:
    torch.manual_seed(0)
    module, x = Unread().double(), torch.randn(1, steps, 4, dtype=torch.float64)
    states = [torch.zeros(1, Unread.size, dtype=torch.float64, requires_grad=True)]
    for t in range(steps):
        states.append(module.step(states[-1], x[:, t], t))
    by_hand = torch.autograd.grad(module.head(states[-1][:, HIDDEN:]).sum(), states)
    found = gradscope.analyze(module, x, lambda y: y.sum()).models[0]
    log10 = [float(one.norm().log10()) for one in by_hand]
    assert list(found.series.values["log10_grad_state"]) == pytest.approx(log10, abs=1e-9)
    assert found.size == Unread.size


class Tree(nn.Module):
    """Pairs of neighbours are put together until one is left."""

    def __init__(self) -> None:
        super().__init__()
        self.leaf, self.pair, self.head = nn.Linear(4, HIDDEN), nn.Linear(2 * HIDDEN, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        nodes = [torch.tanh(self.leaf(one)) for one in x.unbind(1)]
        while len(nodes) > 1:
            pairs = [nodes[i : i + 2] for i in range(0, len(nodes), 2)]
            nodes = [torch.tanh(self.pair(torch.cat(pair, -1))) if len(pair) > 1 else pair[0] for pair in pairs]
        return self.head(nodes[0])


@pytest.mark.parametrize("leaves", [13, 24])
def test_a_tree_whose_oldest_leaf_is_heard_has_lost_no_directions(leaves: int) -> None:
    torch.manual_seed(0)
    module, x = Tree().double(), torch.randn(3, leaves, 4, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (by_hand,) = torch.autograd.grad(module(leaf).sum(), leaf)
    found = gradscope.analyze(module, x).models[0]
    norms = by_hand.norm(dim=-1).log10().mean(0)
    assert list(found.series.values["log10_grad_input"]) == pytest.approx(norms.tolist(), abs=1e-9)
    heard = {t: norm for t, norm in enumerate(found.series.values.get("log10_grad_state", ())) if norm is not None}
    assert all(norm > -math.inf for norm in heard.values()), "the oldest leaf goes through every state"
    assert next(v for v in found.verdicts if v.code == "GS103").status not in ("warn", "fail")
