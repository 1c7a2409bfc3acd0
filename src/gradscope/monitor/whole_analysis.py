"""Whole analyses cheap enough for a training loop: of each watched layer, or of a copy of the model."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import GradscopeError, UsageError
from gradscope.metrics import collect
from gradscope.models.fused_call import cells_of
from gradscope.models.output_shape import reals
from gradscope.models.stack import Recurrent
from gradscope.models.user_modules import copied
from gradscope.monitor.layer_signal import Signal, cut, weights_of
from gradscope.monitor.points import changes, plain, point_of
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.lyapunov import lyapunov
from gradscope.numerics.trace import NotMeasured, attempted
from gradscope.pipeline import diagnose_object
from gradscope.records import ModelResult, RunSpec
from gradscope.registry import SERIES_METRICS, SUMMARY_METRICS
from gradscope.sequences.losses import unmasked
from gradscope.text import safe_text
from gradscope.torch_private import apply_to_tensors, forget_hooks
from gradscope.trajectory import Point

SEQUENCES = 4
SHARED = ("rate", "rate_ci", "reach", "gradient_share", "needed_lag", "zero_lags")
"""What an analysis takes from the signal of its step."""
MADE = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN}


def of_layer(layer: nn.RNNBase, signal: Signal) -> ModelResult:
    """What is known of a layer on the input that it was just trained on, from the state that it was handed.

    Rate, reach, share and profile are those of the signal: both tell of one gradient, and cannot contradict each other.

    Raises:
        UsageError: it cannot be analysed.
    """
    heard = signal.heard
    x, sent, place = heard.x[:SEQUENCES], heard.newest, signal.anchor - 1
    weight = None if sent is None else sent[:SEQUENCES].double().cpu()
    loss = None if weight is None else lambda output: (output[:, place] * weight).sum()
    lag = None if signal.needs_lag is None else signal.lag
    spec = RunSpec(models=(signal.name,), needs_lag=lag, dtype="float64", input_size=x.shape[-1])

    def measure(analysis: Analysis) -> collect.MetricValues:
        summary, series, skipped = measures(analysis)
        if not signal.is_finite:
            return summary, series, skipped
        known = signal.summary
        own = {name: getattr(known, name) for name in SHARED}
        gain = None if known.rate is None else math.exp(known.rate)
        values = {**series.values, "log10_influence": tuple(signal.profile.tolist())}
        summary = replace(summary, **own, gain=gain, half_life=None, coverage=None, temporal_range=None)
        return summary, replace(series, values=values), {n: why for n, why in skipped.items() if n not in SHARED}

    with torch.enable_grad():
        return diagnose_object(
            started(plain_layer(layer), heard.state, signal.name), signal.name, spec, x.cpu().double(), measure, loss
        )


def started(layer: nn.RNNBase, state: Any, name: str) -> Recurrent:
    """A layer as a model that begins with a state, (layers, sequences, size) or two of them, instead of zeros."""
    layer = layer.eval()
    if state is None:
        return Recurrent(name, [level[0] for level in cells_of(layer)], reference=layer)
    parts = [part[:, :SEQUENCES].cpu().double() for part in (state if isinstance(state, tuple) else (state,))]
    levels = [torch.cat([part[level] for part in parts], -1) for level in range(layer.num_layers)]
    return Recurrent(name, [level[0] for level in cells_of(layer)], reference=_Started(layer, parts), start=levels)


class _Started(nn.Module):
    """A layer of torch.nn that begins with a state."""

    def __init__(self, layer: nn.RNNBase, state: list[torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.state = layer, state

    def forward(self, x: torch.Tensor) -> Any:
        """What the layer returns."""
        # An analysis may take some of the sequences.
        some = [part[:, : len(x)].contiguous() for part in self.state]
        return self.layer(x, tuple(some) if len(some) > 1 else some[0])


def of_model(model: nn.Module, x: torch.Tensor, name: str, needs_lag: int | None) -> ModelResult:
    """The same of a whole module, which is a copy already.

    Raises:
        UsageError: it cannot be analysed.
    """
    spec = RunSpec(models=(name,), needs_lag=needs_lag, layout="batch-first")
    given = x[:SEQUENCES].cpu()
    given = given.double() if given.is_floating_point() else given
    with torch.enable_grad():
        return diagnose_object(model.cpu(), name, spec, given, measures, reading)


def reading(output: Any) -> torch.Tensor:
    """A loss that reads the newest output, (batch, T, features), (batch, features) or (batch), in a seeded direction.

    Of several outputs, as models of the transformers library and modules that hand on their state return them, it reads
    the logits, the last hidden state, or the first that is a tensor of real numbers.

    Raises:
        UsageError: the model returns something else.
    """
    read = _read_of(output)
    if read is None:
        raise UsageError("the model returns no tensor of real numbers to read a gradient from")
    newest = unmasked(read[:, -1] if read.ndim > 2 else read)
    direction = torch.randn(newest.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (newest * direction.to(newest)).sum()


def _read_of(output: Any) -> torch.Tensor | None:
    """The tensor among a model's outputs that stands for its answer."""
    if isinstance(output, torch.Tensor):
        return output if output.is_floating_point() and output.ndim else None
    names, known = ("logits", "last_hidden_state"), isinstance(output, dict)
    named = (one for name in names for one in reals(output.get(name) if known else getattr(output, name, None)))
    return next((read for read in (*named, *reals(output)) if read.ndim), None)


