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
