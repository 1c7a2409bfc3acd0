"""Python objects as models, by file and by API."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gradscope
from gradscope.errors import UsageError
from gradscope.pipeline import diagnose
from gradscope.records import RunSpec

CODE = """
import torch


class Cut:
    input_size = 2
    initial_state = torch.zeros(3)

    def step(self, x, s):
        return torch.tanh(s.detach() + x.sum(-1, keepdim=True))


class Branching(torch.nn.Module):
    input_size = 1
    initial_state = torch.ones(2)

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.5, 0.9]))

    def forward(self, x, s):
        return s * self.w if float(x.sum()) > 0 else s * self.w * 0.5


class Growing:
    input_size = 1
    initial_state = torch.ones(2)

    def step(self, x, s):
        return s * 1.5 + torch.where(s > 20, torch.nan, 0.0)


def make():
    return torch.nn.LSTM(3, 8)


class Failing(torch.nn.Module):
    def forward(self, x):
        raise ValueError("my own mistake")
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(CODE)
    return str(tmp_path / "mine.py")


def analysed(word: str, **settings: object):
    return diagnose(RunSpec(models=(word,), **settings)).models[0]


def test_a_cell_that_detaches_its_state_is_a_cut_gradient(path: str) -> None:
    found = analysed(f"{path}:Cut", length=12)
    assert found.status == "degenerate"
    assert found.summary.cut == 12
    assert next(v for v in found.verdicts if v.code == "GS401").status == "fail"


def test_nan_born_in_a_cell_is_a_finding_with_its_step(path: str) -> None:
    found = analysed(f"{path}:Growing", length=30)
    # 1.5^8 = 25.6 exceeds 20 after step 8, so step 9 is the first NaN.
    assert (found.status, found.summary.non_finite.step) == ("non-finite", 9)


def test_a_module_cell_that_branches_on_values_runs(path: str) -> None:
    assert analysed(f"{path}:Branching", length=10, batch=2).summary.log10_grad_weight is not None


def test_a_factory_is_called(path: str) -> None:
    found = analysed(f"{path}:make", length=20)
    assert (found.kind, found.size) == ("recurrent", 16)


@pytest.mark.parametrize(
    ("name", "message"),
    [("Failing", "my own mistake"), ("nothing", "has no attribute 'nothing'")],
)
def test_failing_user_code_is_one_line(path: str, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        analysed(f"{path}:{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [torch.nn.RNN, torch.nn.GRU, torch.nn.LSTM])
def test_torch_modules_keep_their_numbers_and_are_left_alone(kind: type[torch.nn.RNNBase]) -> None:
    torch.manual_seed(0)
    module, x = kind(3, 5, num_layers=2, dtype=torch.float64), torch.randn(2, 9, 3, dtype=torch.float64)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = gradscope.analyze(module, x, loss=lambda y: y[:, -1].sum()).models[0]
    leaf = x.clone().requires_grad_()
    output = module(leaf.transpose(0, 1))[0]
    (gradient,) = torch.autograd.grad(output[-1].sum(), leaf)
    expected = gradient.norm(dim=-1).log10().mean(0)
    assert found.series.values["log10_grad_input"] == pytest.approx(expected.tolist(), abs=1e-12)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training
    assert all(p.grad is None for p in module.parameters())


def test_bare_jacobians_of_any_length() -> None:
    found = gradscope.analyze(0.9 * torch.eye(3, dtype=torch.float64).repeat(500, 1, 1), needs_lag=300).models[0]
    assert (found.kind, found.length, found.size) == ("chain", 500, 3)
    assert found.summary.rate == pytest.approx(-0.10536051565782628, abs=1e-12)


def test_the_same_name_twice_is_told_apart() -> None:
    report = gradscope.compare(torch.nn.LSTM(3, 4), torch.nn.LSTM(3, 6), x=torch.randn(2, 8, 3))
    assert [model.name for model in report.models] == ["LSTM", "LSTM#2"]
    assert set(report.timing.training_step) == {"LSTM", "LSTM#2"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"item": -1}, "item is -1"),
        ({"anchors": 0}, "anchors is 0"),
        ({"sequenc": "sine"}, "did you mean 'sequence'"),
        ({"select": "GSX"}, "unknown rule 'GSX'"),
        ({"x": torch.randn(2, 3)}, "x has shape"),
    ],
)
def test_the_api_refuses_what_the_command_line_refuses(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gradscope.analyze("rnn", **settings)


def test_a_loss_at_one_step_dates_its_influence_from_there() -> None:
    x = torch.randn(2, 20, 3, dtype=torch.float64)
    found = gradscope.analyze("rnn:hidden=8", x, loss=lambda y: y[:, 9].sum()).models[0]
    profile, gradient = found.series.values["log10_influence"], found.series.values["log10_grad_input"]
    assert profile == pytest.approx(gradient[:10][::-1], abs=1e-12)
    assert found.summary.needed_lag == 9
