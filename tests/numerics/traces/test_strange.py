"""Unusual modules through the whole pipeline: their numbers are those of plain autograd, and nothing ends the run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.errors import UsageError
from strange import STRANGE, by_autograd

X = torch.randn(3, 12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
FOLLOWED = set(STRANGE) - {"sequences end"}


def loss(y: Tensor) -> Tensor:
    return (y * torch.linspace(0.5, 1.5, y.shape[-1], dtype=y.dtype)).sum()


@pytest.mark.parametrize("name", STRANGE)
def test_gradients_by_step_are_those_of_autograd(name: str) -> None:
    torch.manual_seed(3)
    module = STRANGE[name]().double()
    found = gradscope.analyze(module, X, loss).models[0]
    # A cast program keeps its parameters in float32 beside copies in float64.
    near = 1e-5 if name == "scripted" else 1e-9
    assert found.series.values["log10_grad_input"] == pytest.approx(by_autograd(module, X, loss), abs=near)
    assert (found.kind == "recurrent") == (name in FOLLOWED)
    check = found.loaded.equality_check
    assert (check is not None and check.passed) == (name in FOLLOWED)
    residual = found.summary.chain_rule_residual
    assert residual is None or residual < 1e-9
    cuts = {verdict.code for verdict in found.verdicts if verdict.status == "fail"} & {"GS401", "GS405"}
    assert bool(cuts) == (name in ("burn-in without gradient", "a step without gradient"))


@pytest.mark.parametrize("name", ["vector", "sequences end"])
def test_remedies_of_them_end_no_run_either(name: str) -> None:
    torch.manual_seed(3)
    found = gradscope.analyze(STRANGE[name]().double(), X, loss, fix=True).models[0]
    assert found.status


class StepAlone(nn.Module):
    """A step, and no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(5, 5), nn.Linear(4, 5)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.w(h) + self.u(x))


def test_a_module_with_a_step_and_no_forward_is_a_cell() -> None:
    torch.manual_seed(3)
    cell = StepAlone().double()
    found = gradscope.analyze(cell, X, lambda y: y[:, -1].sum(), state_size=5).models[0]
    leaf = X.clone().requires_grad_()
    h = leaf.new_zeros(3, 5)
    for step in leaf.unbind(1):
        h = cell.step(step, h)
    h.sum().backward()
    assert leaf.grad is not None
    expected = leaf.grad.norm(dim=-1).log10().mean(0).tolist()
    assert found.series.values["log10_grad_input"] == pytest.approx(expected, abs=1e-9)
    with pytest.raises(UsageError, match="--state-size N"):
        gradscope.analyze(cell, X)


class Rotating(nn.Module):
    """h_t = lambda * h_{t-1} + B x_t, lambda = exp(-exp(nu) + i theta): complex, or as two real tensors."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.apart, self.nu, self.theta = apart, nn.Parameter(-torch.rand(4) - 1), nn.Parameter(3 * torch.rand(4))
        self.b, self.c = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        decay, out = torch.exp(-torch.exp(self.nu)), []
        re, im = decay * self.theta.cos(), decay * self.theta.sin()
        if not self.apart:
            h = torch.zeros(len(x), 4, dtype=torch.complex(re, im).dtype)
            for step in x.unbind(1):
                h = torch.complex(re, im) * h + step @ self.b
                out.append(h.real @ self.c)
            return torch.stack(out, 1)
        u = v = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            u, v = re * u - im * v + step @ self.b, re * v + im * u
            out.append(u @ self.c)
        return torch.stack(out, 1)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_complex_state_is_measured_by_input_and_its_advice_holds(kind: torch.dtype) -> None:
    x = torch.randn(2, 12, 3, dtype=kind, generator=torch.Generator().manual_seed(0))
    leaf, near = x.clone().requires_grad_(), 1e-4 if kind == torch.float32 else 1e-9
    net = Rotating(False).to(kind)
    (own,) = torch.autograd.grad(net(leaf)[:, -1].sum(), leaf)
    found = gradscope.analyze(net, x, loss=lambda y: y[:, -1].sum()).models[0]
    expected = own.norm(dim=-1).log10().mean(0).flip(0).tolist()
    assert found.series.values["log10_influence"] == pytest.approx(expected, abs=near)
    assert "its state is complex" in found.skipped["lyapunov"]
    real = gradscope.analyze(Rotating(True).to(kind), x, loss=lambda y: y[:, -1].sum()).models[0]
    assert real.series.values["log10_influence"] == pytest.approx(expected, abs=near)
    exponents = [value for value in sorted((-torch.exp(net.nu)).tolist(), reverse=True) for _ in range(2)]
    assert real.summary.lyapunov == pytest.approx(exponents, abs=10 * near)
