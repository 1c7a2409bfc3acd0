"""Modules of many kinds from a file to a report: what is said of them, and that nothing of the user's is changed."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

import gradscope
from gradscope.errors import UsageError
from gradscope.pipeline import diagnose
from gradscope.records import ModelResult, RunSpec

CODE = """
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence


class CharRNN(nn.Module):
    def __init__(self, cell=False):
        super().__init__()
        self.embed, self.out = nn.Embedding(12, 5), nn.Linear(6, 12)
        self.i2h = nn.Linear(11, 6)
        self.cell = nn.GRUCell(5, 6) if cell else None

    def forward(self, ids):
        h, outputs = torch.zeros(len(ids), 6), []
        for t in range(ids.shape[1]):
            e = self.embed(ids[:, t])
            h = self.cell(e, h) if self.cell else torch.tanh(self.i2h(torch.cat([e, h], 1)))
            outputs.append(self.out(h))
        return torch.stack(outputs, 1)


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1]))


class Lengths(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, x, lengths):
        return self.rnn(x)[0]


class Mean(nn.Module):
    def __init__(self, what="scalar"):
        super().__init__()
        self.what, self.rnn = what, nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        y, h = self.rnn(x)
        return {"scalar": y.mean(), "dict": {"none": None, "y": y, "h": h}, "word": "nothing"}[self.what]


class Packs(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        lengths = torch.full((len(x),), x.shape[1])
        lengths[1:] //= 2
        return self.rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.front, self.rnn = nn.LazyLinear(5), nn.LSTM(5, 4, batch_first=True)

    def forward(self, x):
        return self.rnn(self.front(x))[0]


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.low, self.high = nn.GRU(3, 3, batch_first=True), nn.LSTM(3, 5, batch_first=True)

    def forward(self, x):
        return self.high(x + self.low(x)[0])[0]


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        y = self.rnn(x)[0]
        raise KeyError("after the recurrence")


class Born(nn.Module):
    def __init__(self, where="own"):
        super().__init__()
        self.where, self.step, self.head = where, Step(), nn.Linear(4, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), 4)
        for t, part in enumerate(x.unbind(1), 1):
            h = self.step(part * (float("nan") if self.where == "own" and t == 6 else 1.0), h)
        return self.head(h) * (float("inf") if self.where == "head" else 1.0)


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(7, 4)

    def forward(self, x, h):
        return torch.tanh(self.mix(torch.cat([x, h], 1)))


def scripted():
    return torch.jit.script(Lengthless())