def plain_layer(layer: nn.RNNBase) -> nn.RNNBase:
    """A layer of the same weights and nothing else: no hooks, no parametrization, no dropout, in float64."""
    more: dict[str, Any] = {"nonlinearity": "relu"} if layer.mode == "RNN_RELU" else {}
    more |= {"proj_size": layer.proj_size} if layer.mode == "LSTM" else {}
    made: nn.RNNBase = MADE[layer.mode](
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=layer.bias,
        batch_first=True,
        bidirectional=layer.bidirectional,
        dtype=torch.float64,
        **more,
    )
    with torch.no_grad():
        for name, weight in weights_of(layer).items():
            getattr(made, name).copy_(weight)
    return made


def measures(analysis: Analysis) -> collect.MetricValues:
    """Everything that needs no Jacobian, and the leading exponent."""
    summary, series, skipped = collect.metrics_before_jacobians(analysis)
    own, more = collect.gather(analysis, {"gate": SERIES_METRICS["gate"]})
    gates = {name: track.values for name, track in own.get("gate", {}).items()}
    some, rest = collect.gather(analysis, {"saturation": SUMMARY_METRICS["saturation"]})
    exponent = attempted(lambda: leading_exponent(analysis))
    if isinstance(exponent, NotMeasured):
        rest["lyapunov"] = exponent.reason
    summary = replace(summary, lyapunov=None if isinstance(exponent, NotMeasured) else (exponent,), **some)
    return summary, replace(series, values={**series.values, **gates}), {**skipped, **more, **rest}


def leading_exponent(analysis: Analysis) -> float:
    """The leading Lyapunov exponent of the first sequence, nats per step: one direction, aligned in a first pass.

    Raises:
        Unavailable: no recurrent state.
    """
    analysis.require_finite()
    analysis.require_equal()
    chain = analysis.trace.chain(0)
    frame = torch.randn(1, chain.size, 1, dtype=torch.float64, device=analysis.runs[0].x.device)
    for t in range(1, chain.length + 1):
        frame = chain.matmat(t, frame / frame.norm())
        if not float(frame.norm()):
            return float("-inf")
    return float(lyapunov(chain, 1, frame=frame / frame.norm()).mean[0])


Weights = dict[str, dict[str, Tensor]]
Found = tuple[list[Point], list[str], Weights]


def analyses(signals: Sequence[tuple[nn.RNNBase, Signal]], before: Weights) -> Found:
    """Points without a step, notes, and the weights as they are now.

    Args:
        signals: the layers, each with what was just measured of it.
        before: the weights at the analysis before, by layer.
    """
    points: list[Point] = []
    notes: list[str] = []
    weights: Weights = {}
    for layer, signal in signals:
        weights[signal.name] = plain(dict(layer.named_parameters()))
        begun = time.perf_counter()
        try:
            point = _point(of_layer(layer, signal), signal.name, weights, before, begun)
        except GradscopeError as error:
            notes.append(f"no analysis of {signal.name}: {error}")
            continue
        points.append(cut(point) if signal.is_cut else point)
    return points, notes, {**before, **weights}


def of_whole(model: nn.Module, x: Tensor, needs_lag: int | None, before: Weights) -> Found:
    """The same of a copy of the model on a batch, where no layer can be listened to."""
    name, begun = type(model).__name__, time.perf_counter()
    weights = {name: plain(dict(model.named_parameters()))}
    try:
        _require_one_argument(model)
        result = of_model(_copied(model), x, name, needs_lag)
    except GradscopeError as error:
        return [], [f"no analysis of {name}: {error}"], {**before, **weights}
    return [_point(result, name, weights, before, begun)], [], {**before, **weights}


def _point(
    result: ModelResult,
    name: str,
    now: dict[str, dict[str, Tensor]],
    before: dict[str, dict[str, Tensor]],
    begun: float,
) -> Point:
    moved = changes(before[name], now[name]) if name in before else ()
    seconds = round(time.perf_counter() - begun, 4)
    return replace(point_of(result, 0, changes=moved, seconds=seconds), layer=name)


def _copied(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode and without hooks, whose gradients are its own.

    Raises:
        UsageError: it cannot be copied.
    """
    made = copied(model)
    for part in made.modules():
        forget_hooks(part)
    apply_to_tensors(made, _widened)
    return made.eval()


def _require_one_argument(model: nn.Module) -> None:
    """Refuse a model that does not run on a batch alone.

    Raises:
        UsageError: its forward asks for more.
    """
    asked = [
        name
        for name, one in inspect.signature(model.forward).parameters.items()
        if one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.POSITIONAL_ONLY, one.KEYWORD_ONLY)
    ]
    if len(asked) > 1:
        rest = safe_text(", ".join(asked[1:]), 80)
        raise UsageError(f"its forward asks for {rest} too, and is handed the batch alone; give them defaults")


def _widened(tensor: Tensor) -> Tensor:
    """A tensor in double precision; whole numbers stay."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor
