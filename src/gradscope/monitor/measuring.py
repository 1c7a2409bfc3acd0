"""What is measured at one step: a signal of every layer, and a whole analysis where one is due and affordable."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from gradscope.monitor.ear import Ear
from gradscope.monitor.schedule import Clock, has_moved, is_analysis_due
from gradscope.monitor.signal import measured
from gradscope.monitor.weights import changes, plain
from gradscope.monitor.whole import analyses
from gradscope.records import Status
from gradscope.trajectory import Point, standing

Standing = tuple[Status | None, bool | None]


class Measuring:
    """Turns what the ears heard into points."""

    def __init__(
        self,
        model: nn.Module,
        ears: Sequence[Ear],
        needs_lag: int | None,
        scaler: Any,
        clock: Clock,
        note: Callable[[str], None],
    ) -> None:
        """Remember what to measure.

        Args:
            model: all of it, for one without a layer to listen to.
            ears: one for each watched layer.
            needs_lag: as the user stated it.
            scaler: knows the loss scale of mixed precision; None for none.
            clock: says what may still be spent.
            note: called with what could not be measured, and why.
        """
        self.x: Tensor | None = None
        """The newest batch, where it is known."""
        self._model, self._ears, self._needs_lag, self._scaler = model, ears, needs_lag, scaler
        self._clock, self._note = clock, note
        self._analysed: int | None = None
        self._cost = 0.0
        self._at_analysis: dict[str, Point] = {}
        self._weights: dict[str, dict[str, Tensor]] = {}
        self._last_signal: dict[str, tuple[Standing, dict[str, Tensor]]] = {}

    @property
    def scale(self) -> float:
        """The loss scale that gradients carry during a backward pass."""
        return float(self._scaler.get_scale()) if self._scaler is not None else 1.0

    def points(self, step: int, now: float) -> list[Point]:
        """Signals, and analyses where a log-spaced step has come or a signal moved, and there is time for them."""
        signals = self._signals(step)
        moved = any(has_moved(point, self._at_analysis.get(point.layer)) for point in signals)
        wanted = is_analysis_due(step, self._analysed) or moved or not signals
        if wanted and (self._analysed is None or self._clock.allows(self._cost, now)):
            return [*signals, *self._analyses(step, signals)]
        return signals

    def last(self, step: int) -> list[Point]:
        """Both, with the weights as they are now, on the batch that was kept last."""
        signals = self._signals(step)
        return [*signals, *self._analyses(step, signals)]

    def _signals(self, step: int) -> list[Point]:
        return [point for ear in self._ears if (point := self._signal(ear, step)) is not None]

    def _signal(self, ear: Ear, step: int) -> Point | None:
        heard = ear.heard(self.scale)
        if heard is None:
            if ear.reason:
                self._note(f"no signal of {ear.name}: {ear.reason}")
            return None
        begun = time.perf_counter()
        try:
            point = measured(ear.layer, heard, step, ear.name, self._needs_lag)
        except ValueError as reason:
            self._note(f"no signal of {ear.name}: {reason}")
            return None
        weights = plain(dict(ear.layer.named_parameters()))
        before, self._last_signal[ear.name] = self._last_signal.get(ear.name), (standing(point), weights)
        moved = changes(before[1], weights) if before is not None and before[0] != standing(point) else ()
        return replace(point, changes=moved, seconds=round(time.perf_counter() - begun, 4))

    def _analyses(self, step: int, signals: Sequence[Point]) -> list[Point]:
        """Whole analyses of the watched layers, or of a copy of the model."""
        begun = time.perf_counter()
        found, notes, self._weights = analyses(
            self._model, self._ears, self.x, self.scale, self._needs_lag, self._weights
        )
        self._cost, self._analysed = time.perf_counter() - begun, step
        self._at_analysis = {point.layer: point for point in signals}
        for text in notes:
            self._note(text)
        return [replace(point, step=step) for point in found]
