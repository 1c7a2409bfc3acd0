"""What is measured at one training step, and whether it is due."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from gradscope.monitor.layer_recorder import LayerRecorder
from gradscope.monitor.layer_signal import Signal
from gradscope.monitor.points import changes, plain
from gradscope.monitor.whole_analysis import analyses, of_whole
from gradscope.records import Status
from gradscope.trajectory import Point, longest_lag, standing

EARLY = (0, 1, 2, 4, 8, 16, 32, 64)
"""Steps at which a signal is taken whatever the interval: a collapse can be over within 40 updates."""
ROUND = (1, 2, 5)
"""Whole analyses are due at these times powers of ten, and at step 0."""
MOVED = 1.0
"""log10: a share that moved by more brings a whole analysis forward."""


def is_signal_due(step: int, every: int) -> bool:
    """Whether a signal is taken at a step."""
    return step % every == 0 or (step in EARLY and step < every)


def is_analysis_due(step: int, last: int | None) -> bool:
    """Whether a log-spaced step has come since the last whole analysis."""
    if last is None:
        return True
    power = 10 ** int(math.log10(max(step, 1)))
    newest = max((part * power for part in ROUND if part * power <= step), default=0)
    return last < newest


def has_moved(signal: Point, before: Point | None) -> bool:
    """Whether a signal differs from the one at the last whole analysis in status, share, or side of the needed lag."""
    if before is None:
        return False
    if longest_lag(signal) != longest_lag(before):
        # Of batches of different length neither says that the other moved.
        return False
    if signal.status != before.status:
        return True
    old, new = before.gradient_share, signal.gradient_share
    if old is None or new is None:
        return (old is None) != (new is None)
    return new != old and not abs(new - old) < MOVED


class Clock:
    """What measuring has cost, beside the time that training took."""

    def __init__(self, budget: float) -> None:
        self.budget, self.begun, self.spent = budget, 0.0, 0.0

    def allows(self, cost: float, now: float) -> bool:
        """Whether something that costs so many seconds keeps measuring within its part of the training's time."""
        training = now - self.begun - self.spent
        return self.spent + cost <= self.budget * training

    def part(self, now: float) -> float | None:
        """Time spent on measuring as a part of the training's own time."""
        training = now - self.begun - self.spent
        return self.spent / training if self.begun and training > 0 else None


Standing = tuple[Status | None, bool | None]
LayerMeasurement = tuple[LayerRecorder, Signal, Point]


class Measuring:
    """Builds points from what the layers took in and got back in one update."""

    def __init__(
        self, model: nn.Module, needs_lag: int | None, scaler: Any, clock: Clock, note: Callable[[str], None]
    ) -> None:
        """Remember what to measure.

        Args:
            model: all of it, for one without a layer to listen to.
            needs_lag: as the user stated it.
            scaler: knows the loss scale of mixed precision; None for none.
            clock: says what may still be spent.
            note: called with what could not be measured, and why.
        """
        self.x: Tensor | None = None
        """The newest batch, where it is known."""
        self._model, self._needs_lag, self._scaler = model, needs_lag, scaler
        self._clock, self._note = clock, note
        self._analysed: dict[tuple[str, ...], int] = {}
        self._cost = 0.0
        self._at_analysis: dict[str, Point] = {}
        self._weights: dict[str, dict[str, Tensor]] = {}
        self._last_signal: dict[str, tuple[int, Standing, dict[str, Tensor]]] = {}
        self._said: set[tuple[str, str]] = set()

    @property
    def scale(self) -> float:
        """The loss scale that gradients carry during a backward pass."""
        return float(self._scaler.get_scale()) if self._scaler is not None else 1.0

    def points(self, recorders: Sequence[LayerRecorder], step: int, now: float) -> list[Point]:
        """Signals, and analyses where a log-spaced step has come or a signal moved, and there is time for them."""
        found = self._signals(recorders, step, before=False)
        last = self._analysed.get(_names(recorders))
        moved = any(has_moved(point, self._at_analysis.get(point.layer)) for *_, point in found)
        # The same step is measured again when another backward pass is added to it.
        wanted = last == step or is_analysis_due(step, last) or moved or not found
        if wanted and (last is None or last == step or self._clock.allows(self._cost, now)):
            return [*(point for *_, point in found), *self._analyses(recorders, step, found)]
        return [point for *_, point in found]

    def last(self, recorders: Sequence[LayerRecorder], step: int) -> list[Point]:
        """Both, with the weights as they are now, on the batch that was kept last."""
        found = self._signals(recorders, step, before=True)
        return [*(point for *_, point in found), *self._analyses(recorders, step, found)]

    def _signals(self, recorders: Sequence[LayerRecorder], step: int, *, before: bool) -> list[LayerMeasurement]:
        return [known for recorder in recorders if (known := self._signal(recorder, step, before)) is not None]

    def _signal(self, recorder: LayerRecorder, step: int, before: bool) -> LayerMeasurement | None:
        heard = recorder.heard(self.scale, before=before)
        if heard is None:
            if recorder.reason:
                self._note(f"no signal of {recorder.name}: {recorder.reason}")
            return None
        if recorder.refused:
            self._note(f"some calls of {recorder.name} are left out: {recorder.refused}")
        begun = time.perf_counter()
        try:
            signal = Signal(recorder.layer, heard, recorder.name, self._needs_lag)
        except ValueError as reason:
            self._note(f"no signal of {recorder.name}: {reason}")
            return None
        point = signal.point(step)
        if why := signal.cut_off:
            kind, text = why
            if (recorder.name, kind) not in self._said:
                self._said.add((recorder.name, kind))
                self._note(text)
        weights = plain(dict(recorder.layer.named_parameters()))
        earlier = self._last_signal.get(recorder.name)
        is_new = earlier is not None and earlier[0] < step and earlier[1] != standing(point)
        moved = changes(earlier[2], weights) if earlier is not None and is_new else ()
        self._last_signal[recorder.name] = (step, standing(point), weights)
        return recorder, signal, replace(point, changes=moved, seconds=round(time.perf_counter() - begun, 4))

    def _analyses(
        self, recorders: Sequence[LayerRecorder], step: int, found: Sequence[LayerMeasurement]
    ) -> list[Point]:
        """Whole analyses of the layers that have a signal, or of a copy of the model where none can be listened to."""
        begun = time.perf_counter()
        points, notes, weights = analyses([(recorder.layer, signal) for recorder, signal, _ in found], self._weights)
        if self.x is not None and not found and all(recorder.reason or not recorder.ran for recorder in recorders):
            points, notes, weights = of_whole(self._model, self.x, self._needs_lag, self._weights)
        elif not recorders:
            notes = ["the model has no nn.RNN, GRU or LSTM: hand the batch over, flow.step(loss, x), for analyses"]
        self._weights = weights
        if found or points or notes:
            self._cost, self._analysed[_names(recorders)] = time.perf_counter() - begun, step
            self._at_analysis |= {point.layer: point for *_, point in found}
        for text in notes:
            self._note(text)
        return [replace(point, step=step) for point in points]


def _names(recorders: Sequence[LayerRecorder]) -> tuple[str, ...]:
    return tuple(recorder.name for recorder in recorders)
