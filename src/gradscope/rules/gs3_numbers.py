"""GS3xx: values, number types, units and gates that lose the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradscope.profile import Profile
from gradscope.records import ModelResult, NonFinite, RunSpec
from gradscope.rules.advice import advise
from gradscope.rules.rule import Finding, Rule, Threshold, needed_lag
from gradscope.rules.wording import percent
from gradscope.text import counted, safe_text

_CAUSES = {
    "constant": ", from a number in the code that is not finite itself",
    "arithmetic": ", from finite numbers",
}
_SHOWN = {"nan": "NaN", "inf": "Inf", "-inf": "-Inf"}


def _judge_non_finite(result: ModelResult, spec: RunSpec) -> Finding:
    """Any non-finite value is a finding."""
    first = result.summary.non_finite
    if first is None:
        return Finding("pass", "Every value of the forward pass is finite.")
    is_weight = first.where == "weights"
    return Finding(
        "found",
        _non_finite_sentence(first),
        advise("non-finite", result, spec, first.where),
        first_step=None if is_weight else first.step,
        last_step=None if is_weight else result.length,
    )


def _non_finite_sentence(first: NonFinite) -> str:
    """The sentence that says where the first value that is not finite appears, and what it does."""
    value, layer = _SHOWN.get(first.value, safe_text(first.value)), safe_text(first.layer)
    if first.where == "weights":
        return f"The weights of {layer or 'the model'} hold {value}: nothing computed from them can be trusted."
    if first.where == "gradient":
        return (
            f"The gradient is {value} from step {first.step} back, though the forward pass is finite: the next update "
            "makes every weight NaN."
        )
    place = f"{safe_text(first.where)} of layer {layer}" if layer else safe_text(first.where)
    cause = _CAUSES.get(first.cause, "")
    return f"{value} first appears at step {first.step}, in {place}{cause}: no gradient exists from there on."


NON_FINITE = Rule(
    code="GS301",
    requires=("non_finite",),
    judge=_judge_non_finite,
    status_if_found="non-finite",
    absent_means_clean=True,
)


COMMON_DTYPE = "float32"
"""The type most training runs in: judged when the analysis itself ran in a wider one."""
HORIZON_ENDS: Mapping[str, str] = {
    "share": "what older steps add to dL/dW is lost in the rounding of the rest",
    "underflow": "older gradients are too small for the type (loss scale {scale:g})",
    "overflow": "older gradients are too large for the type (loss scale {scale:g})",
}
"""What ends a horizon, completing `In float32 ... beyond lag 23: `; where two end at one lag, the first is named."""


def _judge_low_precision(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the horizon of the run's own type, or of float32, with horizon_part * K."""
    horizons = result.summary.precision_horizon or {}
    dtype = spec.dtype if spec.dtype in horizons else COMMON_DTYPE
    if dtype not in horizons:
        return Finding("skip", f"The precision horizon of {dtype} is not known.")
    lag, horizon = needed_lag(result, spec), _horizon_lag(horizons[dtype])
    wanted_lag = LOW_PRECISION.limit(spec, "horizon_part") * lag
    if horizon is None or horizon >= wanted_lag:
        return Finding("pass", _horizon_sentence(dtype, lag, horizons), measured=horizon, threshold=wanted_lag)
    cause = next((key for key in HORIZON_ENDS if horizons[dtype].get(key) == horizon), "underflow")
    cause_note = HORIZON_ENDS[cause].format(scale=horizons[dtype].get("loss_scale") or 1.0)
    usual_note = "" if dtype == spec.dtype else ", the usual type for training,"
    return Finding(
        "found",
        f"In {dtype}{usual_note} the gradient holds to lag {horizon} of {lag}: {cause_note}.",
        _horizon_advice(cause, dtype, result, spec),
        first_step=Profile.of(result).step_of(lag),
        last_step=Profile.of(result).step_of(horizon + 1),
        measured=horizon,
        threshold=wanted_lag,
    )


def _horizon_lag(horizon: Mapping[str, Any]) -> int | None:
    """The lag of one type's record; None for no end within the sequence."""
    lag = horizon.get("lag")
    return int(lag) if isinstance(lag, int | float) else None


def _horizon_sentence(dtype: str, lag: int, horizons: Mapping[str, Any]) -> str:
    """The sentence that says that `dtype` holds the gradient, and which other types do not."""
    horizon_lags = {other: _horizon_lag(horizon) for other, horizon in horizons.items() if other != dtype}
    shorter = [f"{other} to lag {last}" for other, last in horizon_lags.items() if last is not None and last < lag]
    return f"{dtype} holds the gradient over {counted(lag, 'lag')}{'; ' if shorter else ''}{', '.join(shorter)}."


def _horizon_advice(cause: str, dtype: str, result: ModelResult, spec: RunSpec) -> str:
    """Against underflow in float16 a loss scale; else what is said of a vanishing or exploding gradient itself."""
    if cause == "underflow" and dtype == "float16":
        return "Scale the loss (`torch.amp.GradScaler`), or train in bfloat16, which has the range of float32."
    return advise("exploding" if cause == "overflow" else "vanishing", result, spec)


