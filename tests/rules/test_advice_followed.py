"""Every command that advice prints is run here, and does what the advice says, with the settings of the run."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import torch

from gradscope.__main__ import main
from gradscope.examine import full_report
from gradscope.pipeline import diagnose
from gradscope.records import RunSpec
from gradscope.renderers import report_wording
from gradscope.verdicts import FOR_GOOD, is_better

SMALL = {"hidden": 6, "length": 40, "batch": 3, "seed": 3}
COMMAND = re.compile(r"`(gradscope (?:analyze|compare|probe|explain) [^`]+)`")
CASES = {
    "rnn": "vanishing",
    "rnn:init=orthogonal,gain=0.95": "vanishing",
    "rnn:init=orthogonal,gain=0.5": "vanishing",
    "rnn:nonlinearity=linear,init=orthogonal,gain=0.5": "vanishing",
    "rnn:nonlinearity=relu,gain=0.5": "vanishing",
    "lstm": "vanishing",
    "lstm:forget_bias=-2": "vanishing",
    "gru": "vanishing",
    "gru:update_bias=-2": "vanishing",
    "lru:r_min=0.2,r_max=0.3": "vanishing",
    "rnn:nonlinearity=relu,gain=9": "exploding",
    "rnn:nonlinearity=linear,gain=9": "exploding",
}


def commands(text: str) -> list[list[str]]:
    return [shlex.split(found) for found in COMMAND.findall(text)]


def followed(words: list[str], capsys) -> dict:
    """What a command prints as data; a probe is cut short, for its training is not what is asked here."""
    short = ["--train-steps", "2"] if words[1] == "probe" else []
    code = main([*words[1:], *short, *(["--format", "json"] if words[1] != "explain" else [])])
    shown = capsys.readouterr()
    assert code == 0, (words, shown.err)
    return json.loads(shown.out) if words[1] != "explain" else {}


def rate(model: dict) -> float:
    return float(model["summary"]["rate"])


@pytest.mark.parametrize(("word", "status"), CASES.items())
def test_what_advice_prints_runs_and_helps(word, status, capsys):
    spec = RunSpec(models=(word,), **SMALL)
    (result,) = diagnose(spec, detail=False).models
    assert result.status == status
    told = next(verdict for verdict in result.verdicts if verdict.gives == status).advice
    tried = commands(told)
    for words in tried:
        report = followed(words, capsys)
        assert {name: report["run"][name] for name in SMALL} == SMALL, words
        before, *others = report["models"] if words[1] == "compare" else [None, *report["models"]]
        if before is not None:
            assert rate(before) == pytest.approx(result.summary.rate)
        for other in others:
            # Nearer to a gradient that neither fades nor grows; looking at the gates changes nothing.
            changed = "--show" not in words
            assert abs(rate(other)) < abs(result.summary.rate) if changed else rate(other) == result.summary.rate
    assert tried, told


def test_where_the_gradient_decides_nothing_a_probe_is_named_and_runs(capsys):
    spec = RunSpec(models=("lstm:forget_bias=1",), hidden=6, length=24, batch=2, needs_lag=20)
    (result,) = diagnose(spec, detail=False).models
    assert result.status == "inconclusive"
    told = [words for verdict in result.verdicts for words in commands(verdict.advice) if words[1] == "probe"]
    report = followed(told[0], capsys)
    assert (report["run"]["needs_lag"], report["run"]["hidden"], report["run"]["task"]) == (20, 6, "recall")
    assert report["models"][0]["name"] == "lstm:forget_bias=1"


def test_advice_on_a_module_prints_no_command_about_another_model(capsys):
    (result,) = examine_module(torch.nn.RNN(4, 6, batch_first=True))
    every = [words for verdict in result.verdicts for words in commands(verdict.advice)]
    assert all(words[1] == "explain" for words in every)
    for words in every:
        followed(words, capsys)


def examine_module(module: torch.nn.Module):
    import gradscope

    x = torch.randn(2, 24, 4, generator=torch.Generator().manual_seed(0))
    return gradscope.analyze(module, x, needs_lag=20).models


@pytest.mark.parametrize("word", ["rnn:nonlinearity=relu,gain=6", "lstm:forget_bias=-1", "rnn:gain=0.3"])
def test_the_recommended_remedy_has_a_better_status_and_is_the_one_that_is_saved(word, tmp_path):
    spec = RunSpec(models=(word,), hidden=6, length=30, batch=2, fix=True, save=str(tmp_path))
    (result,) = full_report(spec, detail=False).models
    tip = report_wording.advice(result)[0]
    assert tip.endswith(": measured.")
    best = next(fix for fix in result.fixes if tip.startswith(f"{fix.name} ("))
    assert is_better(best.status, result.status)
    assert best.status not in FOR_GOOD
    assert not any("not measured" in other for other in report_wording.advice(result))
    (saved,) = tmp_path.glob("*.py")
    assert saved.read_text().startswith(f"# {best.name}: ")


def test_what_no_weights_can_change_has_no_remedies_measured():
    class Anew(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch.nn.LSTMCell(4, 5)

        def forward(self, x):
            h = c = x.new_zeros(len(x), 5)
            out = []
            for t in range(x.shape[1]):
                keep = float(t % 5 != 0)
                h, c = self.cell(x[:, t], (h * keep, c * keep))
                out.append(h)
            return torch.stack(out, 1)

    import gradscope

    x = torch.randn(4, 23, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (result,) = gradscope.analyze(Anew().double(), x, fix=True).models
    assert result.fixes == ()
    assert "no change of weights" in result.skipped["fixes"]
    assert not report_wording.wants_remedies(result)
