"""The Python door takes what Python programs hold, refuses the rest in one line, and leaves objects as they were."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.errors import UsageError

SMALL: dict[str, Any] = {"length": 8, "hidden": 3}


class Net(nn.Module):
    """With an argument."""

    def __init__(self, hidden: int = 4) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(x)[0]
        return y


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        ({"length": "8"}, "length", 8),
        ({"length": np.int64(8)}, "length", 8),
        ({"dtype": torch.float32}, "dtype", "float32"),
        ({"device": torch.device("cpu")}, "device", "cpu"),
        ({"thresholds": {"share_fails": "-5"}}, "thresholds", {"share_fails": -5.0}),
        ({"thresholds": ["share-fails=-5"]}, "thresholds", {"share_fails": -5.0}),
        ({"ignore": "GS104,GS302"}, "ignore", ("GS104", "GS302")),
        ({"select": "gs1"}, "select", ("GS1",)),
        ({"import_path": Path()}, "import_path", (".",)),
        ({"needs_lag": None, "ignore": (), "thresholds": {}}, "needs_lag", None),
    ],
)
def test_settings_come_in_the_types_of_python(given: dict[str, Any], name: str, expected: object) -> None:
    run = gradscope.analyze("rnn", **{**SMALL, **given}).run
    assert getattr(run, name) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"length": 8.5}, "length is '8.5' (given); expected a whole number"),
        ({"hidden": True}, "hidden is 'True' (given); expected a whole number"),
        ({"loss": 3}, "loss is a int; expected a word"),
        ({"models": ("lstm",)}, "models is no setting here"),
        ({"thresholds": 3}, "expected name=number"),
        ({"args": {"cell": nn.Linear(1, 1)}}, "args: cell is a Linear; expected numbers and texts"),
        ({"lenght": 3}, "unknown setting 'lenght'; did you mean 'length'?"),
        ({"input": Path("gone.csv")}, "--input 'gone.csv' does not exist"),
        ({"x": torch.zeros(1, 5, 2, dtype=torch.complex64)}, "torch.cat((x.real, x.imag), -1)"),
        ({"x": [[1.0]]}, "x is a list; expected a tensor"),
    ],
)
def test_what_is_no_setting_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        gradscope.analyze("rnn", **given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arguments_of_a_class_are_numbers_and_several_models_may_be_a_list() -> None:
    assert gradscope.analyze(Net, args={"hidden": 6}, length=6).models[0].size == 6
    assert [model.name for model in gradscope.compare(["rnn", "gru"], **SMALL).models] == ["rnn", "gru"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_analysed_in_float32(dtype: torch.dtype) -> None:
    found = gradscope.analyze(Net().to(dtype), torch.randn(2, 6, 2).to(dtype))
    assert found.run.dtype == "float32"
    assert found.models[0].summary.rate is not None


def rotation(tmp_path: Path, kind: str) -> Any:
    """Complex Jacobians 0.99 e^(i pi / 3) of two numbers, at hand or in a file."""
    values = np.tile(0.99 * np.exp(1j * np.pi / 3) * np.eye(2), (30, 1, 1))
    if kind == "tensor":
        return torch.from_numpy(values)
    np.save(tmp_path / "chain.npy", values)
    return str(tmp_path / "chain.npy")


@pytest.mark.parametrize("kind", ["tensor", "file"])
def test_complex_jacobians_are_maps_of_real_and_imaginary_parts(kind: str, tmp_path: Path) -> None:
    found = gradscope.analyze(rotation(tmp_path, kind)).models[0]
    assert found.summary.rate == pytest.approx(math.log(0.99), rel=1e-9)
    assert found.summary.lyapunov == pytest.approx([math.log(0.99)] * 4, rel=1e-9)
    assert found.series.values["log10_product_norm"][0] == pytest.approx(30 * math.log10(0.99), rel=1e-9)
    assert any("(Re, Im)" in note for note in found.loaded.assumed)


class Spiral(nn.Module):
    """A diagonal complex recurrence with a complex parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.pole = nn.Parameter(0.9 * torch.exp(1j * torch.tensor([0.5, 1.0])))

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = torch.zeros(len(x), 2, dtype=self.pole.dtype, device=x.device), []
        for t in range(x.shape[1]):
            h = self.pole * h + x[:, t]
            outputs.append(h.real)
        return torch.stack(outputs, 1)


