"""The cheap signal: how far back one fused layer of torch.nn hears, on the batch that it was just trained on.

The layer runs once more on its own input, and only the newest cotangent that the loss gave it goes back: I(k) as
`gradscope analyze` defines it, for a loss at the last step and for one at every step alike. Nothing of the training's
graph is touched; no dropout is drawn.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gradscope.metrics.interval import mean_interval
from gradscope.metrics.rate import slopes
from gradscope.metrics.reach import of_profile
from gradscope.metrics.track import numbers
from gradscope.monitor.points import SMALLEST_FLOAT32, thinned
from gradscope.numerics.gradients.influence import geometric_mean
from gradscope.numerics.scale import log10_norm, log10_sum
from gradscope.profile import Profile
from gradscope.records import Loaded, ModelResult, RunSpec, Series, Summary
from gradscope.rules.judge import judge, status
from gradscope.trajectory import Point

KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}
LIFT = 2.0**60
"""A factor on the cotangent that brings small gradients into the range of float32; it is divided out again."""
State = Tensor | tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Heard:
    """What a layer took in one forward pass, and what the loss sent back to its outputs."""

    x: Tensor
    """Inputs of some sequences, (sequences, T, features)."""
    state: State
    """The state they started from, as the layer takes it."""
    output: Tensor | None
    """dL/dy, (sequences, T, features); None where the loss reads no output."""
    last: tuple[Tensor | None, ...]
    """dL/dh_T, and dL/dc_T of an LSTM, (layers, sequences, features)."""
    scale: float = 1.0
    """The loss scale that the cotangents still carry."""

    @property
    def anchor(self) -> int:
        """The newest step whose output the loss reads, 1..T; 0 for none."""
        if any(v is not None and bool((v != 0).any()) for v in self.last):
            return int(self.x.shape[1])
        if self.output is None:
            return 0
        read = (self.output != 0).any(-1).any(0).nonzero()
        return int(read[-1]) + 1 if len(read) else 0

    @property
    def newest(self) -> Tensor | None:
        """What the loss sent back to the newest output that it reads, (sequences, features); None for nothing."""
        place, parts = self.anchor - 1, []
        if self.output is not None and place >= 0:
            parts.append(self.output[:, place])
        if self.last and self.last[0] is not None and place == self.x.shape[1] - 1:
            parts.append(self.last[0][-1])
        found = sum(parts[1:], parts[0]) if parts else None
        return found if found is not None and bool((found != 0).any()) else None

    @property
    def reads(self) -> int:
        """At how many steps the loss reads the output."""
        if self.output is None:
            return int(self.anchor > 0)
        return max(int((self.output != 0).any(-1).any(0).sum()), int(self.anchor > 0))


def measured(layer: nn.RNNBase, heard: Heard, step: int, name: str, needs_lag: int | None) -> Point:
    """The signal of a layer as a point: reach, rate, share and status from I(k) over the sequences at hand.

    Raises:
        ValueError: there is nothing to go back from, or over; the message says so.
    """
    anchor = heard.anchor
    if anchor < 2:
        raise ValueError("the loss reads no output that has steps before it")
    lag = min(needs_lag, anchor - 1) if needs_lag is not None else anchor - 1
    logs, size, exact = influence(layer, heard, anchor, lag)
    if bool((logs.isnan() | (logs == math.inf)).any()):
        length = int(heard.x.shape[1])
        return Point(step, "signal", name, length=length, needed_lag=lag, status="non-finite", reads=heard.reads)
    profile = geometric_mean(logs)
    found = slopes(logs[:, 1 : lag + 1] * math.log(10))
    g = log10_sum(logs, 0) - math.log10(len(logs))
    share = Profile(anchor, numbers(g)).share(lag)
    zero = (logs[:, 1 : lag + 1] == -math.inf).all(0).nonzero().flatten()
    summary = Summary(
        rate=math.fsum(found) / len(found) if found else None,
        rate_ci=mean_interval(found) if len(torch.unique(logs, dim=0)) > 1 else None,
        reach=of_profile(profile),
        gradient_share=share,
        needed_lag=lag,
        zero_lags=(int(zero[0]) + 1, len(zero)) if len(zero) else (),
    )
    point = _point(summary, profile, heard, step, name, needs_lag, size)
    if not exact:
        # Beyond the needed lag a zero may be no more than the end of float32.
        known = tuple(None if value == -math.inf else value for value in point.log10_influence)
        point = replace(point, log10_influence=known)
    return point


def _point(
    summary: Summary, profile: Tensor, heard: Heard, step: int, name: str, needs_lag: int | None, size: float
) -> Point:
    values = tuple(profile.tolist())
    length = int(heard.x.shape[1])
    unjudged = ModelResult(
        name=name,
        kind="recurrent",
        status="inconclusive",
        size=0,
        length=length,
        loaded=Loaded("training", trained=None),
        summary=summary,
        series=Series(tuple(range(length + 1)), None, {"log10_influence": values}),
    )
    verdicts = judge(unjudged, RunSpec(models=("rnn",), needs_lag=needs_lag, dtype="float32"))
    said = [verdict for verdict in verdicts if verdict.status in ("fail", "warn")]
    given = status(verdicts)
    said.sort(key=lambda verdict: (verdict.gives != given, verdict.status != "fail"))
    lags, kept = thinned(values)
    below = next((lag for lag, value in enumerate(values[1:], 1) if value + size < SMALLEST_FLOAT32), None)
    return Point(
        step=step,
        kind="signal",
        layer=name,
        length=length,
        needed_lag=summary.needed_lag,
        gradient_share=summary.gradient_share,
        reach=summary.reach,
        rate=summary.rate,
        status=given,
        findings=tuple(verdict.code for verdict in said),
        message=said[0].message if said and said[0].gives == given else "",
        lags=lags,
        log10_influence=kept,
        below_float32=below,
        reads=heard.reads,
    )


def influence(layer: nn.RNNBase, heard: Heard, anchor: int, lag: int) -> tuple[Tensor, float, bool]:
    """log10 I(k) of every sequence for a cotangent of norm one, and log10 of its true norm.

    In float32, and again in float64 where that finds a zero or an overflow up to `lag`, which may be rounding alone.

    Returns:
        The logarithms, (sequences, lags 0..); log10 of the norm; whether a zero is one.
    """
    logs, size = _back(layer, heard, anchor, torch.float32)
    inside = logs[:, : lag + 1]
    if not bool(inside.isfinite().all()):
        return *_back(layer, heard, anchor, torch.float64), True
    return logs, size, not bool((logs == -math.inf).any())


def _back(layer: nn.RNNBase, heard: Heard, anchor: int, dtype: torch.dtype) -> tuple[Tensor, float]:
    weights = [getattr(layer, name).detach().to(dtype) for group in layer._all_weights for name in group]
    leaf = heard.x.to(dtype, copy=True).requires_grad_()
    state = _state(layer, heard.state, leaf)
    settings = (layer.bias, layer.num_layers, 0.0, True, layer.bidirectional, True)
    kind = leaf.device.type
    with torch.enable_grad(), torch.autocast(kind, enabled=False), warnings.catch_warnings():
        # On a GPU torch warns that weights of another type are not packed; they are used once.
        warnings.simplefilter("ignore")
        output, *last = KERNELS[layer.mode](leaf, state, weights, *settings)
        pulled = [(output[:, anchor - 1], None if heard.output is None else heard.output[:, anchor - 1])]
        pulled += list(zip(last, heard.last, strict=False)) if anchor == leaf.shape[1] else []
        pairs = [(y, v.to(dtype)) for y, v in pulled if v is not None]
        size = math.sqrt(sum(float(torch.linalg.vector_norm(v, dtype=torch.float64)) ** 2 for _, v in pairs))
        lift = LIFT if dtype == torch.float32 else 1.0
        total = sum(((y * (v / size * lift)).sum() for y, v in pairs), leaf.new_zeros(()))
        (gradient,) = torch.autograd.grad(total, leaf)
    logs = log10_norm(gradient[:, :anchor]).double().flip(1).cpu() - math.log10(lift)
    return logs, math.log10(size) - math.log10(heard.scale)


def _state(layer: nn.RNNBase, given: State, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """The state to start from, zeros where none was given."""
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    if layer.mode != "LSTM":
        return given.to(x.dtype) if isinstance(given, Tensor) else x.new_zeros(count, len(x), layer.hidden_size)
    if isinstance(given, tuple):
        return given[0].to(x.dtype), given[1].to(x.dtype)
    sizes = (layer.proj_size or layer.hidden_size, layer.hidden_size)
    return x.new_zeros(count, len(x), sizes[0]), x.new_zeros(count, len(x), sizes[1])
