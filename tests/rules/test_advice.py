"""Advice names the family at hand, with numbers worked out for the lag."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import gradscope
from gradscope.models.family import family_model
from gradscope.records import EqualityCheck, Loaded, RunSpec
from gradscope.registry import FAMILIES
from gradscope.renderers import report_wording
from gradscope.rules.advice import (
    ADVICE,
    advise,
    advise_training,
    gate_bias_for_lag,
    half_life,
    half_life_bias,
    model_family,
    model_variant,
)


def test_the_bias_of_a_gate_that_keeps_half():
    # -ln(2^(1/199) - 1) = 5.658, -ln(2^(1/99) - 1) = 4.958, -ln(2^(1/10) - 1) = 2.635; each to the next tenth
    assert [gate_bias_for_lag(lag) for lag in (199, 99, 10, 1)] == [5.7, 5.0, 2.7, 1.0]


def test_the_half_life_of_a_bias():
    assert half_life(5.7) == pytest.approx(207.5, abs=0.1)  # ln 2 / ln(1 + e^-5.7)


def test_lstm_advice_names_the_bias_for_the_lag(made):
    sentence = advise("vanishing", made("lstm:hidden=32"), RunSpec())
    assert "forget bias to 5.7" in sentence
    assert "`gradscope analyze lstm:hidden=32,forget_bias=5.7`" in sentence
    assert "forget bias to 4," in advise("vanishing", made("lstm", needed_lag=36), RunSpec(needs_lag=36))


def test_advice_does_not_repeat_what_the_model_already_does(made):
    assert "--show gates" in advise("vanishing", made("lstm:forget_bias=6"), RunSpec())
    assert "--show gates" in advise("vanishing", made("gru:update_bias=6"), RunSpec())
    assert "forget bias to 5.7" in advise("vanishing", made("lstm:forget_bias=1"), RunSpec())
    assert "init=orthogonal,gain=1" in advise("vanishing", made("rnn"), RunSpec())
    already = advise("vanishing", made("rnn:init=orthogonal"), RunSpec())
    assert "gradscope compare rnn:init=orthogonal lstm:forget_bias=5.7" in already


def test_relu_starts_from_the_identity(made):
    relu = "rnn:nonlinearity=relu,init=normal,gain=2"
    for direction in ("vanishing", "exploding"):
        sentence = advise(direction, made(relu), RunSpec())
        assert "`gradscope analyze rnn:nonlinearity=relu,init=identity,gain=1`" in sentence


def test_half_the_gain_is_half_of_the_models_own(made):
    assert "lstm:gain=1.5`" in advise("exploding", made("lstm:gain=3"), RunSpec())
    assert "lstm:gain=0.5`" in advise("exploding", made("lstm"), RunSpec())


def test_in_low_precision_a_zero_may_be_an_underflow(made):
    assert "--dtype float64" in advise("zero", made("rnn"), RunSpec(dtype="float32"), "float32")


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_command_advised_for_a_family_can_be_run(made, name):
    for direction in ("vanishing", "zero", "exploding", "chaos", "collapse", "cut", "non-finite"):
        for lag in (1, 199, 10**7):
            sentence = advise(direction, made(name, needed_lag=lag), RunSpec(needs_lag=lag))
            assert sentence.endswith(".")
            assert "{" not in sentence
            for line in re.findall(r"`gradscope (?:analyze|compare) ([^`]+)`", sentence):
                for model in line.partition(" --")[0].split():
                    word, _, options = model.partition(":")
                    given = dict(part.split("=") for part in options.split(",")) if options else {}
                    family_model(word, given, model, {})


@pytest.mark.parametrize(
    ("hidden", "word"),
    [(64, "attention"), (6, "attention:heads=3"), (50, "attention:heads=2"), (7, "attention:heads=1")],
)
def test_attention_is_advised_with_heads_that_divide_its_width(made, hidden, word):
    sentence = advise("collapse", made("rnn"), RunSpec(hidden=hidden))
    assert f"`gradscope compare rnn {word}" in sentence
    family_model("attention", {"hidden": str(hidden), **dict(re.findall(r"(heads)=(\d)", word))}, word, {})


def test_no_sentence_claims_a_measurement():
    assert not [key for key, sentence in ADVICE.items() if re.search(r"\bmeasured\b|will (fix|help)", sentence)]


def test_loaded_weights_are_known_by_what_they_were_checked_against(made):
    check = EqualityCheck(output=1e-15, grad=2e-15, against="torch.nn.LSTM", passed=True)
    result = made("weights.pt", loaded=Loaded(source="weights.pt", equality_check=check))
    assert model_family(result) == "lstm"
    assert model_variant(result, forget_bias="5") == "lstm:forget_bias=5"
    assert advise("vanishing", result, RunSpec()).endswith("steps if the gate sees little else.")


def test_what_no_family_fits_gets_general_advice(made):
    for name, kind in (("my_cell.py:Cell", "module"), ("chain.npy", "chain")):
        sentence = advise("vanishing", made(name, kind=kind), RunSpec())
        assert "a gate biased to stay open (bias 5.7 for 199 lags)" in sentence


def test_a_hostile_name_never_reaches_a_command(made):
    assert model_variant(made("rnn:x=`rm -rf`"), gain="1") == "rnn:gain=1"


@pytest.mark.parametrize(
    ("name", "words", "never"),
    [
        ("rnn:init=orthogonal,gain=0.5", ["multiplies norms by 0.5", "rnn:init=orthogonal,gain=1`"], "keeps norms"),
        ("rnn:nonlinearity=relu,init=identity,gain=0.5", ["nonlinearity=relu,init=identity,gain=1`"], "keeps norms"),
        ("rnn:nonlinearity=linear,init=orthogonal", ["gated cell"], "nonlinearity shrinks"),
        ("rnn:init=orthogonal", ["keeps norms already, so the nonlinearity shrinks"], "multiplies"),
        ("rnn#2", ["`gradscope compare rnn lstm:forget_bias=5.7`"], "a path that keeps it"),
    ],
)
def test_what_shrinks_is_what_is_named(made, name, words, never):
    sentence = advise("vanishing", made(name, loaded=Loaded("built")), RunSpec())
    assert all(word in sentence for word in words)
    assert never not in sentence


def test_a_command_carries_the_settings_of_the_run(made):
    spec = RunSpec(models=("rnn", "lstm"), length=1000, hidden=16, input="prices.csv", needs_lag=300, fix=True)
    sentence = advise("vanishing", made("rnn", needed_lag=300), spec)
    assert (
        "`gradscope analyze rnn:init=orthogonal,gain=1 --length 1000 --input prices.csv --hidden 16 --needs-lag 300`"
        in sentence
    )
    assert "--key" not in advise("vanishing", made("rnn"), replace(spec, key="cell", args={"a": "1"}))
    assert advise_training(made("rnn", needed_lag=30), replace(spec, needs_lag=30)).endswith(
        "`gradscope probe rnn --length 1000 --input prices.csv --hidden 16 --needs-lag 30`."
    )
    assert advise_training(made("gru", needed_lag=99), RunSpec(hidden=8)).endswith(
        "`gradscope probe gru --task recall --hidden 8 --needs-lag 99`."
    )


@pytest.mark.parametrize("against", ["torch.nn.LSTM", "Transformer", "LRU", "RNN", "mine.lstm"])
def test_no_command_measures_another_model_and_no_class_of_the_user_is_a_family(made, against):
    check = EqualityCheck(output=1e-15, grad=2e-15, against=against, passed=True)
    result = made("net.py:Net", kind="module", loaded=Loaded("net.py:Net", equality_check=check))
    assert model_family(result) == ("lstm" if against == "torch.nn.LSTM" else "module")
    for direction in {direction for direction, _ in ADVICE} - {"non-finite"}:
        assert "gradscope analyze" not in advise(direction, result, RunSpec())
        assert "gradscope compare" not in advise(direction, result, RunSpec())
    assert advise("vanishing", result, RunSpec()).startswith("Raise" if against == "torch.nn.LSTM" else "Give")


class Wrapped(nn.Module):
    """One layer of torch.nn, or a cell in a loop, beside another that is never run."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks, self.head, self.unused = nn.ModuleList([getattr(nn, kind)(3, 6)]), nn.Linear(6, 2), nn.RNN(3, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, out = None, []
        if not isinstance(self.blocks[0], nn.RNNCellBase):
            return self.head(self.blocks[0](x.transpose(0, 1))[0].transpose(0, 1))
        for step in x.unbind(1):
            state = self.blocks[0](step, state)
            out.append(self.head(state[0] if isinstance(state, tuple) else state))
        return torch.stack(out, 1)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("LSTM", "Raise the forget bias of self.blocks[0] to 4.2,"),
        ("LSTMCell", "Raise the forget bias of self.blocks[0] to 4.2,"),
        ("GRU", "Raise the bias of the update gate of self.blocks[0], which keeps the old state when open, to 4.2 "),
        ("RNNCell", "Use a gated cell in place of self.blocks[0];"),
    ],
)
def test_a_layer_inside_a_module_gets_its_own_advice_by_its_name(kind: str, said: str) -> None:
    net, x = Wrapped(kind), torch.randn(4, 45, 3, generator=torch.Generator().manual_seed(0))
    found = gradscope.analyze(net, x, needs_lag=44).models[0]
    assert found.loaded.parts == {"blocks.0": kind}
    assert found.status == "vanishing"
    assert report_wording.advice(found)[0].startswith(said)
    if "LSTM" in kind:
        bias = next(p for name, p in net.named_parameters() if "bias_hh" in name)
        nn.init.constant_(bias[6:12], 4.5)
        opened = gradscope.analyze(net, x, needs_lag=44).models[0]
        assert opened.summary.gradient_share > found.summary.gradient_share
        assert "Raise the forget bias" not in " ".join(report_wording.advice(opened))


