"""The 95 % interval of the rate is over what is drawn independently, and says why where there is none."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from statistics import mean, stdev

import pytest
import torch
from torch import nn

import gradscope
from gradscope.pipeline import diagnose
from gradscope.records import Loaded, ModelResult, RunSpec
from gradscope.renderers import report_wording
from gradscope.rules.wording import how_to_narrow

T975 = {2: 4.302653, 4: 2.776445, 7: 2.364624}


def model(**given) -> ModelResult:
    return diagnose(RunSpec(**{"models": ("rnn:hidden=8,gain=1.3",), "length": 40, "batch": 8, **given})).models[0]


def t_interval(values: list[float]) -> tuple[float, float]:
    half = T975[len(values) - 1] * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def test_the_sequences_of_several_seeds_are_not_independent():
    found = model(seeds=3)
    alone = [model(seed=seed).summary.rate for seed in range(3)]
    assert found.summary.rate == pytest.approx(mean(alone), abs=1e-12)
    assert found.summary.rate_ci == pytest.approx(t_interval(alone), abs=1e-12)


def test_with_one_seed_the_interval_is_over_its_sequences():
    found = model()
    torch.manual_seed(0)
    profile = torch.tensor(
        [[found.bands["log10_influence"].low[lag], found.bands["log10_influence"].high[lag]] for lag in range(1, 40)]
    )
    assert bool((profile[:, 0] < profile[:, 1]).all())
    net, x = nn.RNN(3, 4, batch_first=True).double(), torch.randn(5, 30, 3, dtype=torch.float64)
    report = gradscope.analyze(net, x, lambda y: y[:, -1].sum()).models[0]
    leaf = x.clone().requires_grad_()
    (own,) = torch.autograd.grad(net(leaf)[0][:, -1].sum(), leaf)
    lags, logs = torch.arange(1, 30).double(), own.norm(dim=-1).flip(1)[:, 1:].log()
    design = torch.stack([lags, torch.ones_like(lags)], 1)
    slopes = torch.linalg.lstsq(design, logs.T).solution[0].tolist()
    assert report.summary.rate_ci == pytest.approx(t_interval(slopes), abs=1e-9)


class Same(nn.Module):
    """Weights that no seed changes."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 4, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


def test_seeds_that_change_nothing_do_not_make_the_interval_narrower():
    net, x = Same().double(), torch.randn(8, 30, 3, dtype=torch.float64)
    loss = lambda y: y[:, -1].sum()  # noqa: E731
    one, five = (gradscope.analyze(net, x, loss, seeds=seeds).models[0].summary for seeds in (1, 5))
    assert one.rate_ci == pytest.approx(five.rate_ci, abs=1e-12)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"batch": 1}, "one sequence and one seed"),
        ({"sequence": "zeros"}, "all 8 sequences have the same slope"),
        ({"models": ("rnn:hidden=8,nonlinearity=linear",)}, "all 8 sequences have the same slope"),
    ],
)
def test_no_interval_says_why_and_the_rules_pass_it_on(given, reason):
    found = model(**given)
    assert found.summary.rate_ci is None
    assert found.skipped["rate_ci"] == f"{reason}, so there is no interval"
    said = next(one for one in found.verdicts if one.code == "GS101").message
    assert f"({reason}, so there is no interval; the point decides)" in said


def test_a_zero_input_still_has_an_interval_over_seeds():
    assert model(sequence="zeros", seeds=3).summary.rate_ci is not None


FILE = Loaded("w.pt: rnn", trained=True)


@pytest.mark.parametrize(
    ("loaded", "spec", "advice"),
    [
        (None, RunSpec(), "more sequences: `--batch 32`."),
        (None, RunSpec(batch=20), "more sequences: `--batch 80`."),
        (None, RunSpec(seeds=4), "more seeds: `--seeds 8`."),
        (None, RunSpec(text="to be or not"), "seeds, the data hold no more sequences: `--seeds 5`."),
        (None, RunSpec(input="x.npy"), "seeds, the data hold no more sequences: `--seeds 5`."),
        (FILE, RunSpec(seeds=4), "more sequences: `--batch 32`."),
        (FILE, RunSpec(input="x.npy", seeds=4), "data that hold more sequences; weights and data are given, so seeds"),
    ],
)
def test_advice_names_what_there_is_more_of(loaded, spec, advice):
    found = model()
    found = found if loaded is None else replace(found, loaded=loaded)
    assert how_to_narrow(found, spec).startswith(f"Narrow the interval with {advice}")


def test_advice_that_is_followed_narrows_the_interval_and_is_said_once():
    given = {"models": ("rnn:hidden=8,gain=3",), "length": 60, "batch": 3, "select": ("GS101", "GS201")}
    before = model(**given)
    gs101 = next(one for one in before.verdicts if one.code == "GS101")
    assert gs101.status == "inconclusive"
    (flags,) = [part for part in gs101.advice.split("`") if part.startswith("--")]
    option, value = shlex.split(flags)
    after = model(**{**given, option.removeprefix("--"): int(value)})
    width = [high - low for low, high in (before.summary.rate_ci, after.summary.rate_ci)]
    assert width[1] < width[0]
    assert "too uncertain to call" in report_wording.sentences(before)[0]
    assert not any("--batch" in sentence for sentence in report_wording.sentences(before))
    assert sum("--batch" in tip for tip in report_wording.advice(before)) == 1
