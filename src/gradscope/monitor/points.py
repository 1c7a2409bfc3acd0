"""A report of one model as a point of a trajectory, and what became of the weights between two points."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from gradscope.records import ModelResult, Number, Values
from gradscope.trajectory import Change, Point

MOST = 3
"""Tensors that are named, the ones that moved most first."""
GATES = {3: ("reset", "update", "new"), 4: ("input", "forget", "cell", "output")}
"""Gates in the order of torch.nn, by how many there are."""
TELLING = ("forget", "update")
SHIFTED = 0.2
"""A gate's bias that moved less is not worth a word."""
_BIAS = re.compile(r"(.*?)bias_ih_l(\d+)((?:_reverse)?)$")


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the floating tensors with more than one number, in float32 on the CPU."""
    return {
        name: tensor.detach().to("cpu", torch.float32, copy=True)
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and tensor.layout == torch.strided and tensor.numel() > 1
    }


def changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[Change, ...]:
    """The tensors that moved most relative to their norm, then the gate biases that moved at all."""
    moved = []
    for name, new in after.items():
        old = before.get(name)
        if old is None or old.shape != new.shape:
            continue
        norm = float(old.double().norm())
        step = float((new.double() - old.double()).norm())
        if step != 0:
            moved.append(Change(name, "norm", norm, float(new.double().norm()), step / norm if norm > 0 else None))
    # What was zero has no norm to be measured by, and comes last; NaN comes first.
    moved.sort(key=lambda change: 0.0 if change.moved is None else -change.moved if change.moved > 0 else -math.inf)
    return (*moved[:MOST], *_gate_changes(before, after))


def _gate_changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[Change]:
    """Mean bias of forget and update gates of torch.nn's layers, where it moved."""
    found = []
    for name in after:
        match = _BIAS.match(name)
        if match is None or name not in before:
            continue
        other = f"{match[1]}bias_hh_l{match[2]}{match[3]}"
        hidden = _hidden(after, f"{match[1]}weight_hh_l{match[2]}{match[3]}")
        names = GATES.get(len(after[name]) // hidden) if hidden else None
        if names is None or other not in after or other not in before:
            continue
        for place, gate in enumerate(names):
            if gate in TELLING:
                rows = slice(place * hidden, (place + 1) * hidden)
                old, new = (float((held[name][rows] + held[other][rows]).mean()) for held in (before, after))
                if abs(new - old) >= SHIFTED:
                    layer = f"{match[1]}l{match[2]}{match[3]}"
                    found.append(Change(f"{gate} bias of {layer}", "mean", old, new))
    return found


def _hidden(tensors: Mapping[str, Tensor], name: str) -> int:
    return tensors[name].shape[1] if name in tensors and tensors[name].ndim == 2 else 0


PER_DECADE = (1, 1.3, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)
"""Lags of a profile that a point keeps, by powers of ten: enough for a picture, and few."""
SMALLEST_FLOAT32 = math.log10(2.0**-149)
"""log10 of the smallest number above zero in float32."""


def point_of(
    result: ModelResult,
    step: int,
    *,
    source: str = "",
    changes: tuple[Change, ...] = (),
    seconds: float | None = None,
) -> Point:
    """What a report says of its one model, as a point."""
    summary = result.summary
    profile = result.series.values.get("log10_influence", ())
    lags, kept = thinned(profile)
    found = [verdict for verdict in result.verdicts if verdict.status in ("fail", "warn")]
    found.sort(key=lambda verdict: (verdict.gives != result.status, verdict.status != "fail"))
    deciding = found[0] if found and found[0].gives == result.status else None
    return Point(
        step=step,
        kind="analysis",
        source=source,
        length=result.length,
        needed_lag=summary.needed_lag,
        gradient_share=summary.gradient_share,
        reach=summary.reach,
        rate=summary.rate,
        lyapunov=summary.lyapunov[0] if summary.lyapunov else None,
        gates=_gates(result),
        status=result.status,
        findings=tuple(verdict.code for verdict in found),
        message="" if deciding is None else deciding.message,
        advice="" if deciding is None else deciding.advice,
        lags=lags,
        log10_influence=kept,
        below_float32=below_float32(profile),
        non_finite=summary.non_finite,
        changes=changes,
        seconds=seconds,
    )


def thinned(profile: Values) -> tuple[tuple[int, ...], Values]:
    """A profile at lags 0, 1 and about ten a decade, the longest included."""
    if not profile:
        return (), ()
    last = len(profile) - 1
    wanted = {0, last} | {round(part * 10**power) for power in range(7) for part in PER_DECADE}
    lags = tuple(sorted(lag for lag in wanted if lag <= last))
    return lags, tuple(profile[lag] for lag in lags)


def below_float32(profile: Values) -> int | None:
    """The first lag >= 1 at which a gradient is too small for float32; one that is zero in any type is not meant."""
    lagged = enumerate(profile[1:], 1)
    return next((lag for lag, value in lagged if value is not None and -math.inf < value < SMALLEST_FLOAT32), None)


def _gates(result: ModelResult) -> dict[str, Number]:
    """Mean over the sequence of every gate."""
    found: dict[str, Number] = {}
    for name, values in result.series.values.items():
        known = [value for value in values if value is not None and math.isfinite(value)]
        if name.startswith("gate.") and name.endswith(".mean") and known:
            found[name.removeprefix("gate.").removesuffix(".mean")] = math.fsum(known) / len(known)
    return found
