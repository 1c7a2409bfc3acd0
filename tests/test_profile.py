from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope
from gradscope.profile import Profile
from gradscope.records import Fix, Loaded, ModelResult, Series, Summary, Verdict
from gradscope.registry import RENDERERS, load
from gradscope.renderers import report_wording
from gradscope.renderers.strips import Timeline, influence_strip, telling_rows
from gradscope.renderers.view import View
from gradscope.rules.judge import judge
from gradscope.saved import read_report

SOURCE = Path(gradscope.__file__).parent
STEPS, READ = 30, 12


@pytest.mark.parametrize(
    ("status", "summary", "said"),
    [
        ("healthy", {"reach": 1, "needed_lag": 1}, "The only lag can be learned from"),
        ("healthy", {"reach": 2, "needed_lag": 2}, "All 2 lags can be learned from"),
        ("vanishing", {"reach": 0, "needed_lag": 1}, "It learns from none of 1 lag"),
        ("degenerate", {"directions": 0, "needed_lag": 1}, "Over 1 lag nothing is left of the state"),
        ("degenerate", {"directions": 1, "needed_lag": 3}, "Over 3 lags all states collapse onto one direction"),
    ],
)
def test_counts_in_sentences_are_singular_or_plural(status, summary, said):
    model = ModelResult("net", "recurrent", status, 4, 9, Loaded("built"), Summary(**summary), Series())
    assert report_wording.sentences(model)[0].startswith(said)


def test_what_the_textbook_says_gives_way_to_what_was_measured():
    tip, other = "Give the state a path that keeps it.", "Look for detach()."
    found = (
        Verdict("GS101", "vanishing rate", "error", "fail", "It fades.", gives="vanishing", advice=tip),
        Verdict("GS104", "reach", "error", "fail", "It is short.", gives="vanishing", advice=tip),
        Verdict("GS402", "no gradient", "warning", "warn", "None.", advice=other),
    )
    model = ModelResult(
        "net", "module", "vanishing", 4, 9, Loaded("built"), Summary(gradient_share=-9.0), Series(), verdicts=found
    )
    assert report_wording.advice(model) == [tip, other]
    fix = Fix("flossing", "lambda from -1 to 0", 8, -0.01, "healthy", gradient_share=-1.0)
    measured, *rest = report_wording.advice(replace(model, fixes=(fix,)))
    assert measured.startswith("flossing")
    assert rest == [other]


def test_steps_and_lags_are_turned_into_each_other_at_the_anchor():
    profile = Profile(4, (0.0, -1.0, -2.5, -3.0))
    assert [profile.step_of(lag) for lag in range(6)] == [4, 3, 2, 1, 0, 0]
    assert [profile.lag_of(step) for step in (0, 1, 4, 5)] == [4, 3, 0, None]
    assert [profile.at(step) for step in (0, 1, 4, 5)] == [None, -3.0, 0.0, None]
    assert (profile.longest, profile.reach, profile.reference) == (3, 3, -1.0)


def test_the_share_of_a_lag_is_not_lowered_by_what_lies_beyond_it():
    near = (0.0, 0.0, 0.0)
    assert Profile(3, near).share(2) == pytest.approx(math.log10(1 / 3))
    for beyond in (-9.0, 0.0, 30.0, math.inf):
        assert Profile(5, (*near, beyond, beyond)).share(2) == pytest.approx(math.log10(1 / 3))


@pytest.mark.parametrize(
    ("values", "lag", "share"),
    [
        ((0.0, 0.0, -math.inf), 2, -math.inf),
        ((-math.inf, -math.inf), 1, None),
        ((0.0, math.inf, 0.0), 2, None),
        ((0.0, None, 0.0), 2, None),
        ((0.0, 0.0), 2, None),
        ((), 0, None),
    ],
)
def test_a_share_that_is_zero_and_one_that_is_not_known_are_told_apart(values, lag, share):
    assert Profile(len(values), values).share(lag) == share


@pytest.mark.parametrize(
    ("values", "reach"),
    [((0.0,), None), ((0.0, -math.inf), None), ((9.0, 0.0, -2.0, -2.1), 2), ((0.0, 0.0, -9.0, -1.0), 3)],
)
def test_reach_is_the_last_lag_with_a_hundredth_of_lag_one(values, reach):
    assert Profile(len(values), values).reach == reach


def test_without_a_profile_lags_count_from_the_last_step():
    assert Profile.of_series(Series((0, 1, 2), None, {"log10_grad_state": (0.0, 0.0, 0.0)})).anchor == 2
    assert Profile.of_series(Series(), 7).anchor == 7
    assert Profile.of_series(Series()).anchor == 0


@pytest.fixture(scope="module")
def early() -> gradscope.records.Report:
    """An RNN whose loss reads step 12 of 30."""
    torch.manual_seed(0)
    net = nn.RNN(3, 5, batch_first=True).double()
    x = torch.randn(4, STEPS, 3, dtype=torch.float64)
    return gradscope.analyze(net, x, lambda y: y[:, READ - 1].square().sum(), needs_lag=6)


@pytest.fixture
def model(early) -> ModelResult:
    return early.models[0]


def test_every_form_of_a_report_counts_lags_from_the_step_that_the_loss_reads(early, model):
    assert "step 6 gets" in report_wording.farthest_share(model)
    strip = influence_strip(model, 40, ascii_only=False)
    assert strip is not None
    assert (strip.first, strip.last, strip.steps) == (1, READ, READ)
    timeline = Timeline(model.series)
    assert [timeline.lag(step) for step in (0, 6, READ, READ + 1, STEPS)] == [12, 6, 0, None, None]
    assert timeline.at("log10_influence", 6) == model.series.values["log10_influence"][6]
    rows = telling_rows(model, timeline, View())
    assert rows[6] == "◂ needed lag"
    assert rows[READ] == "◂ the loss reads this step"
    head, *lines = load(RENDERERS["csv"])(early, View()).splitlines()
    column = head.split(",").index("log10_influence")
    for line in lines:
        cells = line.split(",")
        step, lag = int(cells[1]), cells[2]
        assert lag == ("" if step > READ else str(READ - step))
        if 1 <= step <= READ:
            assert float(cells[column]) == model.series.values["log10_influence"][READ - step]


def test_growth_is_told_of_the_steps_that_grow(model):
    grown = tuple(float(lag) for lag in range(READ))
    series = replace(model.series, values={**model.series.values, "log10_influence": grown})
    told = report_wording.sentences(replace(model, status="exploding", series=series))
    assert told[0] == "The signal grows on its way back: step 1 gets 10^10 times what step 11 gets."


def test_charts_count_from_the_anchor(early, model):
    pytest.importorskip("altair", reason="the extra [report] is not installed")
    from gradscope.charts import influence_charts
    from gradscope.renderers.html_figures import figures

    tokens = tuple(f"w{step}" for step in range(1, STEPS + 1))
    told = replace(model, series=replace(model.series, token=tokens))
    made = influence_charts._words_rows(told)
    assert [(row["lag"], row["word"]) for row in made][-2:] == [(2, "w10"), (1, "w11")]
    drawn = figures(early, ("profile",)).drawn
    assert {(one["last"], one["anchor"]) for one in drawn.values()} == {(STEPS, READ)}


@pytest.mark.parametrize(("cut", "lag"), [(READ, 0), (5, 7), (READ + 1, None), (STEPS, None)])
def test_a_cut_counts_from_the_anchor_and_is_none_after_it(early, model, cut, lag):
    saved = replace(model, summary=replace(model.summary, cut=cut))
    verdict = next(one for one in judge(saved, early.run) if one.code == "GS401")
    if lag is None:
        assert verdict.status == "pass"
        assert f"step {READ}" in verdict.message
    else:
        assert verdict.status == ("warn" if lag >= early.run.needs_lag else "fail")
        assert f"nothing further back than lag {lag} receives any" in verdict.message


class Resetting(nn.Module):
    """A written cell whose state is detached before the given steps."""

    def __init__(self, *cuts: int) -> None:
        super().__init__()
        self.cell, self.cuts = nn.RNNCell(3, 4), cuts

    def forward(self, x):
        h, out = x.new_zeros(len(x), 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h.detach() if t + 1 in self.cuts else h)
            out.append(h)
        return torch.stack(out, 1)


@pytest.mark.parametrize(("cuts", "found"), [((5, 20), 5), ((20,), None)])
def test_a_cut_that_the_loss_does_not_hear_of_is_not_reported(cuts, found):
    torch.manual_seed(0)
    x = torch.randn(2, STEPS, 3, dtype=torch.float64)
    report = gradscope.analyze(Resetting(*cuts).double(), x, lambda y: y[:, READ - 1].square().sum())
    summary = report.models[0].summary
    assert summary.cut == found
    gs401 = next(one for one in report.models[0].verdicts if one.code == "GS401")
    assert gs401.status == ("pass" if found is None else "fail")


@pytest.mark.parametrize("needed", [STEPS - 2, STEPS - 1])
def test_a_lag_that_the_loss_does_not_have_is_neither_reached_nor_missed(needed):
    torch.manual_seed(0)
    net = nn.LSTM(3, 5, batch_first=True).double()
    with torch.no_grad():
        net.bias_ih_l0[5:10] = 7.0
    x = torch.randn(4, STEPS, 3, dtype=torch.float64)
    model = gradscope.analyze(net, x, lambda y: y[:, :-1].square().sum(), needs_lag=needed).models[0]
    gs104 = next(one for one in model.verdicts if one.code == "GS104")
    assert model.summary.reach == STEPS - 2
    if needed == STEPS - 2:
        assert model.summary.gradient_share is not None
        assert gs104.status != "fail"
        return
    assert (model.status, gs104.status) == ("inconclusive", "inconclusive")
    assert report_wording.sentences(model) == [gs104.message]
    assert f"step {STEPS - 1}, and no step lies {needed} before it" in gs104.message
    assert "steps before it" in model.skipped["gradient_share"]


