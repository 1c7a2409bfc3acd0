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
from gradscope.text import safe_text

_CAUSES = {
    "constant": ", from a number in the code that is not finite itself",
    "arithmetic": ", from finite numbers",
}
_SHOWN = {"nan": "NaN", "inf": "Inf", "-inf": "-Inf"}


def _judge_non_finite(result: ModelResult, spec: RunSpec) -> Finding:
    """Any non-finite value is a finding."""
    found = result.summary.non_finite
    if found is None:
        return Finding("pass", "Every value of the forward pass is finite.")
    held = found.where == "weights"
    return Finding(
        "found",
        _non_finite_sentence(found),
        advise("non-finite", result, spec, found.where),
        first_step=None if held else found.step,
        last_step=None if held else result.length,
    )


def _non_finite_sentence(found: NonFinite) -> str:
    """Where it first appears."""
    value, layer = _SHOWN.get(found.value, safe_text(found.value)), safe_text(found.layer)
    if found.where == "weights":
        return f"The weights of {layer or 'the model'} hold {value}: nothing computed from them can be trusted."
    if found.where == "gradient":
        return (
            f"The gradient is {value} from step {found.step} back, though the forward pass is finite: the next update "
            "makes every weight NaN."
        )
    place = f"{safe_text(found.where)} of layer {layer}" if layer else safe_text(found.where)
    cause = _CAUSES.get(found.cause, "")
    return f"{value} first appears at step {found.step}, in {place}{cause}: no gradient exists from there on."


NON_FINITE = Rule(
    code="GS301",
    requires=("non_finite",),
    judge=_judge_non_finite,
    gives="non-finite",
    none_is_clean=True,
)


COMMON = "float32"
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
    name = spec.dtype if spec.dtype in horizons else COMMON
    if name not in horizons:
        return Finding("skip", f"The precision horizon of {name} is not known.")
    lag, reached = needed_lag(result, spec), _horizon_lag(horizons[name])
    wanted = LOW_PRECISION.limit(spec, "horizon_part") * lag
    if reached is None or reached >= wanted:
        return Finding("pass", _horizon_sentence(name, lag, horizons), measured=reached, threshold=wanted)
    cause = next((key for key in HORIZON_ENDS if horizons[name].get(key) == reached), "underflow")
    said = HORIZON_ENDS[cause].format(scale=horizons[name].get("loss_scale") or 1.0)
    usual = "" if name == spec.dtype else ", the usual type for training,"
    return Finding(
        "found",
        f"In {name}{usual} the gradient holds to lag {reached} of {lag}: {said}.",
        _horizon_advice(cause, name, result, spec),
        first_step=Profile.of(result).step_of(lag),
        last_step=Profile.of(result).step_of(reached + 1),
        measured=reached,
        threshold=wanted,
    )


def _horizon_lag(horizon: Mapping[str, Any]) -> int | None:
    """The lag of one type's record; None for no end within the sequence."""
    lag = horizon.get("lag")
    return int(lag) if isinstance(lag, int | float) else None


def _horizon_sentence(name: str, lag: int, horizons: Mapping[str, Any]) -> str:
    """That one type holds, and which others do not."""
    ends = {other: _horizon_lag(horizon) for other, horizon in horizons.items() if other != name}
    short = [f"{other} to lag {end}" for other, end in ends.items() if end is not None and end < lag]
    return f"{name} holds the gradient over {lag} lags{'; ' if short else ''}{', '.join(short)}."


def _horizon_advice(cause: str, name: str, result: ModelResult, spec: RunSpec) -> str:
    """A gradient that decays away is no matter of number formats; one that is small all over is."""
    if cause == "underflow" and name == "float16":
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
    """One kind of saturation that costs something, with the threshold that judges it."""

    threshold: str
    what: str
    """Completes `63 % of the ...`."""
    advice: str


HARMFUL: Mapping[str, Harm] = {
    "activation": Harm(
        "saturated_share",
        "activations lie beyond ±0.99, where the slope of tanh is under 0.02",
        "Scale the input (`--scale standard`) or lower the gain of the recurrent matrix.",
    ),
    "gate.forget.closed": Harm(
        "saturated_share",
        "forget gate is closed, so the cell is erased at every step",
        "Raise the bias of the forget gate: `gradscope analyze lstm:forget_bias=5`.",
    ),
    "gate.input.closed": Harm(
        "saturated_share",
        "input gate is closed, so nothing new is written and its weights learn nothing",
        "Raise the bias of the input gate towards 0, or scale the input (`--scale standard`).",
    ),
    "gate.output.closed": Harm(
        "saturated_share",
        "output gate is closed, so the cell is hidden from the loss",
        "Raise the bias of the output gate towards 0, or scale the input (`--scale standard`).",
    ),
    "gate.update.closed": Harm(
        "saturated_share",
        "update gate is closed, so the state is overwritten at every step",
        "Raise the bias of the update gate: `gradscope analyze gru:update_bias=5`.",
    ),
}
"""An open forget or update gate is how a model remembers and is no fault; nor is a reset gate at either end."""


def _judge_saturation(result: ModelResult, spec: RunSpec) -> Finding:
    """Judge the harmful kinds alone; name every one beyond its threshold, the worst first."""
    shares = result.summary.saturation or {}
    known = {name: HARMFUL[name] for name in HARMFUL if name in shares}
    if not known:
        return Finding("skip", "The model has no activation or gate whose saturation does harm.")
    ranked = sorted(known, key=lambda name: -shares[name])
    bad = [name for name in ranked if shares[name] > SATURATION.limit(spec, known[name].threshold)]
    worst = bad[0] if bad else ranked[0]
    measured, threshold = shares[worst], SATURATION.limit(spec, known[worst].threshold)
    if not bad:
        message = f"At most {percent(measured)} of an activation or gate is saturated in a way that does harm."
        return Finding("pass", message, measured=measured, threshold=threshold)
    message = "; ".join(f"{percent(shares[name])} of the {known[name].what}" for name in bad)
    return Finding("found", f"{message}.", known[worst].advice, measured=measured, threshold=threshold)


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
    apart, limit = first - max(others), FIRST_LAYER_BIAS.limit(spec, "bias_apart")
    said = f"The gate that keeps the state has a mean bias of {first:.2g} in layer one, at most {max(others):.2g} above"
    if apart <= limit:
        return Finding("pass", f"{said}.", measured=apart, threshold=limit)
    return Finding(
        "found",
        f"{said}, as if it had been set for `l0` alone.",
        "Set it in every layer: loop over `range(rnn.num_layers)`; `gradscope analyze MODEL --fix --save DIR` writes "
        "the lines.",
        measured=apart,
        threshold=limit,
    )


FIRST_LAYER_BIAS = Rule(
    code="GS305",
    requires=("gate_bias",),
    judge=_judge_first_layer_bias,
    thresholds={"bias_apart": Threshold(0.9, "bias", "how far the first layer's may lie above the others'", low=0.0)},
)
