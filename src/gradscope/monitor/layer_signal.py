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

from gradscope.metrics.collect import mean_interval, numbers
from gradscope.metrics.influence import reach_of, slopes
from gradscope.monitor.points import SMALLEST_FLOAT32, point_of, thinned
from gradscope.numerics.influence import geometric_mean
from gradscope.numerics.logscale import log10_norm, log10_sum
from gradscope.profile import Profile
from gradscope.records import Loaded, ModelResult, RunSpec, Series, Summary
from gradscope.rules.judge import judge, status_of_verdicts
from gradscope.torch_private import weight_names
from gradscope.trajectory import Point

KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}
LIFT = 2.0**60
"""A factor on the cotangent that brings small gradients into the range of float32; it is divided out again."""
SAME = 0.05
"""Part of the largest output by which a layer may differ from torch.nn in half precision."""
State = Tensor | tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class CapturedPass:
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
    carried: bool = False
    """Whether a gradient passes on through the state, to calls that are not among these steps."""

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


class Signal:
    """I(k) of one layer over the sequences that it was just trained on, and what follows from it."""

    def __init__(self, layer: nn.RNNBase, heard: CapturedPass, name: str, needs_lag: int | None) -> None:
        """Go back from the newest step that the loss reads.

        Args:
            layer: of torch.nn.
            heard: what it took in and got back.
            name: of the layer.
            needs_lag: as the user stated it; what lies beyond the newest step that is read is cut off.

        Raises:
            ValueError: there is nothing to go back from, or over; the message says so.
        """
        self.heard, self.name, self.needs_lag = heard, name, needs_lag
        self.anchor = heard.anchor
        if self.anchor < 2:
            raise ValueError("the loss reads no output that has steps before it")
        self.lag = min(needs_lag, self.anchor - 1) if needs_lag is not None else self.anchor - 1
        self.logs, self._size, self._exact = influence(layer, heard, self.anchor, self.lag)
        self.profile = geometric_mean(self.logs)

    @property
    def is_finite(self) -> bool:
        """Whether the gradient is no NaN and not beyond float64 at any lag."""
        return not bool((self.logs.isnan() | (self.logs == math.inf)).any())

    @property
    def is_cut(self) -> bool:
        """Whether the needed lag lies beyond all lags that there are."""
        return self.needs_lag is not None and self.needs_lag > self.lag

    @property
    def cut_off(self) -> tuple[str, str] | None:
        """What keeps older steps out of sight, as a word and a sentence; None where the needed lag is within."""
        length, needed = int(self.heard.x.shape[1]), f"needed lag {self.needs_lag}"
        if self.heard.carried and (self.is_cut or self.needs_lag is None):
            what = f"the gradient passes on through the state that {self.name} is handed"
            return "carried", f"{what}: lags beyond {self.lag} exist, and are not measured here"
        if not self.is_cut:
            return None
        if self.anchor < length:
            reads = f"the loss reads no output of {self.name} after step {self.anchor} of {length}"
            return "unread", f"{needed}, but {reads}: lags beyond {self.lag} do not exist"
        given = self.heard.state if isinstance(self.heard.state, tuple) else (self.heard.state,)
        if any(part is not None and bool(part.any()) for part in given):
            windows = f"windows of {self.name} are {length} steps and the carried state is detached"
            return "detached", f"{needed}, but {windows}: gradients are cut there"
        return "short", f"{needed}, but the sequences of {self.name} have {length} steps: gradients end there"

    @property
    def summary(self) -> Summary:
        """Rate, reach and share of the profile."""
        found = slopes(self.logs[:, 1 : self.lag + 1] * math.log(10))
        g = log10_sum(self.logs, 0) - math.log10(len(self.logs))
        share = Profile(self.anchor, numbers(g)).share(self.lag)
        zero = (self.logs[:, 1 : self.lag + 1] == -math.inf).all(0).nonzero().flatten()
        return Summary(
            rate=math.fsum(found) / len(found) if found else None,
            rate_ci=mean_interval(found) if len(torch.unique(self.logs, dim=0)) > 1 else None,
            reach=reach_of(self.profile),
            gradient_share=share,
            needed_lag=self.lag,
            zero_lags=(int(zero[0]) + 1, len(zero)) if len(zero) else (),
        )

    @property
    def values(self) -> tuple[float | None, ...]:
        """log10 I(k) by lag; None beyond the needed lag where a zero may be no more than the end of float32."""
        known = self.profile.tolist()
        return tuple(None if value == -math.inf and not self._exact else value for value in known)

    def point(self, step: int) -> Point:
        """All of it at one step of the training."""
        length = int(self.heard.x.shape[1])
        if not self.is_finite:
            reads = self.heard.reads
            return Point(
                step, "signal", self.name, length=length, needed_lag=self.lag, status="non-finite", reads=reads
            )
        summary, profile = self.summary, tuple(self.profile.tolist())
        unjudged = ModelResult(
            name=self.name,
            kind="recurrent",
            status="inconclusive",
            size=0,
            length=length,
            loaded=Loaded("training", trained=None),
            summary=summary,
            series=Series(tuple(range(length + 1)), None, {"log10_influence": profile}),
        )
        lag = None if self.needs_lag is None else self.lag
        result = replace(unjudged, verdicts=judge(unjudged, RunSpec(models=("rnn",), needs_lag=lag, dtype="float32")))
        found = point_of(replace(result, status=status_of_verdicts(result.verdicts)), step)
        lags, kept = thinned(self.values)
        below = (lag for lag, value in enumerate(profile[1:], 1) if -math.inf < value + self._size < SMALLEST_FLOAT32)
        point = replace(
            found,
            kind="signal",
            layer=self.name,
            lags=lags,
            log10_influence=kept,
            below_float32=next(below, None),
            reads=self.heard.reads,
        )
        return cut(point) if self.is_cut else point