def test_a_complex_parameter_keeps_its_imaginary_part() -> None:
    x = torch.randn(2, 9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = gradscope.analyze(Spiral(), x, lambda y: y[:, -1].sum()).models[0]
    leaf = x.clone().requires_grad_()
    with torch.random.fork_rng():
        (gradient,) = torch.autograd.grad(Spiral()(leaf)[:, -1].sum(), leaf)
    expected = gradient.norm(dim=-1).log10().mean(0)
    measured = found.series.values["log10_grad_input"]
    assert list(measured) == pytest.approx(expected.tolist(), abs=1e-5)


class Keeper(nn.Module):
    """Keeps what an earlier call made, inside an object of its own, as policies keep their distributions."""

    def __init__(self, kept: Any = None) -> None:
        super().__init__()
        self.rnn, self.kept = nn.GRU(2, 4, batch_first=True), kept

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(x)[0]
        if not self.kept:
            self.kept = Holder(y)
        return y


class Holder:
    """Three ways to hold a tensor with a graph."""

    def __init__(self, y: Tensor) -> None:
        self.normal, self.nested, self.slotted = torch.distributions.Normal(y, 1.0), {"all": [y * 2]}, Slotted(y)


class Slotted:
    """Without a dictionary."""

    __slots__ = ("y",)

    def __init__(self, y: Tensor) -> None:
        self.y = y


def test_results_of_earlier_calls_are_copied_wherever_they_are_kept() -> None:
    module, x = Keeper(), torch.ones(2, 6, 2)
    fresh = gradscope.analyze(module, x).models[0].summary.rate
    module(x)
    kept = module.kept
    assert gradscope.analyze(module, x).models[0].summary.rate == fresh
    assert module.kept is kept
    assert kept.normal.loc.grad_fn is not None


def test_what_cannot_be_copied_is_named() -> None:
    outer = nn.Sequential(Keeper(threading.Lock()))
    with pytest.raises(UsageError, match=r"Sequential cannot be copied: its attribute 0\.kept .*set it to None"):
        gradscope.analyze(outer, torch.ones(2, 6, 2))


class Tagger(nn.Module):
    """Logits of ten classes at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.rnn(x)[0])
        return y


def test_cross_entropy_with_a_target_is_that_of_the_modules_own_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Tagger().double(), torch.randn(3, 7, 4, dtype=torch.float64)
    classes = torch.arange(21).reshape(3, 7) % 3
    np.save(tmp_path / "y.npy", classes.numpy())
    found = gradscope.analyze(module, x, "ce", target=tmp_path / "y.npy").models[0]
    leaf = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(module(leaf).flatten(0, 1), classes.flatten(), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    expected = gradient.norm(dim=-1).log10().mean(0)
    assert list(found.series.values["log10_grad_input"]) == pytest.approx(expected.tolist(), rel=1e-9)
    assert any("the model's own outputs" in note for note in found.notes)


def test_a_task_and_a_probe_are_made_for_the_lag_that_is_given(tmp_path: Path) -> None:
    found = gradscope.analyze("gru:hidden=4", task="recall", needs_lag=3).models[0]
    assert (found.length, found.summary.needed_lag) == (4, 3)
    own = gradscope.compare(nn.GRU(5, 4, batch_first=True), "rnn:hidden=4", task="adding", needs_lag=5)
    assert [model.length for model in own.models] == [6, 6]
    (tmp_path / "s.csv").write_text("a,b\n" + "".join(f"{k % 5},{k % 3}\n" for k in range(60)))
    asked = {"input": tmp_path / "s.csv", "loss": "mse", "needs_lag": 3, "probe": True, "train_steps": 1}
    trained = gradscope.analyze("gru:hidden=4", **asked).models[0].probe
    assert trained is not None
    assert trained.lag == 3
    for wrong, told in (({"task": "recall"}, "is made for a lag"), ({"probe": True}, "trains on a task")):
        with pytest.raises(UsageError, match=told):
            gradscope.analyze("gru", **wrong)
    for name in ("task", "input", "text"):
        with pytest.raises(UsageError, match=f"both x and {name} are given"):
            gradscope.analyze("gru", torch.ones(2, 6, 2), needs_lag=3, **{name: "recall"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"length": 10}, "both x, which has shape (2, 12, 3) and length are given"),
        ({"batch": 1}, "both x, which has shape (2, 12, 3) and batch are given"),
        ({"input_size": 5}, "both x, which has shape (2, 12, 3) and input_size are given"),
        ({"sequence": "sine"}, "both x and sequence are given"),
        ({"scale": "standard"}, "both x and scale are given"),
        ({"hidden": 7}, "hidden is given, and nothing here reads it: LSTM takes none"),
        ({"nonlinearity": "relu"}, "nonlinearity is given, and nothing here reads it"),
        ({"loss": torch.sum, "target": "y.npy"}, "both target and a function as loss are given"),
    ],
)
def test_an_argument_is_honoured_or_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        gradscope.analyze(torch.nn.LSTM(3, 4, batch_first=True), torch.randn(2, 12, 3), **given)
    assert said in str(caught.value)


def test_an_argument_that_says_the_same_is_fine() -> None:
    report = gradscope.analyze(torch.nn.RNN(3, 4), torch.randn(2, 12, 3), length=12, batch=2, input_size=3)
    assert report.models[0].length == 12
