"""Modules that ask autograd for gradients within their forward pass: energies, and states that learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import gradscope

STEPS, FEATURES, SIZE = 9, 3, 4
X = torch.randn(2, STEPS, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


class Hamiltonian(nn.Module):
    """The state follows the gradient of an energy that is learned."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.energy, self.read = (
            nn.Sequential(nn.Linear(SIZE, 6), nn.Tanh(), nn.Linear(6, 1)),
            nn.Linear(FEATURES, SIZE),
        )

    def step(self, x: Tensor, z: Tensor) -> Tensor:
        z = 0.8 * z + self.read(x)
        (slope,) = torch.autograd.grad(self.energy(z).sum(), z, create_graph=True)
        return z + 0.3 * slope.roll(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        z, states = torch.zeros(len(x), SIZE, dtype=x.dtype), []
        for step in x.unbind(1):
            z = self.step(step, z)
            states.append(z)
        return torch.stack(states, 1)


class Learner(nn.Module):
    """Its state is a matrix that takes a step of gradient descent at every input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.read = nn.Linear(FEATURES, 3 * SIZE)

    def step(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        key, value, query = self.read(x).chunk(3, -1)
        loss = (torch.einsum("bij,bj->bi", w, key) - value).square().sum()
        (slope,) = torch.autograd.grad(loss, w, create_graph=True)
        w = 0.9 * w - 0.1 * slope
        return w, torch.einsum("bij,bj->bi", w, query)

    def forward(self, x: Tensor) -> Tensor:
        w, found = (self.read(x[:, 0])[:, :SIZE, None] * 0).expand(-1, -1, SIZE), []
        for step in x.unbind(1):
            w, y = self.step(step, w)
            found.append(y)
        return torch.stack(found, 1)


def last(y: Tensor) -> Tensor:
    return y[:, -1].square().sum()


def by_autograd(module: nn.Module) -> list[float]:
    """log10 of the influence by lag: the norm of dL/dx_t of each sequence, geometric mean."""
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(last(module(x)), x)
    return gradient.norm(dim=-1).log10().mean(0).flip(0).tolist()


@pytest.mark.parametrize("kind", [Hamiltonian, Learner])
def test_a_forward_that_asks_autograd_for_gradients_is_followed(kind: type[nn.Module]) -> None:
    module = kind().double()
    found = gradscope.analyze(module, X, loss=last).models[0]
    assert found.series.values["log10_influence"] == pytest.approx(by_autograd(module), abs=1e-9)
    assert found.loaded.equality_check is not None
    assert found.loaded.equality_check.passed
    assert found.size == (SIZE if kind is Hamiltonian else SIZE * SIZE)


def test_its_jacobians_are_those_of_its_step() -> None:
    """‖J_t‖ of the first sequence by torch.autograd through the step."""
    module = Hamiltonian().double()
    states = [torch.zeros(1, SIZE, dtype=torch.float64)]
    for step in X[:1].unbind(1):
        states.append(module.step(step, states[-1].requires_grad_()).detach())
    norms = [
        torch.linalg.matrix_norm(
            torch.autograd.functional.jacobian(lambda z, t=t: module.step(X[:1, t], z)[0], states[t].detach())[:, 0], 2
        )
        for t in range(STEPS)
    ]
    found = gradscope.analyze(module, X, loss=last).models[0].series.values["log10_jacobian_norm"]
    assert [value for value in found if value is not None] == pytest.approx(
        [math.log10(float(norm)) for norm in norms[-sum(value is not None for value in found) :]], abs=1e-9
    )


def test_it_is_analysed_while_it_trains(tmp_path) -> None:
    module = Hamiltonian().double()
    optimizer = torch.optim.SGD(module.parameters(), 1e-2)
    with gradscope.Monitor(module, log=None, screen=False) as flow:
        loss = last(module(X))
        loss.backward()
        flow.step(loss, X)
        optimizer.step()
    assert not flow.trajectory.notes
    assert flow.trajectory.points[0].rate is not None
