"""Keras, with any backend: `model.fit(..., callbacks=[GradientFlow(x, needs_lag=50)])`.

Callbacks of Keras are given no gradients, so there are no signals and no norms: the model is saved as it is after an
epoch, and the recurrent layer in the file analysed as `gradscope analyze model.keras` does.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import torch

from gradscope.api import analyze
from gradscope.errors import GradscopeError
from gradscope.monitor.points import point_of
from gradscope.monitor.record import Record
from gradscope.monitor.untouched import untouched
from gradscope.trajectory import Head, Trajectory


class GradientFlow(keras.callbacks.Callback):  # type: ignore[misc]
    """An analysis before the first epoch and after every `every`-th; steps are updates of the optimizer."""

    def __init__(
        self,
        x: Any = None,
        *,
        key: str | None = None,
        every: int = 1,
        needs_lag: int | None = None,
        log: str | Path | None = "flow.jsonl",
        sinks: tuple[Any, ...] = (),
        screen: bool = True,
        **settings: Any,
    ) -> None:
        """Say what to analyse.

        Args:
            x: what the layer takes, an array (batch, T, features); random numbers when absent.
            key: which recurrent layer, where there are several: `--key` of `gradscope analyze`.
            every: epochs between two analyses.
            needs_lag: how far back the task must reach.
            log: file of lines of JSON; None for none.
            sinks: as `gradscope.Monitor` takes them.
            screen: whether to tell on standard error.
            settings: more fields of `RunSpec` by name: `length=200`.
        """
        super().__init__()
        self._x = None if x is None else torch.as_tensor(x).double()
        self._settings = {**settings, "key": key, "needs_lag": needs_lag}
        self._every, self._made = every, (log, sinks, screen)
        self._record: Record | None = None

    @property
    def trajectory(self) -> Trajectory | None:
        """What was measured so far, judged."""
        return None if self._record is None else self._record.trajectory

    def on_train_begin(self, logs: Any = None) -> None:
        """Analyse the model as it was made."""
        log, sinks, screen = self._made
        head = Head("training", self.model.name, self._settings["needs_lag"], environment={"keras": keras.__version__})
        self._record = Record(head, log, sinks, screen, append=False)
        self._analyse(None)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Analyse, with the epoch's loss."""
        if (epoch + 1) % self._every == 0:
            self._analyse((logs or {}).get("loss"))

    def on_train_end(self, logs: Any = None) -> None:
        """Show the run."""
        if self._record is not None:
            self._record.close(None)

    def _analyse(self, loss: float | None) -> None:
        begun, step = time.perf_counter(), int(self.model.optimizer.iterations)
        if self._record is None:
            return
        try:
            with tempfile.TemporaryDirectory() as folder, untouched(), torch.enable_grad():
                path = Path(folder) / "model.keras"
                self.model.save(path)
                result = analyze(str(path), self._x, **self._settings).models[0]
        except GradscopeError as error:
            self._record.note(f"no analysis at step {step}: {error}")
            return
        point = point_of(result, step, seconds=round(time.perf_counter() - begun, 3))
        self._record.point(replace(point, loss=None if loss is None else float(loss)))