def test_nothing_is_healthy_where_no_lag_could_be_measured():
    x = torch.randn(4, STEPS, 3, dtype=torch.float64)
    model = gradscope.analyze(nn.LSTM(3, 5, batch_first=True).double(), x, lambda y: y[:, 0].sum()).models[0]
    assert model.status == "inconclusive"


SUMMARY = (
    *("rate", "rate_ci", "gain", "half_life", "reach", "coverage", "temporal_range", "gradient_share", "needed_lag"),
    *("zero_lags", "directions", "lyapunov", "rank_lost_at", "finite_time_exponents", "log10_condition"),
    *("log10_grad_weight", "parameter_sensitivity", "precision_horizon", "output_scale", "cut"),
)
MODELS = {
    "rnn": lambda: nn.RNN(3, 5, batch_first=True),
    "stack": lambda: nn.LSTM(3, 4, num_layers=2, batch_first=True),
    "gru": lambda: nn.GRU(3, 5, batch_first=True),
    "loop": lambda: Resetting(),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("read", [2, READ, STEPS])
def test_a_loss_that_reads_step_k_is_one_of_the_first_k_steps(kind, read):
    torch.manual_seed(1)
    net, x = MODELS[kind]().double(), torch.randn(3, STEPS, 3, dtype=torch.float64)
    v = torch.randn(net(x[:1, :1])[0].shape[-1] if kind != "loop" else 4, dtype=torch.float64)
    whole = gradscope.analyze(net, x, lambda y: (y[:, read - 1] @ v).sum()).models[0]
    first = gradscope.analyze(net, x[:, :read], lambda y: (y[:, -1] @ v).sum()).models[0]
    for name in SUMMARY:
        assert same(getattr(whole.summary, name), getattr(first.summary, name)), name
    for name, values in first.series.values.items():
        assert same(whole.series.values[name][: len(values)], values), name
    for name in first.bands:
        assert same(whole.bands[name].high[: len(first.bands[name].high)], first.bands[name].high), name
    assert same(whole.singular_values.ln_sigma, first.singular_values.ln_sigma)
    for mine, alone in zip(whole.layers, first.layers, strict=True):
        assert same(mine.summary, alone.summary)
        for name in ("log10_product_norm", "log10_grad_state"):
            values = alone.series.values[name]
            assert same(mine.series.values[name][: len(values)], values), name


def same(found, wanted) -> bool:
    """Equal to rounding, None and infinities included, however nested."""
    if isinstance(wanted, dict):
        return set(found) == set(wanted) and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, tuple):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return found == wanted or (None not in (found, wanted) and found == pytest.approx(wanted, rel=1e-7, abs=1e-9))


def test_old_reports_still_say_where_their_lags_count_from(early, tmp_path):
    content = json.loads(load(RENDERERS["json"])(early, View()))
    (tmp_path / "old.json").write_text(json.dumps(content))
    again = read_report(str(tmp_path / "old.json")).models[0]
    assert Profile.of(again) == Profile.of(early.models[0])
    assert Profile.of(again).anchor == READ


LAGS = re.compile(r"(^|_)(lag|lags|needed|needs|reach|reached)($|_)")
ENDS = re.compile(r"^(length|last|last_step|newest|anchor|T|steps)$")
PLACES = re.compile(r"(^|_)(step|cut|lag|position)$")
CHAINS = {
    SOURCE / "numerics" / f"{name}.py" for name in ("frame", "lyapunov", "products", "singular_values", "spectra")
}
"""A chain has no steps of its own: its maps are counted from its newest one."""


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    return "step" if isinstance(node, ast.Subscript) and _name(node.value) == "step" else ""


def _by_hand(node: ast.AST) -> bool:
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Sub):
        return False
    left, right = _name(node.left), _name(node.right)
    counted = isinstance(node.left, ast.Subscript) and ast.unparse(node.left).endswith("step[-1]")
    return bool(LAGS.search(right)) or ((counted or bool(ENDS.search(left))) and bool(PLACES.search(right)))


def test_no_other_file_turns_lags_into_steps():
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}: {ast.unparse(node)}"
        for path in SOURCE.rglob("*.py")
        if path.name != "profile.py" and path not in CHAINS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _by_hand(node)
    ]
    assert found == []
