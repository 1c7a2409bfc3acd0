"""What GS302 says of each type and of each way to lose a gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gradscope.pipeline import diagnose
from gradscope.records import RunSpec
from gradscope.rules.judge import judge, status_of_verdicts

NAMES = ("float32", "bfloat16", "float16")


FLOAT64 = RunSpec()


def verdict(result, spec=FLOAT64):
    (found,) = judge(result, replace(spec, select=("GS302",)))
    return found


def ends(**lags):
    """One record a type, ended by its share unless given as (cause, lag)."""
    found = {}
    for name in NAMES:
        cause, lag = given if isinstance(given := lags.get(name), tuple) else ("share", given)
        found[name] = {"lag": lag, "underflow": None, "overflow": None, "share": None, "loss_scale": 1.0, cause: lag}
    return {"precision_horizon": found}


def test_a_float64_run_is_judged_as_float32_and_the_type_is_named(made):
    found = verdict(made(**ends(float32=22, bfloat16=5, float16=9)))
    assert (found.status, found.severity) == ("warn", "warning")
    assert found.message == (
        "In float32, the usual type for training, the gradient holds to lag 22 of 199: "
        "what older steps add to dL/dW is lost in the rounding of the rest."
    )
    assert (found.measured, found.threshold, found.first_step, found.last_step) == (22, 199, 1, 177)


def test_a_run_in_a_type_is_judged_by_that_type(made):
    result = made(**ends(float32=None, bfloat16=5))
    assert verdict(result, RunSpec(dtype="float32")).status == "pass"
    found = verdict(result, RunSpec(dtype="bfloat16"))
    assert found.message.startswith("In bfloat16 the gradient holds to lag 5 of 199: ")


def test_narrower_types_are_named_and_do_not_warn(made):
    found = verdict(made(**ends(bfloat16=34, float16=199)))
    assert found.status == "pass"
    assert found.message == "float32 holds the gradient over 199 lags; bfloat16 to lag 34."
    assert verdict(made(**ends())).message == "float32 holds the gradient over 199 lags."


@pytest.mark.parametrize(("lag", "expected"), [(49, "warn"), (50, "pass"), (None, "pass"), (0, "warn")])
def test_the_horizon_must_cover_the_needed_lag(made, lag, expected):
    assert verdict(made(needed_lag=50, **ends(float32=lag)), RunSpec(needs_lag=50)).status == expected
    part = RunSpec(needs_lag=50, thresholds={"horizon_part": 0.98})
    assert verdict(made(needed_lag=50, **ends(float32=49)), part).status == "pass"


@pytest.mark.parametrize(
    ("end", "message", "advice"),
    [
        ({"float32": ("overflow", 30)}, "too large for the type (loss scale 1)", "Clip the gradient norm"),
        ({"float32": ("underflow", 30)}, "too small for the type (loss scale 1)", "gated cell"),
        ({"float16": ("underflow", 30)}, "In float16 the gradient holds to lag 30", "GradScaler"),
    ],
)
def test_each_way_to_lose_it_has_its_words(made, end, message, advice):
    found = verdict(made(**ends(**end)), RunSpec(dtype=next(iter(end))))
    assert message in found.message
    assert advice in found.advice


def test_a_warning_leaves_the_status_alone(made):
    result = made(**ends(float32=22))
    assert status_of_verdicts(judge(result, RunSpec())) == "healthy"


def test_a_record_without_the_type_is_skipped(made):
    assert verdict(made(precision_horizon={"float16": {"lag": 3}})).status == "skip"


def test_on_real_models():
    found = diagnose(RunSpec(models=("rnn", "lstm:forget_bias=6"), length=100), detail=False).models
    assert [verdict(result).status for result in found] == ["warn", "pass"]
    assert found[0].summary.precision_horizon["float32"]["lag"] < 30
    # Wherever the gradient decays, its advice is that of GS101, so a screen holds the sentence once.
    advice = {v.code: v.advice for v in found[0].verdicts}
    assert advice["GS302"] == advice["GS101"]
    assert [v.code for v in found[1].verdicts if v.status in ("warn", "fail")] == []
