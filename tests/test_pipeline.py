"""From settings to a judged report, on models built here."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from gradscope.errors import UsageError
from gradscope.pipeline import diagnose
from gradscope.records import ModelResult, RunSpec
from gradscope.registry import FAMILIES, load


def only(*models: str, **settings: object) -> ModelResult:
    return diagnose(RunSpec(models=models, **settings)).models[0]


def test_tanh_rnn_at_gain_08_vanishes_while_its_weight_gradient_looks_fine() -> None:
    found = only("rnn:init=normal,gain=0.8", length=100)
    norms = found.series.values["log10_grad_state"]
    assert found.status == "vanishing"
    assert -21 < norms[0] - norms[-1] < -18
    assert 0 < found.summary.log10_grad_weight < 2
    assert found.summary.chain_rule_residual < 1e-10


def test_open_forget_gates_are_healthy_though_the_rate_is_slightly_positive() -> None:
    found = only("lstm:forget_bias=6", length=100)
    assert found.status == "healthy"
    assert 0 < found.summary.rate < 0.06
    assert found.summary.reach == 99


def test_a_large_relu_gain_explodes() -> None:
    found = only("rnn:nonlinearity=relu,init=normal,gain=2.2", length=100)
    assert found.status == "exploding"
    assert found.summary.rate > 0.1


@pytest.mark.parametrize("loss", ["final", "every"])
def test_summing_losses_over_steps_does_not_change_the_verdict(loss: str) -> None:
    assert only("rnn:init=normal,gain=0.8", length=100, loss=loss).status == "vanishing"


def test_a_loss_that_does_not_read_the_last_output_looks_back_from_the_newest_it_reads() -> None:
    # Next-token cross-entropy reads steps 1..T-1, so the oldest lag there is T-2.
    found = only("lstm:hidden=8", text="to be or not to be that is the question", loss="ce")
    assert found.length == 10
    assert found.summary.needed_lag == 8
    assert found.summary.gradient_share < 0
    stated = only("lstm:hidden=8", text="to be or not to be that is the question", loss="ce", needs_lag=9)
    assert "9 steps before it" in stated.skipped["gradient_share"]


@pytest.mark.parametrize(
    ("loss", "anchors", "said"), [("final", 4, "1 step, not 4"), ("every", 30, "20 steps, not 30"), ("every", 4, "")]
)
def test_fewer_anchors_than_asked_for_are_said(loss: str, anchors: int, said: str) -> None:
    """A loss at every one of 40 steps reads 20 in the newest half, one of the last output reads one."""
    notes = only("rnn", length=40, batch=2, hidden=4, loss=loss, anchors=anchors).notes
    told = [f"influence is measured from {said} (--anchors): the loss reads no others in the newest half"]
    assert [note for note in notes if "anchors" in note] == (told if said else [])


def test_needed_lag_turns_the_warning_into_a_failure() -> None:
    codes = {v.code: v for v in only("rnn", length=50).verdicts}
    assert codes["GS101"].status == "warn"
    codes = {v.code: v for v in only("rnn", length=50, needs_lag=30).verdicts}
    assert (codes["GS101"].status, codes["GS104"].status) == ("fail", "fail")
    assert only("rnn", length=50, needs_lag=2).status == "healthy"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [2, 3, 10])
def test_every_family_runs_at_every_small_length(family: str, length: int) -> None:
    found = only(f"{family}:hidden=8", length=length, batch=1)
    assert found.length == length
    assert len(found.series.values["log10_influence"]) == length
    assert found.loaded.source == "built"


@pytest.mark.parametrize("family", ["rnn", "gru", "lstm", "lru"])
def test_recurrent_families_have_every_series(family: str) -> None:
    found = only(f"{family}:hidden=8,layers=2", length=20, batch=2)
    values = found.series.values
    assert len(values["log10_grad_state"]) == len(values["log10_product_norm"]) == 21
    assert len(values["log10_grad_input"]) == len(values["log10_jacobian_norm"]) == len(values["weight_share"]) == 20
    assert [layer.name for layer in found.layers] == ["l0", "l1"]
    assert found.summary.chain_rule_residual < 1e-10
    assert found.singular_values.lag == (1, 2, 5, 10, 20)


def test_seeds_and_sequences_give_an_interval_and_bands() -> None:
    found = only("rnn", length=30, batch=2, seeds=3)
    low, high = found.summary.rate_ci
    assert low < found.summary.rate < high
    band = found.bands["log10_influence"]
    assert all(a <= b for a, b in zip(band.low, band.high, strict=True))
    single = only("rnn", length=30, batch=1)
    assert single.summary.rate_ci is None
    assert "no interval" in single.skipped["rate_ci"]


def test_same_seed_same_report_and_another_seed_another() -> None:
    spec = RunSpec(models=("gru",), length=20)
    first, second = diagnose(spec), diagnose(spec)
    dump = load("gradscope.renderers.report_data:json_text"), load("gradscope.renderers.view:View")()
    one, two = (json.loads(dump[0](r, dump[1])) for r in (first, second))
    assert one.pop("timing") is not None
    assert two.pop("timing") is not None
    assert json.dumps(one) == json.dumps(two)
    assert diagnose(replace(spec, seed=1)).models != first.models


def test_analysis_leaves_random_state_threads_and_grad_mode_alone() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    only("lstm", length=10)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_float32_agrees_with_float64_where_both_reach() -> None:
    wide, narrow = only("lstm", length=50), only("lstm", length=50, dtype="float32")
    for name in ("log10_influence", "log10_grad_state", "log10_jacobian_norm"):
        assert narrow.series.values[name] == pytest.approx(wide.series.values[name], abs=2e-3)


def test_no_underflow_at_ten_thousand_steps() -> None:
    found = only("rnn:hidden=8", length=10_000, batch=1)
    assert all(math.isfinite(value) for value in found.series.values["log10_grad_state"])
    assert found.series.values["log10_grad_state"][0] < -1000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"needs_lag": 50, "length": 20}, "needs"),
        ({"item": 9, "batch": 2}, "item 9"),
        ({"device": "cuda"}, "cuda"),
        ({"length": 2_000_000_000}, "--length"),
        ({"input_size": 3, "models": ("rnn:input=4",)}, "input=4"),
    ],
)
def test_what_cannot_be_had_is_one_line_with_a_remedy(settings: dict[str, object], message: str) -> None:
    if settings.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UsageError, match=message) as caught:
        diagnose(RunSpec(**settings))
    assert "\n" not in str(caught.value)