class Lengthless(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


def of_dict(output):
    return output["y"][:, -1].sum() + 2 * output["h"].sum()


def of_packed(output):
    return output[0].data.square().sum() + output[1].sum()


def of_scalar(output):
    return output


def wrong(output):
    return output["absent"]
"""

TWO = """
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.NAME = nn.LSTM(4, 8, batch_first=True)
        self.second = nn.GRU(8, 8, batch_first=True)

    def forward(self, x):
        return self.second(self.NAME(x)[0])[0]
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(CODE)
    return str(tmp_path / "mine.py")


def analysed(word: str, **settings: object) -> ModelResult:
    return diagnose(RunSpec(models=(word,), **{"length": 20, "batch": 3, **settings})).models[0]


def told(result: ModelResult) -> str:
    return " | ".join(result.notes)


@pytest.mark.parametrize("cell", ["true", "false"])
def test_tokens_read_step_by_step(path: str, cell: str) -> None:
    found = analysed(f"{path}:CharRNN", args={"cell": cell})
    assert found.summary.rate < 0
    assert len(found.series.values["log10_grad_input"]) == 20
    if cell == "true":
        assert found.loaded.equality_check.passed
        assert found.summary.chain_rule_residual < 1e-12
    else:
        assert found.loaded.equality_check.passed
        assert found.summary.chain_rule_residual < 1e-12


def test_a_mask_in_the_default_type_fits_weights_of_another(path: str) -> None:
    found = analysed(f"{path}:Causal")
    assert found.kind == "module"
    assert found.summary.reach == 19


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Lengths", {}, "missing 1 required positional argument: 'lengths'$"),
        ("Mean", {"args": {"what": "word"}}, "returns str without a tensor"),
        ("Mean", {"loss": "wrong"}, "wrong' failed: IndexError"),
        ("Failing", {}, "KeyError: 'after the recurrence'"),
        ("Lengthless", {"input_size": 5}, r"fails on x \(3, 20, 5\).*--input-size N"),
    ],
)
def test_what_cannot_be_run_is_one_line(path: str, name: str, settings: dict[str, object], message: str) -> None:
    if "loss" in settings:
        settings = {**settings, "loss": f"{path}:{settings['loss']}"}
    with pytest.raises(UsageError, match=message) as caught:
        analysed(f"{path}:{name}", **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "args", "loss"),
    [("Mean", {"what": "dict"}, "of_dict"), ("Mean", {}, "of_scalar"), ("Packs", {}, "of_packed")],
)
def test_a_loss_of_the_users_gets_whatever_the_module_returns(
    path: str, name: str, args: dict[str, str], loss: str
) -> None:
    found = analysed(f"{path}:{name}", args=args, loss=f"{path}:{loss}")
    assert found.loaded.equality_check.passed
    namespace: dict[str, object] = {}
    exec(CODE, namespace)
    # The same gradient by torch alone, for the very weights and input of the run.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = namespace[name](**args).double().eval()
    x = torch.randn(3, 20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    own = gradscope.analyze(module, x, loss=namespace[loss], length=20).models[0]
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(namespace[loss](module(leaf)), leaf)
    logs = expected.norm(dim=-1).log10()
    # Sequences that were packed shorter have no gradient at the end, and no part in the mean.
    mean = torch.stack([column[column > -torch.inf].mean() for column in logs.unbind(1)])
    values = torch.tensor(own.series.values["log10_grad_input"], dtype=torch.float64)
    assert torch.allclose(values, mean, atol=1e-10)


def test_lazy_parts_are_built_the_same_way_every_time(path: str) -> None:
    first, again = (analysed(f"{path}:Lazy", input_size=7) for _ in range(2))
    assert first == again
    assert first.loaded.equality_check.passed
    assert analysed(f"{path}:Lazy").loaded.equality_check.passed


def test_one_of_several_recurrences_by_key(path: str) -> None:
    both, low, high = (analysed(f"{path}:Stack", key=key) for key in (None, "low", "high"))
    assert not both.skipped.keys() & {"jacobian_norm", "log10_jacobian_norm"}
    assert "--key" not in told(both)
    assert both.summary.chain_rule_residual < 1e-12
    assert (both.size, low.size, high.size) == (13, 3, 10)
    assert low.summary.rate == high.summary.rate == both.summary.rate
    assert low.series.values["log10_jacobian_norm"] != high.series.values["log10_jacobian_norm"]
    assert max(low.summary.chain_rule_residual, high.summary.chain_rule_residual) < 1e-12


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_program_that_cannot_be_looked_into_says_so(path: str) -> None:
    assert "Lengthless is a TorchScript program" in told(analysed(f"{path}:scripted"))


class Counter(nn.Module):
    """Its `step` is a number, its `initial_state` its own business."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.initial_state = 0, nn.Parameter(torch.zeros(4))
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.initial_state.expand(len(x), -1)
        for part in x.unbind(1):
            h = self.cell(part, h)
        return h


def test_a_module_is_no_cell_for_the_names_of_its_attributes() -> None:
    found = gradscope.analyze(Counter(), torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(1))).models[0]
    assert found.loaded.equality_check.passed
    assert found.summary.chain_rule_residual < 1e-5


class Started(nn.Module):
    """A layer that makes its first state from what it is given, and takes one where it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def initial_state(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], 4)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.initial_state(x) if state is None else state
        made = []
        for part in x.unbind(1):
            h = self.cell(part, h)
            made.append(h)
        return torch.stack(made, 1), h