class Strided(nn.Module):
    """A recurrence behind a convolution that takes ten steps in one."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frames, self.layer, self.head = (
            nn.Conv1d(1, 4, 10, stride=10),
            kind(4, 6, batch_first=True),
            nn.Linear(6, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.frames(x.transpose(1, 2)).transpose(1, 2))[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_lags_of_the_sequence_are_told_in_steps_of_a_layer_that_takes_fewer(kind: type[nn.RNNBase]) -> None:
    """399 lags of the input are 40 steps: sigmoid(b)^40 = 1/2 at b = 4.05, and not 6.36 as for 399."""
    net, x = Strided(kind), torch.randn(2, 400, 1, generator=torch.Generator().manual_seed(0))
    found = gradscope.analyze(net, x, fix=True).models[0]
    assert found.summary.pace == 0.1
    # What the textbook says, where nothing was measured.
    assert " to 4.1" in " ".join(report_wording.advice(replace(found, fixes=())))
    assert half_life_bias(40) == pytest.approx(4.05, abs=0.005)
    changes = {fix.name: fix.change for fix in found.fixes}
    assert changes["open gates"] == "gate bias 4 (half-life 40)"
    assert changes["chrono"] == "gate biases ln U[1, 39]"
    bias = next(p for name, p in net.named_parameters() if "bias_hh" in name)
    nn.init.constant_(bias[6:12], 4.5)
    opened = gradscope.analyze(net, x).models[0]
    assert "Raise" not in " ".join(report_wording.advice(opened))


class Window(nn.Module):
    """It reads the newest 30 steps alone, each of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.LSTM(1, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x[:, -30:])[0][:, -1]


def test_steps_that_are_not_read_do_not_make_a_layer_slower() -> None:
    x = torch.randn(2, 400, 1, generator=torch.Generator().manual_seed(0))
    found = gradscope.analyze(Window(), x, needs_lag=25).models[0]
    assert found.summary.pace == 1.0
    assert half_life_bias(25) == pytest.approx(3.57, abs=0.005)
    assert " to 3.6, " in " ".join(report_wording.advice(found))
