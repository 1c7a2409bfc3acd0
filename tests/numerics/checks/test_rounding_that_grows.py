"""A recurrence that makes rounding errors grow parts from torch's own run, and is the user's model all the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.module_trace import ModuleTrace
from gradscope.records import ModelResult

KINDS = ("RNN", "RNNCell", "LSTM", "relu", "both ways", "both ways, two layers")
X = torch.randn(4, 150, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def steep(cell: nn.Module, std: float) -> nn.Module:
    for name, weight in cell.named_parameters():
        if "weight_hh" in name:
            nn.init.normal_(weight, std=std)
    return cell


class Read(nn.Module):
    """What an engineer writes around a layer, or around a cell in a loop."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.layer, nn.RNNCell):
            return self.head(self.layer(x)[0][:, -1])
        h = x.new_zeros(len(x), 32)
        for t in range(x.shape[1]):
            h = self.layer(x[:, t], h)
        return self.head(h)


def layer(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "relu":
        made: nn.Module = nn.RNN(3, 32, nonlinearity="relu", batch_first=True)
        return steep(made, 0.5).double()
    made = {
        "RNN": lambda: nn.RNN(3, 32, batch_first=True),
        "RNNCell": lambda: nn.RNNCell(3, 32),
        "LSTM": lambda: nn.LSTM(3, 32, num_layers=2, batch_first=True),
        "both ways": lambda: nn.RNN(3, 16, batch_first=True, bidirectional=True),
        "both ways, two layers": lambda: nn.LSTM(3, 16, num_layers=2, batch_first=True, bidirectional=True),
    }[kind]()
    if kind.startswith("both"):
        return steep(made, (4 if kind == "both ways" else 10) / 16**0.5).double()
    return steep(made, 8 / 32**0.5 if kind == "LSTM" else 4 / 32**0.5).double()


def analyzed(module: nn.Module, x: Tensor) -> ModelResult:
    return gradscope.analyze(module, x).models[0]


@pytest.mark.parametrize(
    ("kind", "around"),
    [*((kind, "bare") for kind in ("RNN", "LSTM", "relu")), *((kind, "module") for kind in KINDS)],
)
def test_a_chaotic_or_growing_recurrence_is_told_as_exploding(kind: str, around: str) -> None:
    module = layer(kind) if around == "bare" else Read(layer(kind)).double()
    model = analyzed(module, X)
    check = model.loaded.equality_check
    assert check is not None
    assert check.passed
    # Two layers that read both ways have no lags along which anything could grow.
    assert model.status == "exploding" or kind == "both ways, two layers"
    assert (model.summary.lyapunov or (0.0,))[0] > 0.05 or kind.startswith("both")


def test_its_numbers_are_those_of_torch_while_the_two_agree() -> None:
    module, x = Read(layer("RNN")).double(), X[:, :60]
    model = analyzed(module, x)
    check = model.loaded.equality_check
    assert check is not None
    assert check.passed
    assert 1e-10 < check.output < 1e-4
    leaf = x.clone().requires_grad_()
    (own,) = torch.autograd.grad(module(leaf).sum(), leaf)
    norms = own.norm(dim=-1).log10().mean(0)
    found = torch.tensor([float(v) for v in model.series.values["log10_influence"]], dtype=torch.float64)
    assert torch.allclose((found - found[0]).flip(0)[-60:], norms - norms[-1], atol=1e-3)
    assert check.rounding_from is not None
    assert 20 < check.rounding_from <= 60


@pytest.mark.parametrize("name", ["weight_ih", "weight_hh", "bias_ih"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_altered_weight_is_no_rounding(kind: str, name: str) -> None:
    trace = ModuleTrace(WholeModule("m", Read(layer(kind)).double().eval(), 3, kind="module"), X)

    def altered(one: Any) -> None:
        one.cells[-1][-1].parameters[name].mul_(1 + 1e-6)

    altered(trace.seen.recurrences[0])
    found = trace.equality(trace.cotangent(lambda y: y[:, -1].square().sum()))
    assert found is not None
    assert (found.passed, found.rounding_from) == (False, None)


def test_the_chain_of_a_chaotic_family_is_held_against_autograd_at_its_own_states() -> None:
    summary = gradscope.analyze("rnn:gain=8", hidden=32, length=150, batch=1).models[0].summary
    assert summary.chain_rule_residual is not None
    assert summary.chain_rule_residual < 1e-10
    assert summary.lyapunov is not None
    assert summary.lyapunov[0] > 0.2