def test_a_layer_that_makes_its_own_first_state_is_no_cell() -> None:
    found = gradscope.analyze(Started(), torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(1))).models[0]
    assert (found.size, found.length) == (4, 9)
    assert found.loaded.equality_check.passed


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
def test_a_parametrized_layer_is_measured_by_itself(kind: type[nn.RNNBase]) -> None:
    layer = orthogonal(kind(3, 4, batch_first=True).double(), "weight_hh_l0" if kind is nn.RNN else "weight_ih_l0")
    x = torch.randn(1, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    layer(x)[0][:, -1].sum().backward()
    found = gradscope.analyze(layer, x.detach(), lambda y: y[:, -1].sum()).models[0]
    right = x.grad[0].flip(0).norm(dim=1).log10().tolist()
    assert found.series.values["log10_influence"] == pytest.approx(right, abs=1e-9)


def test_nan_is_traced_into_a_cell_of_the_users_own(path: str) -> None:
    own, head = (
        analysed(f"{path}:Born", args={"where": where}, input_size=3).summary.non_finite for where in ("own", "head")
    )
    assert (own.layer, own.where, own.step, own.cause) == ("Born", "mul", 6, "constant")
    assert (head.layer, head.where, head.step, head.cause) == ("Born", "mul", 20, "constant")


class Ticking(nn.Module):
    """It counts its calls in a buffer, and its last output stays with it."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.norm, self.last = nn.LSTM(3, 4, batch_first=True), nn.BatchNorm1d(4), None
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.norm(self.rnn(x)[0].transpose(1, 2)).transpose(1, 2)
        self.last = y.detach()
        return y


def test_a_module_at_hand_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    module = Ticking()
    module.rnn.weight_hh_l0.grad = torch.ones_like(module.rnn.weight_hh_l0)
    before, draws = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    found = gradscope.analyze(module, torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(1)))
    assert found.models[0].loaded.equality_check.passed
    assert module.training
    assert module.last is None
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(value.dtype == torch.float32 for value in module.parameters())
    assert torch.equal(module.rnn.weight_hh_l0.grad, torch.ones_like(module.rnn.weight_hh_l0))
    assert module.rnn.weight_ih_l0.grad is None
    assert torch.equal(draws, torch.get_rng_state())
    assert not any(part._forward_hooks for part in module.modules())


@pytest.mark.parametrize("name", ["first", "bidirectional_part", "leading_part"])
def test_what_a_part_is_called_changes_nothing_that_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "two.py").write_text(TWO.replace("NAME", name))
    found = analysed(f"{tmp_path / 'two.py'}:Two", input_size=4)
    assert told(found) == "random input, not your data"
    assert [layer.name for layer in found.layers] == [f"{name}.l0", "second.l0"]
    assert found.summary.chain_rule_residual < 1e-12
    assert len(found.series.values["log10_jacobian_norm"]) == 20


WIDE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.W, self.U = torch.nn.Parameter(0.3 * torch.randn(5, 5)), torch.nn.Parameter(torch.randn(3, 5))

    def forward(self, x):
        h, out = x.new_zeros(x.shape[0], 5), []
        for t in range(x.shape[1]):
            h = torch.tanh(x[:, t] @ self.U + h @ self.W)
            out.append(h)
        return torch.stack(out, 1)

class Head(Net):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(5, 2)

    def forward(self, x):
        return self.head(super().forward(x))

class Step(Net):
    def step(self, x, h):
        return torch.tanh(x @ self.U + h @ self.W)

    forward = torch.nn.Module.forward
"""


@pytest.mark.parametrize(("name", "settings"), [("Net", {}), ("Head", {}), ("Step", {"state_size": 5})])
def test_a_file_says_how_wide_a_step_is_where_no_layer_does(tmp_path, monkeypatch, name, settings):
    x = torch.randn(4, 12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (tmp_path / "wide.py").write_text(WIDE)
    np.save(tmp_path / "x.npy", x.numpy())
    monkeypatch.chdir(tmp_path)
    (found,) = gradscope.analyze(f"wide.py:{name}", input="x.npy", **settings).models
    (right,) = gradscope.analyze(f"wide.py:{name}", x, **settings).models
    assert found.length == 12
    assert found.series.values["log10_grad_input"] == pytest.approx(
        right.series.values["log10_grad_input"], nan_ok=True
    )
    assert found.summary.reach == right.summary.reach
