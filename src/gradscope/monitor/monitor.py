"""`gradscope.Monitor`: the gradient's reach while a model trains."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.errors import UsageError
from gradscope.isolation.caller_state import untouched
from gradscope.monitor.gradients import Gradients
from gradscope.monitor.layer_recorder import Hook, LayerRecorder, plain_model, watched
from gradscope.monitor.measuring import Clock, Measuring, is_signal_due
from gradscope.monitor.run_log import Record
from gradscope.monitor.updates import Optimizers, Stream, Streams, has_optimizer, is_skipped
from gradscope.registry import unknown
from gradscope.text import counted
from gradscope.trajectory import Head, Trajectory

REPLACED = (
    "{} is no part of the model any more: what was put in its place is not watched; close this Monitor and make "
    "another one"
)
SILENT = (
    "no hook of a watched layer fired in a whole update: those that come after torch.compile never do, nor those of a "
    "layer that is not used; make the Monitor before torch.compile, or hand over the batch, flow.step(loss, x)"
)

OTHERS_SAY = {
    **dict.fromkeys(("out", "output", "file", "filename", "path"), "log"),
    **dict.fromkeys(("lag", "needed_lag"), "needs_lag"),
    **dict.fromkeys(("interval", "freq"), "every"),
}
"""Names that other tools give to what is an argument of `Monitor`."""


class Monitor:
    """Watch a model train: how far back the gradient reaches, from two lines in the loop.

        with gradscope.Monitor(model, needs_lag=50) as flow:
            for x, y in batches:
                loss = criterion(model(x), y)
                loss.backward()
                flow.step(loss, x)
                optimizer.step()

    Without `flow.step` the hooks alone do the same, but for the loss. A step of training is one update by an optimizer
    of torch, however many backward passes were accumulated into it; step 0 is the model as it was made.

    It changes no gradient, no random state and no training mode. Should measuring fail, that is one warning.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 100,
        needs_lag: int | None = None,
        log: str | Path | None = "flow.jsonl",
        sinks: Sequence[Any] = (),
        layers: Sequence[str] | None = None,
        scaler: Any = None,
        budget: float = 0.04,
        screen: bool = True,
        name: str | None = None,
        resume: int | None = None,
        **wrong: Any,
    ) -> None:
        """Attach to a model, before torch.compile.

        Args:
            model: any module; its nn.RNN, GRU and LSTM layers are watched, or, where it has none, the whole of it.
            every: updates between two signals; the first ones are taken at steps 0, 1, 2, 4 ... 64.
            needs_lag: how far back the task must reach. None: all of each sequence, and findings only warn.
            log: file of lines of JSON, written from the start; None for none.
            sinks: "tensorboard", "wandb", "trackio", a SummaryWriter, or anything with `log(dict, step=...)`.
            layers: names of the layers to watch, as in `named_modules`.
            scaler: the GradScaler of mixed precision, whose loss scale is divided out.
            budget: part of the training's time that measuring may have taken before a whole analysis is made; signals
                come every `every` updates, whatever they take.
            screen: whether to tell on standard error when something happens, and the whole run at the end.
            name: of the run.
            resume: the step to go on from, in the same log.
            wrong: nothing; a name that is none of these is refused with the one that was meant.

        Raises:
            UsageError: a name or number that cannot be.
        """
        if wrong:
            raise UsageError(_meant(next(iter(wrong))))
        if every < 1 or (needs_lag is not None and needs_lag < 1) or budget < 0:
            raise UsageError("every and needs_lag are whole numbers of at least 1, budget a part of 0 or more")
        self.model, self.every = plain_model(model), every
        self._failed, self._busy, self._closed, self._since = False, False, False, 0.0
        self._taken_last: Tensor | None = None
        """The newest batch of a model that is analysed whole, until a backward pass shows that it trains."""
        self._is_expected: bool | None = None
        """Whether an optimizer of torch has the parameters of layers that none has trained yet, once it was asked."""
        found = watched(self.model, layers)
        self._clock = Clock(budget)
        head = Head(
            origin="training",
            name=name or type(self.model).__name__,
            needed_lag=needs_lag,
            every=every,
            layers=tuple(found),
            environment={"torch": torch.__version__},
            resumed=resume,
        )
        self._record = Record(head, log, sinks, screen, append=resume is not None)
        at = resume or 0
        self._measuring = Measuring(self.model, needs_lag, scaler, self._clock, self._record.note)
        # Hooks come last: what could be refused has been, and they find everything there.
        self._gradients = Gradients(self.model, found.values(), self._added, self.fail)
        self._recorders = [
            LayerRecorder(path, layer, self._wants, self.fail, self._called, partial(self._gradients.worth, layer))
            for path, layer in found.items()
        ]
        self._streams = Streams(self.model, self._recorders, at, is_signal_due(at, every))
        self._input_hook = None if found else self.model.register_forward_pre_hook(Hook(self._taken, self.fail))
        self._optimizers = Optimizers(self._before_step, self._after_step, self.fail)
        self._gradients.attend()

    # -- what the user calls ------------------------------------------------------------------------------------------

    def step(self, loss: Tensor | float | None = None, x: Tensor | None = None) -> None:
        """Note an update: after backward, before the optimizer. Both arguments are only looked at.

        Args:
            loss: its value is put beside what is measured.
            x: the batch, for models without a layer of torch.nn to watch.
        """
        self._safely(lambda: self._step(loss, x), measures=any(stream.armed for stream in self._streams))

    def note_loss(self, loss: Tensor | float) -> None:
        """Put a loss beside what was just measured, or is about to be; measures nothing itself."""
        self._safely(lambda: self._note_loss(loss), measures=False)

    @property
    def trajectory(self) -> Trajectory:
        """What was measured so far, judged."""
        return self._record.trajectory

    @property
    def at(self) -> int:
        """Updates that were seen; of several optimizers, by the one that made most."""
        return max(stream.at for stream in self._streams)

    def close(self) -> None:
        """Measure once more what the training came to, write everything, and take the hooks away."""
        if self._closed:
            return
        for stream in self._streams:
            self._safely(partial(self._last, stream))
        self._closed = True
        for recorder in self._recorders:
            recorder.remove()
        self._gradients.release()
        self._optimizers.remove()
        if self._input_hook is not None:
            self._input_hook.remove()
        for reason in self._nothing_of():
            self._record.note(reason)
        self._record.close(self._clock.part(time.perf_counter()))

    def __repr__(self) -> str:
        held = counted(len(self._record.points), "point")
        return f"<Monitor of {self._record.head.name}: {held}, at step {self.at}; .trajectory shows them>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the run so far."""
        return self.trajectory._repr_mimebundle_(include, exclude)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._record.note(f"the training ended with {kind.__name__} after step {self.at}")
        self.close()

    # -- what the hooks call ------------------------------------------------------------------------------------------

    def _wants(self, recorder: LayerRecorder) -> bool:
        """Whether what a layer takes in is kept."""
        return not self._is_deaf and self._streams.listening(recorder).armed

    @property
    def _is_deaf(self) -> bool:
        return self._busy or self._failed or self._closed

    def _called(self, recorder: LayerRecorder | None) -> None:
        """A forward pass with a graph."""
        if self._is_deaf:
            return
        if not self._clock.begun:
            self._clock.begun = time.perf_counter()
        self._count_unseen()
        stream = self._streams.listening(recorder)
        if stream.pending and stream.pending[0].step != stream.at:
            self._safely(partial(self._flush, stream), measures=False)
        if stream.armed and not self._gradients.attends(self.model if recorder is None else recorder.layer):
            self._gradients.attend()

    def _taken(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Keep what a model without a layer to listen to takes in."""
        if module is self.model and torch.is_grad_enabled() and not self._is_deaf:
            self._called(None)
            if self._streams.listening(None).armed and args and isinstance(args[0], Tensor):
                self._taken_last = args[0].detach()

    def _added(self, over: bool) -> None:
        """A backward pass has added to gradients; once it is over within an optimizer's step, the weights move on."""
        if self._taken_last is not None:
            self._measuring.x, self._taken_last = self._taken_last, None
        if self._is_deaf or not over:
            return
        for stream in self._streams:
            if stream.optimizer is None:
                stream.weights = self._streams.weights_fingerprint(stream)
            elif stream.stepping and stream.closure:
                if stream.early or not any(p.step == stream.at for p in stream.pending):
                    self._safely(partial(self._measure, stream))
                stream.early = False

    def _before_step(self, optimizer: Optimizer, closure: bool) -> None:
        """An optimizer is about to step; with a closure the backward pass is still to come, if there was none yet."""
        if self._is_deaf or (stream := self._streams.claimed(optimizer)) is None:
            return
        stream.stepping, stream.closure, stream.strangers = True, closure, 0
        stream.early = closure and self._is_fresh(stream)
        if stream.pending and stream.pending[0].step != stream.at:
            self._safely(partial(self._flush, stream), measures=False)
        # Lightning hands a closure that does nothing over where the loop went back itself.
        if stream.armed and (not closure or stream.early):
            self._safely(partial(self._updating, stream))

    def _after_step(self, optimizer: Optimizer) -> None:
        """It has stepped."""
        stream = self._streams.of(optimizer)
        if stream is None or not stream.stepping or self._is_deaf:
            return
        stream.stepping = False
        if stream.closure and self._is_once(stream):
            # Of a closure that ran once the gradient is still there, as it was used.
            self._safely(partial(self._clip, stream))
        if not (stream.armed and is_skipped(optimizer)):
            self._updated(stream)

    # -- updates that are done ----------------------------------------------------------------------------------------

    def _is_fresh(self, stream: Stream) -> bool:
        """Whether a backward pass reached its parameters, or its layers, since it was last measured or updated."""
        return self._gradients.newest(self._streams.ids(stream)) > stream.stamp

    def _is_once(self, stream: Stream) -> bool:
        """Whether one backward pass is all that came since it was measured."""
        return bool(stream.pending) and not self._is_fresh(stream)

    def _count_unseen(self) -> None:
        """Count an update that no optimizer of torch made: the weights are others than at the last backward pass."""
        free = self._streams.free
        if free is None or free.weights is None or free.weights == self._streams.weights_fingerprint(free):
            return
        free.weights = None
        if self._is_expected is None:
            self._is_expected = has_optimizer(self._streams.ids(free))
        if self._is_expected:
            # It has not stepped yet: something moves the weights and back, as sharpness-aware minimization does.
            return
        if self._is_fresh(free):
            self._safely(partial(self._measure, free))
        self._updated(free)

    def _holds(self, recorder: LayerRecorder) -> bool:
        """Whether the layer is still a part of the model."""
        return any(part is recorder.layer for part in self.model.modules())

    def _updated(self, stream: Stream) -> None:
        """An update is done."""
        if stream.armed and stream.recorders and not any(recorder.ran for recorder in stream.recorders):
            self._safely(lambda: self._record.note(SILENT))
        for recorder in stream.recorders if stream.armed else ():
            if not recorder.ran and not self._holds(recorder):
                self._safely(partial(self._record.note, REPLACED.format(recorder.name)))
            recorder.settle()
        was, stream.at, stream.loss = stream.armed, stream.at + 1, None
        stream.armed = is_signal_due(stream.at, self.every)
        if was or stream.armed:
            ids = self._streams.ids(stream)
            stream.stamp = self._gradients.newest(ids)
            self._gradients.forget(ids)
        if any(one.armed or one.optimizer is None for one in self._streams):
            self._gradients.attend()
        else:
            self._gradients.release()

    # -- measuring ----------------------------------------------------------------------------------------------------

    def _step(self, loss: Tensor | float | None, x: Tensor | None) -> None:
        self._count_unseen()
        if loss is not None:
            self._note_loss(loss)
        if x is not None and any(stream.armed for stream in self._streams):
            if isinstance(x, Tensor):
                self._measuring.x = x.detach()
            else:
                self._record.note(f"flow.step was handed a {type(x).__name__} as x and leaves it out; x is a tensor")
        free = self._streams.free
        # Where an optimizer's own hook comes before the update, that is when the gradient is whole.
        if free is not None and not any(point.step == free.at for point in free.pending) and self._is_fresh(free):
            self._measure(free)

    def _note_loss(self, loss: Tensor | float) -> None:
        if not any(stream.armed or stream.pending for stream in self._streams):
            return
        try:
            value = _number(loss)
        except (TypeError, ValueError, RuntimeError):
            self._record.note(f"flow.step was handed a {type(loss).__name__} as a loss and leaves it out")
            return
        for stream in self._streams:
            if stream.stepping and stream.pending:
                # Of the passes of a closure the first has the weights of this step.
                stream.pending = [replace(p, loss=value if p.loss is None else p.loss) for p in stream.pending]
            elif stream.armed and self._is_fresh(stream):
                stream.loss = value
                stream.pending = [replace(p, loss=value) if p.step == stream.at else p for p in stream.pending]
            elif stream.pending:
                # After the update the loss is of what is waiting.
                stream.pending = [replace(point, loss=value) for point in stream.pending]
            elif stream.armed:
                stream.loss = value

    def _updating(self, stream: Stream) -> None:
        """Measure what has not been measured, and what clipping left of the gradient."""
        if self._is_fresh(stream) or not stream.pending:
            self._measure(stream)
        self._clip(stream)

    def _measure(self, stream: Stream) -> None:
        if not stream.armed:
            return
        # One more backward pass of the same update: what was measured before it was of a part of the gradient.
        stream.pending = [point for point in stream.pending if point.step != stream.at]
        self._flush(stream)
        ids = self._streams.ids(stream)
        stream.stamp = self._gradients.newest(ids)
        scale = self._measuring.scale
        raw = self._gradients.raw(ids, scale)
        if self._gradients.dropped and scale != 1.0:
            self._record.note(
                f"the loss scaler skipped updates before step {stream.at}: their gradients are thrown away"
            )
        self._gradients.dropped = False
        found = self._measuring.points(stream.recorders, stream.at, self._since)
        stream.pending = [replace(point, norms=raw, loss=stream.loss) for point in found]

    def _clip(self, stream: Stream) -> None:
        """What the update used of the gradient, beside the raw norm that the pending points hold."""
        if not stream.armed or not any(point.step == stream.at for point in stream.pending):
            return
        optimizer = stream.optimizer() if stream.optimizer is not None else None
        ids = self._streams.ids(stream)
        # Whose parameters count is known only now where this is the optimizer's first step.
        norms = self._gradients.raw(ids, self._measuring.scale)
        clipped = self._gradients.clipped(ids, optimizer)
        if norms is not None and clipped is not None:
            norms = replace(norms, log10_clipped=clipped[0], cosine=clipped[1])
        stream.pending = [replace(point, norms=norms) for point in stream.pending]

    def _flush(self, stream: Stream) -> None:
        points, stream.pending = stream.pending, []
        for point in points:
            self._record.point(point)

    def _last(self, stream: Stream) -> None:
        """What the training came to."""
        self._count_unseen()
        if stream.armed and not stream.pending and not self._record.points and self._is_fresh(stream):
            self._measure(stream)
        self._flush(stream)
        names = {recorder.name for recorder in stream.recorders}
        known = [p for p in self._record.points if p.step == stream.at and (p.layer in names or not names)]
        if stream.at and not known:
            stream.pending = self._measuring.last(stream.recorders, stream.at)
            self._flush(stream)

    def _nothing_of(self) -> list[str]:
        """Why nothing was measured of a layer, or of the model."""
        points, notes = self._record.points, self._record.notes
        if self._failed:
            return []
        if not self._recorders and not points:
            return [] if notes else ["nothing was measured: no backward pass and no update of the model was seen"]
        found = []
        for recorder in self._recorders:
            told = any(note.startswith(f"no signal of {recorder.name}:") for note in notes)
            if told or any(point.layer == recorder.name for point in points):
                continue
            if SILENT not in notes:
                found.append(f"nothing was measured of {recorder.name}: {recorder.silence}")
        return found

    def _safely(self, action: Callable[[], None], *, measures: bool = True) -> None:
        """Do it without a trace: no random number drawn, no hook of ours fired, no error let out; on the clock."""
        if self._failed or self._closed:
            return
        was, self._busy, self._since = self._busy, True, time.perf_counter()
        try:
            with untouched() if measures else nullcontext():
                action()
        except Exception as error:  # whatever fails here, the training goes on
            self.fail(error)
        finally:
            self._busy = was
            if self._clock.begun and not was:
                self._clock.spent += time.perf_counter() - self._since

    def fail(self, error: Exception) -> None:
        """Stop measuring, with one warning."""
        if not self._failed and not self._closed:
            self._failed = True
            what = f"stopped measuring at step {self.at}: {type(error).__name__}: {error}"
            with suppress(Exception):  # a warning that is made an error ends no training
                warnings.warn(f"gradscope.Monitor {what}", stacklevel=3)
            with suppress(Exception):
                self._record.note(what)


def _number(loss: Tensor | float) -> float:
    """A loss as a number: of one that is not reduced, its mean."""
    return float(loss.detach().double().mean()) if isinstance(loss, Tensor) else float(loss)


def _meant(given: str) -> str:
    """One line for an argument that there is not, naming the one that was meant."""
    if given in OTHERS_SAY:
        return f"Monitor has no argument '{given}'; it is called {OTHERS_SAY[given]}="
    return unknown("argument of Monitor", given, [*inspect.signature(Monitor).parameters][:-1])
