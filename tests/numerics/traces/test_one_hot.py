"""Ids that a module turns into one-hot codes by itself: its influence is that of the codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope

WORDS, STEPS = 7, 9
IDS = torch.randint(0, WORDS, (3, STEPS), generator=torch.Generator().manual_seed(4))


def whole(ids: Tensor) -> list[Tensor]:
    return list(functional.one_hot(ids, WORDS).double().unbind(1))


def step_by_step(ids: Tensor) -> list[Tensor]:
    return [functional.one_hot(ids[:, t], num_classes=WORDS).to(torch.float64) for t in range(STEPS)]


def pieces(ids: Tensor) -> list[Tensor]:
    codes = functional.one_hot(ids, WORDS)
    return [codes[:, t].type(torch.float64) for t in range(STEPS)]


def time_first(ids: Tensor) -> list[Tensor]:
    return list(functional.one_hot(ids.T, WORDS).double())


def scattered(ids: Tensor) -> list[Tensor]:
    codes = torch.zeros(*ids.shape, WORDS, dtype=torch.float64)
    codes.scatter_(2, ids.unsqueeze(-1), 1.0)
    return list(codes.unbind(1))


def scattered_by_step(ids: Tensor) -> list[Tensor]:
    empty = torch.zeros(len(ids), WORDS, dtype=torch.float64)
    return [empty.scatter(1, ids[:, t : t + 1], 1.0) for t in range(STEPS)]


class Words(nn.Module):
    def __init__(self, codes: object, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.codes, self.kind = codes, kind
        self.w, self.u, self.cell = nn.Linear(WORDS, 5), nn.Linear(5, 5), nn.GRUCell(WORDS, 5)
        self.gru = nn.GRU(WORDS, 5, batch_first=True)
        self.double()

    def run(self, codes: list[Tensor]) -> Tensor:
        if self.kind == "gru":
            return self.gru(torch.stack(codes, 1))[0][:, -1]
        h = codes[0].new_zeros(len(codes[0]), 5)
        for x in codes:
            h = self.cell(x, h) if self.kind == "cell" else torch.tanh(self.w(x) + self.u(h))
        return h

    def forward(self, ids: Tensor) -> Tensor:
        return self.run(self.codes(ids))  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["written", "cell", "gru"])
@pytest.mark.parametrize("codes", [whole, step_by_step, pieces, time_first, scattered, scattered_by_step])
def test_influence_is_that_of_the_codes(codes: object, kind: str) -> None:
    net = Words(codes, kind)
    found = gradscope.analyze(net, IDS, lambda y: y.square().sum()).models[0]
    leaf = functional.one_hot(IDS, WORDS).double().requires_grad_()
    net.run(list(leaf.unbind(1))).square().sum().backward()
    assert leaf.grad is not None
    right = leaf.grad.norm(dim=-1).log10().mean(0).tolist()
    assert found.series.values["log10_grad_input"] == pytest.approx(right, abs=1e-9)
    assert found.kind == "recurrent"
    assert None not in found.series.values["log10_jacobian_norm"]