LOW_PRECISION = Rule(
    code="GS302",
    requires=("precision_horizon",),
    judge=_judge_low_precision,
    thresholds={
        "horizon_part": Threshold(1.0, "share", "how much of the needed lag the precision must hold for", low=0.0),
    },
)


@dataclass(frozen=True)
class Harm:
    """One kind of saturation that costs something."""

    description: str
    """Completes `63 % of the ...`."""
    advice: str


HARMFUL_SATURATION: Mapping[str, Harm] = {
    "activation": Harm(
        "activations lie beyond ±0.99, where the slope of tanh is under 0.02",
        "Scale the input (`--scale standard`) or lower the gain of the recurrent matrix.",
    ),
    "gate.forget.closed": Harm(
        "forget gate is closed, so the cell is erased at every step",
        "Raise the bias of the forget gate: `gradscope analyze lstm:forget_bias=5`.",
    ),
    "gate.input.closed": Harm(
        "input gate is closed, so nothing new is written and its weights learn nothing",
        "Raise the bias of the input gate towards 0, or scale the input (`--scale standard`).",
    ),
    "gate.output.closed": Harm(
        "output gate is closed, so the cell is hidden from the loss",
        "Raise the bias of the output gate towards 0, or scale the input (`--scale standard`).",
    ),
    "gate.update.closed": Harm(
        "update gate is closed, so the state is overwritten at every step",
        "Raise the bias of the update gate: `gradscope analyze gru:update_bias=5`.",
    ),
}
"""An open forget or update gate is how a model remembers and is no fault; nor is a reset gate at either end."""


def _judge_saturation(result: ModelResult, spec: RunSpec) -> Finding:
    """Judge the harmful kinds alone; name every one beyond the limit, the worst first."""
    shares, limit = result.summary.saturation or {}, SATURATION.limit(spec, "saturated_share")
    ranked = sorted((name for name in HARMFUL_SATURATION if name in shares), key=lambda name: -shares[name])
    if not ranked:
        return Finding("skip", "The model has no activation or gate whose saturation does harm.")
    worst, beyond = ranked[0], [name for name in ranked if shares[name] > limit]
    if not beyond:
        message = f"At most {percent(shares[worst])} of an activation or gate is saturated in a way that does harm."
        return Finding("pass", message, measured=shares[worst], threshold=limit)
    message = "; ".join(f"{percent(shares[name])} of the {HARMFUL_SATURATION[name].description}" for name in beyond)
    return Finding("found", f"{message}.", HARMFUL_SATURATION[worst].advice, measured=shares[worst], threshold=limit)


SATURATION = Rule(
    code="GS303",
    requires=("saturation",),
    judge=_judge_saturation,
    thresholds={
        "saturated_share": Threshold(
            0.5, "share of (unit, step) pairs", "how much of a gate or activation may be saturated", low=0.0
        ),
    },
)


def _judge_dead_units(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the share of dead units with the limit."""
    shares = result.summary.saturation or {}
    if "activation.dead" not in shares:
        return Finding("pass", "The model has no units that can die (relu).")
    dead, limit = shares["activation.dead"], DEAD_UNITS.limit(spec, "dead_share")
    if dead <= limit:
        return Finding(
            "pass", f"{percent(dead)} of the relu units are zero at every step.", measured=dead, threshold=limit
        )
    return Finding(
        "found",
        f"{percent(dead)} of the relu units are zero at every step and pass no gradient.",
        "Start from the identity (`gradscope analyze rnn:nonlinearity=relu,init=identity`) or lift the bias.",
        measured=dead,
        threshold=limit,
    )


DEAD_UNITS = Rule(
    code="GS304",
    requires=("saturation",),
    judge=_judge_dead_units,
    thresholds={
        "dead_share": Threshold(0.5, "share of units", "how many relu units may be zero at every step", low=0.0)
    },
)


def _judge_first_layer_bias(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the first layer's mean gate bias with the others'."""
    if len(result.summary.gate_bias or ()) < 2:
        return Finding("pass", "There are no two gated layers to compare.")
    first, *others = result.summary.gate_bias or ()
    excess, limit = first - max(others), FIRST_LAYER_BIAS.limit(spec, "bias_apart")
    observed = (
        f"The gate that keeps the state has a mean bias of {first:.2g} in layer one, at most {max(others):.2g} above"
    )
    if excess <= limit:
        return Finding("pass", f"{observed}.", measured=excess, threshold=limit)
    return Finding(
        "found",
        f"{observed}, as if it had been set for `l0` alone.",
        "Set it in every layer: loop over `range(rnn.num_layers)`; `gradscope analyze MODEL --fix --save DIR` writes "
        "the lines.",
        measured=excess,
        threshold=limit,
    )


FIRST_LAYER_BIAS = Rule(
    code="GS305",
    requires=("gate_bias",),
    judge=_judge_first_layer_bias,
    thresholds={"bias_apart": Threshold(0.9, "bias", "how far the first layer's may lie above the others'", low=0.0)},
)