def cut(point: Point) -> Point:
    """A point whose needed lag does not exist in its sequences: what is fine as far as they go proves nothing."""
    return replace(point, status="inconclusive", message="") if point.status == "healthy" else point


def differs(layer: nn.RNNBase, x: Tensor, state: State, returned: Tensor) -> str:
    """How a layer with a forward pass of its own computes something else than torch.nn; empty where it does not.

    Args:
        layer: with the weights that it used.
        x: its input, (sequences, T, features).
        state: what it started from.
        returned: its output, (sequences, T, features).
    """
    with torch.no_grad():
        output, *_ = _run(layer, CapturedPass(x, state, None, ()), x.float())
    name = f"{type(layer).__name__} computes something else than nn.{layer.mode.partition('_')[0]}"
    if output.shape != returned.shape:
        return f"{name}: its output is {tuple(returned.shape[1:])} where that has {tuple(output.shape[1:])}"
    apart = float((output - returned.float()).abs().max())
    # Half precision rounds; dropout between layers, which is not drawn again, does more.
    if (layer.dropout and layer.training) or apart <= SAME * float(output.abs().max()):
        return ""
    return f"{name}: outputs differ by {apart:.2g}"


def influence(layer: nn.RNNBase, heard: CapturedPass, anchor: int, lag: int) -> tuple[Tensor, float, bool]:
    """log10 I(k) of every sequence for a cotangent of norm one, and log10 of its true norm.

    In float32, and again in float64 where that finds an overflow, or a zero up to `lag`, which may be rounding alone.

    Returns:
        The logarithms, (sequences, lags 0..); log10 of the norm; whether a zero is one.
    """
    logs, size = _back(layer, heard, anchor, torch.float32)
    # The cotangent was lifted: beyond the range of float32 its gradient may be though the training's is not.
    overflown = bool((logs.isnan() | (logs == math.inf)).any())
    if overflown or bool((logs[:, : lag + 1] == -math.inf).any()):
        return *_back(layer, heard, anchor, torch.float64), True
    return logs, size, not bool((logs == -math.inf).any())


def _back(layer: nn.RNNBase, heard: CapturedPass, anchor: int, dtype: torch.dtype) -> tuple[Tensor, float]:
    device = heard.x.device
    if dtype == torch.float64 and device.type == "mps":
        device = torch.device("cpu")  # it has no float64
    leaf = heard.x.to(device, dtype, copy=True).requires_grad_()
    # Anomaly mode would raise at the very gradient that is to be told of.
    with torch.enable_grad(), torch.autograd.set_detect_anomaly(False):
        output, *last = _run(layer, heard, leaf)
        pulled = [(output[:, anchor - 1], None if heard.output is None else heard.output[:, anchor - 1])]
        pulled += list(zip(last, heard.last, strict=False)) if anchor == leaf.shape[1] else []
        pairs = [(y, v.to(device, dtype)) for y, v in pulled if v is not None]
        # No square of a cotangent leaves the range of float64.
        size = math.sqrt(sum(float(torch.linalg.vector_norm(v.detach().cpu().double())) ** 2 for _, v in pairs))
        lift = LIFT if dtype == torch.float32 else 1.0
        total = sum(((y * (v / size * lift)).sum() for y, v in pairs), leaf.new_zeros(()))
        (gradient,) = torch.autograd.grad(total, leaf)
    logs = log10_norm(gradient[:, :anchor]).cpu().double().flip(1) - math.log10(lift)
    return logs, math.log10(size) - math.log10(heard.scale)


def _run(layer: nn.RNNBase, heard: CapturedPass, x: Tensor) -> tuple[Tensor, ...]:
    """The layer's outputs and last states on x, in the type of x and without dropout."""
    weights = [weight.to(x.device, x.dtype) for weight in weights_of(layer).values()]
    settings = (layer.bias, layer.num_layers, 0.0, True, layer.bidirectional, True)
    with torch.autocast(x.device.type, enabled=False), warnings.catch_warnings():
        # On a GPU torch warns that weights of another type are not packed; they are used once.
        warnings.simplefilter("ignore")
        return KERNELS[layer.mode](x, _state(layer, heard.state, x), weights, *settings)


def weights_of(layer: nn.RNNBase) -> dict[str, Tensor]:
    """The weights as the layer uses them, in the order of torch.nn.

    Reading a parametrized weight computes it, and in training mode that may write (spectral norm takes a step of its
    power iteration): they are read in evaluation mode, and their buffers put back.
    """
    parts = [part for part in layer.modules() if part is not layer]
    modes, buffers = [part.training for part in parts], [(b, b.clone()) for part in parts for b in part.buffers(False)]
    try:
        for part in parts:
            part.training = False
        with torch.no_grad():
            return {name: getattr(layer, name).detach() for group in weight_names(layer) for name in group}
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
        for buffer, before in buffers:
            if not torch.equal(buffer, before):
                buffer.copy_(before)


def _state(layer: nn.RNNBase, given: State, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """The state to start from, zeros where none was given."""
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    if layer.mode != "LSTM":
        return given.to(x) if isinstance(given, Tensor) else x.new_zeros(count, len(x), layer.hidden_size)
    if isinstance(given, tuple):
        return given[0].to(x), given[1].to(x)
    sizes = (layer.proj_size or layer.hidden_size, layer.hidden_size)
    return x.new_zeros(count, len(x), sizes[0]), x.new_zeros(count, len(x), sizes[1])
