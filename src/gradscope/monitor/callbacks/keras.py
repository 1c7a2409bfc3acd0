"""Keras, with any backend: `model.fit(..., callbacks=[GradientFlow(x, needs_lag=50)])`.

Callbacks of Keras are given no gradients, so there are no signals and no norms: the model is saved as it is after an
epoch, and the recurrent layers in the file analysed as `gradscope analyze model.keras` does.
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
from gradscope.errors import GradscopeError, UsageError
from gradscope.files.keras_file import read_keras
from gradscope.isolation.caller_state import untouched
from gradscope.loading.keras_layers import recurrent_names
from gradscope.monitor.points import point_of
from gradscope.monitor.run_log import Record
from gradscope.registry import unknown
from gradscope.text import safe_text
from gradscope.trajectory import Head, Point, Trajectory


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
            x: a batch of what the model takes, token ids for one that begins with an Embedding; or what the layers
                themselves take, (batch, T, features). Random numbers when absent.
            key: the name of the one recurrent layer to analyse; all of them when absent.
            every: epochs between two analyses.
            needs_lag: how far back the task must reach.
            log: file of lines of JSON; None for none.
            sinks: as `gradscope.Monitor` takes them.
            screen: whether to tell on standard error.
            settings: more fields of `RunSpec` by name: `length=200`.
        """
        super().__init__()
        self._x, self._key, self._needs_lag = x, key, needs_lag
        self._settings = {**settings, "needs_lag": needs_lag}
        self._every, self._made = every, (log, sinks, screen)
        self._record: Record | None = None

    @property
    def trajectory(self) -> Trajectory | None:
        """What was measured so far, judged."""
        return None if self._record is None else self._record.trajectory

    def on_train_begin(self, logs: Any = None) -> None:
        """Analyse the model as it is now; one that has been trained already goes on in its log."""
        log, sinks, screen = self._made
        resumed = int(self.model.optimizer.iterations) or None
        versions = {"keras": keras.__version__}
        head = Head("training", self.model.name, self._needs_lag, environment=versions, resumed=resumed)
        self._record = Record(head, log, sinks, screen, append=resumed is not None)
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
        """A point of every layer; what cannot be measured is noted once, and never ends the training."""
        if self._record is None:
            return
        with tempfile.TemporaryDirectory() as folder, untouched(), torch.enable_grad():
            path = Path(folder) / "model.keras"
            try:
                self.model.save(path)
                for name in (names := self._names(path)):
                    point = self._point(path, name)
                    if point is not None:
                        known = None if loss is None else float(loss)
                        self._record.point(replace(point, loss=known, layer=name if names[1:] else ""))
            except Exception as error:  # Keras and its backends raise what they like; the training goes on
                self._record.note(f"no analysis: {self._said(error, path)}")

    def _names(self, path: Path) -> list[str]:
        """The layers to analyse, as the file names them.

        Raises:
            UsageError: the file holds none, or none of that name.
        """
        names = recurrent_names(read_keras(path, "Keras"))
        if not names:
            raise UsageError("the model has no SimpleRNN, GRU or LSTM")
        if self._key is None:
            return names
        if self._key.removesuffix("/forward").removesuffix("/backward") not in names:
            raise UsageError(unknown("key", self._key, [safe_text(name, 60) for name in names]))
        return [self._key]

    def _point(self, path: Path, name: str) -> Point | None:
        assert self._record is not None
        begun, step = time.perf_counter(), int(self.model.optimizer.iterations)
        try:
            result = analyze(str(path), self._input_of(name), **{**self._settings, "key": name}).models[0]
        except GradscopeError as error:
            self._record.note(f"no analysis of {name}: {self._said(error, path)}")
            return None
        return point_of(result, step, seconds=round(time.perf_counter() - begun, 3))

    def _input_of(self, name: str) -> torch.Tensor | None:
        """What the layer takes: of the model's own input by the layers before it, or `x` itself.

        Raises:
            UsageError: `x` is neither.
        """
        if self._x is None:
            return None
        found = self._x
        if self._is_for_the_model():
            try:
                layer = self.model.get_layer(name.partition("/")[0])
                # A mask that goes along is no input of the sequence.
                taken = layer.input[0] if isinstance(layer.input, list | tuple) else layer.input
                found = keras.Model(self.model.inputs, taken)(self._x, training=False)
            except Exception:  # a model that is a class of its own has no graph of its layers
                found = self._x
        given = torch.as_tensor(keras.ops.convert_to_numpy(found))
        if given.ndim != 3 or not given.is_floating_point():
            shape = tuple(given.shape)
            raise UsageError(
                f"x of shape {shape} is not what the layer takes; hand over (batch, T, features) of floats"
            )
        return given.double()

    def _is_for_the_model(self) -> bool:
        """Whether `x` has the shape of the model's input."""
        try:
            (wanted,) = (tuple(one.shape) for one in self.model.inputs)
            shape = tuple(self._x.shape)
        except (AttributeError, TypeError, ValueError):
            return True  # several inputs, a list of them, or none that are known: let the model try
        return len(wanted) == len(shape) and all(a in (None, b) for a, b in zip(wanted, shape, strict=True))

    def _said(self, error: Exception, path: Path) -> str:
        """Without the file, which is gone by then and has another name each time."""
        said = str(error) if isinstance(error, GradscopeError) else f"{type(error).__name__}: {safe_text(error, 200)}"
        return said.replace(f"'{safe_text(path)}'", "the model").replace(safe_text(path), "the model")
