"""One concrete sentence on what to try, by the direction of the trouble and the family of the model.

These are the field's usual remedies, worded with numbers computed for the lag in question. None has been measured on
the model at hand; that is what running the command in the sentence is for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from gradscope.config.command import command
from gradscope.records import BUILT, ModelResult, RunSpec, Verdict
from gradscope.registry import FAMILIES
from gradscope.rules.rule import needed_lag

_MODEL_WORD = re.compile(r"[a-z]+(:[a-z_]+=[\w.+-]+(,[a-z_]+=[\w.+-]+)*)?")


def is_built(result: ModelResult) -> bool:
    """Whether the model is a family that was named by its word, which a command can name again."""
    return result.loaded.source == BUILT and _family_word(result) in FAMILIES


def model_family(result: ModelResult) -> str:
    """The family word of a result; its kind (`module`, `chain`, ...) where it is none that gradscope knows.

    Layers of torch.nn are recognised by the class that they were checked against (`torch.nn.LSTM`), those inside a
    module by their own; never by what somebody calls a class of their own.
    """
    if is_built(result):
        return _family_word(result)
    check = result.loaded.equality_check
    library, _, name = check.against.rpartition(".") if check else ("", "", "")
    layer_kinds = (
        {name}
        if library == "torch.nn"
        else {class_name.removesuffix("Cell") for class_name in result.loaded.parts.values()}
    )
    word = layer_kinds.pop().lower() if len(layer_kinds) == 1 else ""
    return word if word in FAMILIES else result.kind


def layer_places(result: ModelResult) -> str:
    """`self.rnn`, `self.encoder[0] and self.decoder`: where its layers lie in the user's module; empty for others."""
    names = [re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", f"self.{name}") for name in result.loaded.parts if name]
    listed = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    return " and ".join(names) if len(names) < 3 else listed


def _family_word(result: ModelResult) -> str:
    """The first word of a name, `rnn` of `rnn:hidden=8#2`, the second model of that name in one run."""
    return model_word(result).partition(":")[0]


def model_word(result: ModelResult) -> str:
    """The model as its user named it: without the number that tells equal names apart."""
    return re.sub(r"#\d+$", "", result.name)


def model_options(name: str) -> dict[str, str]:
    """The options in a model's name: `lstm:hidden=32` gives {"hidden": "32"}; a name of another form gives {}."""
    if not _MODEL_WORD.fullmatch(name) or ":" not in name:
        return {}
    return dict(part.split("=", 1) for part in name.partition(":")[2].split(","))


def model_variant(result: ModelResult, **changed: str) -> str:
    """The result's own model with options changed, `lstm:hidden=32,forget_bias=5.7`; the bare family if loaded."""
    word = model_family(result)
    options = model_options(model_word(result)) if is_built(result) else {}
    settings = ",".join(f"{key}={value}" for key, value in (options | changed).items())
    return f"{word}:{settings}" if settings else word


ADVICE: Mapping[tuple[str, str], str] = {
    ("vanishing", "rnn"): "Use a gated cell{instead}[: `gradscope compare {same} lstm:forget_bias={bias}`]; an "
    "orthogonal recurrent matrix[ (`gradscope analyze {orthogonal}`)] usually loses less per step.",
    ("vanishing", "rnn relu"): "Start from the identity matrix, which relu leaves alone while units stay active[: "
    "`gradscope analyze {identity}`].",
    ("vanishing", "rnn orthogonal"): "The matrix keeps norms already, so the nonlinearity shrinks: use a gated cell[, "
    "`gradscope compare {same} lstm:forget_bias={bias}`].",
    ("vanishing", "rnn gain"): "The recurrent matrix multiplies norms by {gain} at every step by itself: give it "
    "gain 1[, `gradscope analyze {unit_gain}`].",
    ("vanishing", "lstm"): "Raise the forget bias{of} to {bias}, at which the cell keeps half of what it held for "
    "about {half_life} steps if the gate sees little else[: `gradscope analyze {open_lstm}`].",
    ("vanishing", "lstm open"): "The forget bias would reach that far, so the loss is elsewhere: look at the gates[, "
    "`gradscope analyze {same} --show gates`].",
    ("vanishing", "gru"): "Raise the bias of the update gate{of}, which keeps the old state when open, to {bias} "
    "(half-life about {half_life} steps if the gate sees little else)[: `gradscope analyze {open_gru}`].",
    ("vanishing", "gru open"): "The update bias would reach that far, so the loss is elsewhere: look at the gates[, "
    "`gradscope analyze {same} --show gates`].",
    ("vanishing", "lru"): "Move the eigenvalues towards the unit circle, to at least {radius} for a half-life of {lag} "
    "steps[: `gradscope analyze {wide_lru}`].",
    ("vanishing", "attention"): "One layer joins any two steps directly, so this is small attention weight and not "
    "decay through time: look at where its weights go[ beside a recurrence: `gradscope compare {same} lstm`].",
    ("vanishing", "transformer"): "Residual and attention paths do not decay with the lag, so this is small attention "
    "weight: look at where it goes[ beside a single layer: `gradscope compare {same} {attention}`].",
    ("vanishing", "*"): "Give the state a path that keeps it: a gate biased to stay open (bias {bias} for {lag} lags), "
    "a residual step, or an orthogonal recurrent matrix.",
    ("zero", "rnn"): "A unit that outputs zero passes no gradient: start relu units from the identity[ "
    "(`gradscope analyze {relu_identity}`)], and check the input for constant zeros.",
    ("zero", "float32"): "Run it again with `--dtype float64`: what is zero there too is no underflow.",
    ("zero", "*"): "Look for dead units, gates that are closed completely, masked inputs, and a detach between "
    "the steps; a forward pass in low precision can round to zero as well.",
    ("exploding", "rnn"): "Clip the gradient norm (`torch.nn.utils.clip_grad_norm_`, 1.0 is common) and start from a "
    "recurrent matrix that keeps norms, then see whether it vanishes instead[: `gradscope analyze {tame}`].",
    ("exploding", "lstm"): "Clip the gradient norm (1.0 is common) and shrink the recurrent weights{of}[: "
    "`gradscope analyze {half_gain}`].",
    ("exploding", "gru"): "Clip the gradient norm (1.0 is common) and shrink the recurrent weights{of}[: "
    "`gradscope analyze {half_gain}`].",
    ("exploding", "lru"): "Its own eigenvalues lie inside the unit circle, so look at the input and output matrices, "
    "and normalise the input of each layer.",
    ("exploding", "*"): "Clip the gradient norm (1.0 is common), and bring the largest gain of one step to 1: smaller "
    "recurrent weights, an orthogonal matrix, or a norm inside the recurrence.",
    ("chaos", "rnn"): "Start from a recurrent matrix that keeps norms[ (`gradscope analyze {tame}`)], clip the "
    "gradient norm, or train on shorter windows.",
    ("chaos", "*"): "Lower the recurrent weights, clip the gradient norm, or train with teacher forcing on shorter "
    "windows: in chaos no step size makes long gradients tame.",
    ("collapse", "rnn"): "Orthogonal recurrent weights shrink all directions alike[ (`gradscope analyze "
    "{orthogonal}`)]; attention keeps one state per step[: `gradscope compare {same} {attention}`].",
    ("collapse", "*"): "Spread the time scales of the units (forget biases or eigenvalues of different size), or let "
    "the model look back with attention.",
    ("mixed", "*"): "Build the layer with batch_first=True, or hand it x.transpose(0, 1); if time is meant to come "
    "first, say so with `--layout time-first`; batch normalization belongs in evaluation mode.",
    ("cut", "*"): "Look for detach(), .data, torch.no_grad() or a fresh state inside the loop over steps; a window of "
    "truncated BPTT does this on purpose, and then nothing longer than the window is learned.",
    ("anew", "*"): "Look inside the loop over steps for a reset, a detach or a fresh state, and for a loop that takes "
    "the sequence in pieces and starts each from zeros.",
    ("zeroed", "*"): "Look inside the loop over steps for a mask or a reset that multiplies the state by 0; where a "
    "sequence begins there on purpose, nothing needs to be done.",
    ("non-finite", "weights"): "Go back to the last finite checkpoint; before training on, clip the gradient norm and "
    "lower the learning rate.",
    ("non-finite", "input"): "Clean the input: replace or mask missing values, and scale columns of very large numbers "
    "with `--scale standard`.",
    ("non-finite", "gradient"): "Look for an infinite slope: a square root, a norm or a power at zero, or a logarithm "
    "that `where` hides; keep its argument away from zero (`sqrt(x + 1e-12)`). "
    "`torch.autograd.set_detect_anomaly(True)` names the line.",
    ("non-finite", "*"): "Run the steps before it alone (`--length`), then lower the gain or bound the activation; a "
    "logarithm, division or exponential in the cell needs a floor.",
}
"""(direction, case) -> sentence. A case is a family or a situation of it, `*` any; `{...}` are filled by
`_placeholders`; what stands in `[...]` names a command, and is left out for models that a command cannot name."""

NOT_OF_FAMILIES = (
    *("args", "cell", "embedding", "import_path", "key", "layout", "nonlinearity", "trust", "vocab", "weights"),
    *("fix", "probe", "remedy", "save", "state", "state_size", "train_steps"),
)
"""Settings that a suggested command does not repeat: of files and users' code, and of what is done beside measuring."""
OF_SEQUENCES: tuple[str, ...] = (
    *("anchors", "batch", "burn_in", "columns", "input", "item", "length", "loss", "scale", "sequence", "target"),
)
"""Settings of sequences, which a probe on a task does not repeat."""
HEADS = 4
"""Heads of the family `attention` where nothing says how many."""
TRAIN_COPIES = "Train copies of it at that lag and see"
"""How advice begins that is about a probe."""


ANSWERED = ("GS101", "GS103", "GS104", "GS201", "GS202", "GS302")
"""Rules whose advice is a general remedy for a gradient that dies, grows, or is left with one direction."""


def is_textbook(verdict: Verdict) -> bool:
    """Whether its advice is a general remedy, beside which a measured one says more."""
    return verdict.code in ANSWERED and verdict.status in ("fail", "warn")


def advise(direction: str, result: ModelResult, spec: RunSpec, case: str | None = None) -> str:
    """The sentence for a direction (`vanishing`, `exploding`, ...) and a family, or for a named `case` of it.

    What stands in brackets in the table names a command. It is said of families alone, with the settings of this run:
    of a file or a module it would measure another model.
    """
    key = (direction, case if case is not None else _advice_case(direction, result, spec))
    template = ADVICE.get(key) or ADVICE.get((direction, model_family(result))) or ADVICE[direction, "*"]
    if not is_built(result):
        template = re.sub(r"\[.*?\]", "", template)
    sentence = (
        template.replace("[", "")
        .replace("]", "")
        .format(attention=_attention_word(spec), **_placeholders(result, needed_lag(result, spec)))
    )
    return re.sub(r"`gradscope (analyze|compare) ([^`]+)`", lambda match: f"`{_with_settings(match, spec)}`", sentence)


def _attention_word(spec: RunSpec) -> str:
    """Attention of the run's width: with as many heads as divide it, up to the four that it has by itself."""
    heads = max(count for count in range(1, min(HEADS, spec.hidden) + 1) if spec.hidden % count == 0)
    return "attention" if heads == HEADS else f"attention:heads={heads}"


def _with_settings(match: re.Match[str], spec: RunSpec) -> str:
    """A command with the settings of the run: what it measures differs by its models alone."""
    models, shows_gates, _ = match[2].partition(" --show gates")
    return command(replace(spec, models=tuple(models.split())), run=match[1], without=NOT_OF_FAMILIES) + shows_gates


def advise_training(result: ModelResult, spec: RunSpec) -> str:
    """How to find out by training; with a command where one word names the model and a task or data are known."""
    has_own_data = spec.input is not None or spec.text is not None
    if not is_built(result) or (has_own_data and spec.loss not in ("final", "ce", "mse")):
        return f"{TRAIN_COPIES}: `gradscope explain GS105`."
    probe_spec = replace(spec, models=(model_word(result),), needs_lag=needed_lag(result, spec))
    if has_own_data:
        left_out: tuple[str, ...] = ("task", "loss") if spec.loss == "final" else ("task",)
    else:
        probe_spec, left_out = replace(probe_spec, task=spec.task or "recall"), OF_SEQUENCES
    return f"{TRAIN_COPIES}: `{command(probe_spec, run='probe', without=(*NOT_OF_FAMILIES, *left_out))}`."


def half_life_bias(lag: int) -> float:
    """The bias b at which a gate sigmoid(b) keeps one half over `lag` steps.

    sigmoid(b)^K = 1/2 gives b = -ln(2^(1/K) - 1), about ln(K / ln 2).
    """
    return -math.log(math.expm1(math.log(2) / max(lag, 1)))


def gate_bias_for_lag(lag: int) -> float:
    """That bias to the next tenth, and at least 1."""
    return max(1.0, math.ceil(10 * half_life_bias(lag)) / 10)


def half_life(bias: float) -> float:
    """Steps after which sigmoid(b)^k is one half: ln 2 / -ln sigmoid(b)."""
    return math.log(2) / math.log1p(math.exp(-bias))


def lag_in_own_steps(lag: int, pace: float | None) -> int:
    """A lag of the sequence in steps of a recurrence that takes `pace` of them for each; None: not known, so one."""
    return lag if pace is None else max(1, round(lag * pace))


def _advice_case(direction: str, result: ModelResult, spec: RunSpec) -> str:
    """The family; of a vanishing gradient with what its options already do about it: `rnn orthogonal`, `lstm open`."""
    family, options = model_family(result), model_options(model_word(result))
    if direction != "vanishing":
        return family
    if family == "rnn":
        return _rnn_case(result, options)
    bias_option = {"lstm": "forget_bias", "gru": "update_bias"}.get(family, "")
    measured_biases = result.summary.gate_bias if not is_built(result) and result.summary.gate_bias else ()
    lag = lag_in_own_steps(needed_lag(result, spec), result.summary.pace)
    try:
        bias = min(measured_biases) if measured_biases else float(options[bias_option])
    except (KeyError, ValueError):
        return family
    return f"{family} open" if bias_option and bias >= half_life_bias(lag) else family


def _rnn_case(result: ModelResult, options: Mapping[str, str]) -> str:
    keeps_norms = options.get("init") in ("orthogonal", "identity")
    if keeps_norms and not 0.95 <= _gain_option(result) <= 1.05:
        return "rnn gain"
    if options.get("nonlinearity") == "relu" and options.get("init") != "identity":
        return "rnn relu"
    return "rnn orthogonal" if keeps_norms and options.get("nonlinearity") != "linear" else "rnn"


def _gain_option(result: ModelResult) -> float:
    """The gain in the model's name, 1 where there is none."""
    try:
        return float(model_options(model_word(result)).get("gain", "1"))
    except ValueError:
        return 1.0


def _placeholders(result: ModelResult, lag: int) -> dict[str, str]:
    """Everything a sentence may name."""
    bias, radius = gate_bias_for_lag(lag_in_own_steps(lag, result.summary.pace)), 0.5 ** (1 / lag)
    is_relu = model_options(model_word(result)).get("nonlinearity") == "relu"
    places = layer_places(result)
    radius_shown = min(math.ceil(radius * 10**6) / 10**6, 0.999999)
    return {
        "lag": str(lag),
        "of": f" of {places}" if places else "",
        "instead": f" in place of {places}" if places else "",
        "bias": f"{bias:g}",
        "half_life": f"{half_life(bias):.0f}",
        "radius": f"{radius_shown:.6g}",
        "same": model_variant(result),
        "orthogonal": model_variant(result, init="orthogonal", gain="1"),
        "identity": model_variant(result, init="identity", gain="1"),
        "tame": model_variant(result, init="identity" if is_relu else "orthogonal", gain="1"),
        "gain": f"{_gain_option(result):g}",
        "unit_gain": model_variant(result, gain="1"),
        "relu_identity": model_variant(result, nonlinearity="relu", init="identity"),
        "half_gain": model_variant(result, gain=f"{_gain_option(result) / 2:g}"),
        "open_lstm": model_variant(result, forget_bias=f"{bias:g}"),
        "open_gru": model_variant(result, update_bias=f"{bias:g}"),
        "wide_lru": model_variant(result, r_min=f"{radius_shown:.6g}", r_max=f"{(1 + 9 * radius_shown) / 10:.7g}"),
    }
