"""Modules of the user's from a file, through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gradscope
from gradscope.errors import UsageError
from gradscope.models import fused_call
from gradscope.pipeline import diagnose
from gradscope.records import ModelResult, RunSpec

CODE = """
import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self, hidden=6, layers=1, time_first=False, noise=0.0):
        super().__init__()
        self.front = nn.Linear(3, 4)
        self.rnn = nn.LSTM(4, hidden, layers, batch_first=not time_first)
        self.head = nn.Linear(hidden, 2)

    def forward(self, x):
        return self.head(self.rnn(self.front(x))[0])


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 5)

    def forward(self, x):
        h = torch.zeros(len(x), 5)
        for t, step in enumerate(x.unbind(1), 1):
            h = self.cell(step, h.detach() if t == 8 else h)
        return h


class Bursts(nn.Module):
    def __init__(self):
        super().__init__()
        self.front, self.rnn = nn.Linear(3, 3), nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        x = self.front(x)
        return self.rnn(torch.where(torch.arange(x.shape[1])[:, None] == 6, x / 0, x))[0]


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(3)

    def forward(self, x):
        x = self.norm(x)
        return torch.cat([x[:, :4], x[:, 4:].mul(float("inf")).sub(float("inf"))], 1)


class Step(nn.Module):
    def __init__(self, hidden=5):
        super().__init__()
        self.mix, self.out = nn.Linear(3 + hidden, hidden), nn.Linear(hidden, 2)

    def forward(self, x, hidden):
        hidden = torch.tanh(self.mix(torch.cat((x, hidden), 1)))
        return self.out(hidden), hidden


def needs(width):
    return nn.GRU(3, width)


def loss(output):
    return output[0][:, -1].sum()


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return self.rnn(x)
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(CODE)
    return str(tmp_path / "mine.py")


def analysed(word: str, **settings: object) -> ModelResult:
    return diagnose(RunSpec(models=(word,), **{"length": 20, "batch": 2, **settings})).models[0]


def status_of(result: ModelResult, code: str) -> str:
    return next(verdict.status for verdict in result.verdicts if verdict.code == code)


def test_a_module_has_every_measure_of_its_recurrence(path: str) -> None:
    found = analysed(f"{path}:Tagger", args={"hidden": "7", "layers": "2"})
    assert (found.kind, found.size, found.heading.split(" ")[0]) == ("recurrent", 28, "2x7")
    assert found.loaded.equality_check.passed
    assert found.summary.chain_rule_residual < 1e-12
    assert [layer.name for layer in found.layers] == ["l0", "l1"]
    assert all(layer.summary["reach"] > 0 > layer.summary["rate"] for layer in found.layers)
    assert len(found.layers[0].series.values["log10_product_norm"]) == 21


def test_fresh_weights_are_those_of_the_seed_and_not_said_to_be_trained(path: str) -> None:
    first, again, other = (analysed(f"{path}:Tagger", seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.summary.rate != other.summary.rate
    assert first.loaded.assumed[0].startswith("weights as its code makes them")
    assert first.loaded.trained is None
    assert analysed(f"{path}:Tagger", seeds=2).summary.rate != analysed(f"{path}:Tagger").summary.rate


def test_weights_fill_a_module_strictly(path: str, tmp_path: Path) -> None:
    namespace: dict[str, type[torch.nn.Module]] = {}
    exec(CODE, namespace)
    torch.manual_seed(5)
    module = namespace["Tagger"]()
    torch.save({"model_state": module.state_dict(), "step": 3}, tmp_path / "w.pt")
    found = analysed(f"{path}:Tagger", weights=str(tmp_path / "w.pt"))
    x = torch.randn(1, 4, 3)
    report = gradscope.analyze(module, x, length=4)
    assert found.loaded.trained
    assert report.models[0].loaded.equality_check.passed
    with pytest.raises(UsageError, match="weight_ih_l1"):
        analysed(f"{path}:Tagger", weights=str(tmp_path / "w.pt"), args={"layers": "2"})


def test_a_detach_in_the_loop_is_a_cut_gradient_and_no_failed_load(path: str) -> None:
    found = analysed(f"{path}:Cut")
    assert found.loaded.equality_check.passed
    assert found.summary.cut == 8
    assert found.status == "degenerate"
    assert found.series.values["log10_grad_input"][6] == float("-inf")
    assert found.series.values["log10_grad_input"][7] > -10


@pytest.mark.parametrize(("name", "layer", "where"), [("Bursts", "rnn.l0", "gate.reset"), ("Scaled", "Scaled", "mul")])
def test_inf_is_traced_to_where_it_is_born(path: str, name: str, layer: str, where: str) -> None:
    found = analysed(f"{path}:{name}").summary.non_finite
    assert (found.layer, found.where, found.step) == (layer, where, 7 if name == "Bursts" else 5)


def test_a_step_that_returns_its_output_beside_its_state(path: str) -> None:
    found = analysed(f"{path}:Step", state_size=5, input_size=3)
    assert (found.kind, found.size) == ("recurrent", 5)
    assert found.summary.chain_rule_residual < 1e-12


def test_the_users_loss_gets_what_the_module_returns(path: str) -> None:
    assert analysed(f"{path}:Pair", loss=f"{path}:loss").summary.reach is not None
    with pytest.raises(UsageError, match=r"mine\.py:loss"):
        analysed(f"{path}:Cut", loss=f"{path}:loss")


def test_time_first_is_found_out_or_given(path: str) -> None:
    found = analysed(f"{path}:Tagger", args={"time_first": "true"})
    given = analysed(f"{path}:Tagger", args={"time_first": "true"}, layout="time-first")
    wrong = analysed(f"{path}:Tagger", args={"time_first": "true"}, layout="batch-first")
    assert found.summary.rate == given.summary.rate
    assert "walks 2 steps of its own" in wrong.skipped["log10_jacobian_norm"]


def test_an_altered_weight_stops_the_analysis(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = fused_call._cell

    def altered(*args: object) -> object:
        cell = make(*args)
        cell.parameters["weight_hh"][0, 0] += 1e-5
        return cell

    monkeypatch.setattr(fused_call, "_cell", altered)
    for word in (f"{path}:Tagger", "torch.nn:LSTM"):
        found = analysed(word, args={} if "mine" in word else {"input_size": "3", "hidden_size": "4"})
        assert not found.loaded.equality_check.passed
        assert found.status == "inconclusive"
        assert "does not reproduce" in found.skipped["log10_jacobian_norm"]
        assert "does not reproduce" in found.skipped["rate"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("needs", {}, "expected an nn.Module|no initial_state"),
        ("needs", {"args": {"size": "3"}}, "unexpected keyword argument 'size'"),
        ("Taggr", {}, "did you mean 'Tagger'"),
        ("Tagger", {"key": "decoder"}, "unknown recurrence 'decoder'"),
        ("loss", {"args": {}}, "initial_state"),
    ],
)
def test_what_cannot_be_used_is_one_line(path: str, name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        analysed(f"{path}:{name}", **settings)
    assert "\n" not in str(caught.value)
