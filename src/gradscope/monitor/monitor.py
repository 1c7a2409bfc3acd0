"""`gradscope.Monitor`: the gradient's reach while a model trains."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradscope.errors import UsageError
from gradscope.monitor.ear import Ear
from gradscope.monitor.gradients import Gradients
from gradscope.monitor.layers import plain_model, watched
from gradscope.monitor.measuring import Measuring
from gradscope.monitor.record import Record
from gradscope.monitor.schedule import Clock, is_signal_due
from gradscope.monitor.untouched import untouched
from gradscope.monitor.updates import Updates
from gradscope.registry import unknown
from gradscope.trajectory import Head, Point, Trajectory

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
            budget: part of the training's time that signals and whole analyses may take; analyses wait until they fit.
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
        self.at = resume or 0
        found = watched(self.model, layers)
        self._ears = [Ear(path, layer, self._wants) for path, layer in found.items()]
        self._gradients = Gradients(
            self.model.parameters(), [p for layer in found.values() for p in layer.parameters()], self._wants
        )
        self._gradients.began = self._backward_began
        self._input_hook = None if found else self._hook_input()
        self._updates = Updates(self._gradients, self._before_update, self._after_update)
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
        self._armed, self._busy, self._failed, self._closed = is_signal_due(self.at, every), False, False, False
        self._pending: list[Point] = []
        self._fresh = False
        self._loss: float | None = None
        self._since = 0.0
        self._measuring = Measuring(self.model, self._ears, needs_lag, scaler, self._clock, self._record.note)

    # -- what the user calls ------------------------------------------------------------------------------------------

    def step(self, loss: Tensor | float | None = None, x: Tensor | None = None) -> None:
        """Note an update: after backward, before the optimizer. Both arguments are only looked at.

        Args:
            loss: its value is put beside what is measured.
            x: the batch, for models without a layer of torch.nn to watch.
        """
        self._safely(lambda: self._step(loss, x))

    def note_loss(self, loss: Tensor | float) -> None:
        """Put a loss beside what was just measured, or is about to be; measures nothing itself."""
        self._safely(lambda: self._note_loss(loss))

    @property
    def trajectory(self) -> Trajectory:
        """What was measured so far, judged."""
        return self._record.trajectory

    def close(self) -> None:
        """Measure once more what the training came to, write everything, and take the hooks away."""
        if self._closed:
            return
        self._armed = True
        self._safely(self._last)
        self._closed = True
        for ear in self._ears:
            ear.remove()
        self._gradients.remove()
        self._updates.remove()
        if self._input_hook is not None:
            self._input_hook.remove()
        self._record.close(self._clock.part(time.perf_counter()))

    def __repr__(self) -> str:
        count = len(self._record.points)
        return f"<Monitor of {self._record.head.name}: {count} points, at step {self.at}; .trajectory shows them>"

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

    def _wants(self) -> bool:
        """Whether the hooks keep what they see."""
        return self._armed and not self._busy and not self._failed

    def _step(self, loss: Tensor | float | None, x: Tensor | None) -> None:
        if loss is not None:
            self._note_loss(loss)
        if x is not None and self._armed:
            self._measuring.x = x.detach()
        # Where the optimizer's own hook comes before the update, that is when the gradient is whole.
        if self._fresh and not self._updates.is_plain:
            self._measure(self.at)
        if self._updates.happened_unseen():
            self._after_update(closure=False)

    def _hook_input(self) -> RemovableHandle:
        """Keep what a model without a layer to listen to takes in."""

        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if self._wants() and torch.is_grad_enabled() and args and isinstance(args[0], Tensor):
                self._measuring.x = args[0].detach()

        return self.model.register_forward_pre_hook(hook)

    def _note_loss(self, loss: Tensor | float) -> None:
        if not self._armed and not self._pending:
            return
        value = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
        # After the update the loss is of what is waiting; before it, of what is to be measured now too.
        self._loss = value if self._fresh else None
        if not self._fresh or any(point.step == self.at for point in self._pending):
            self._pending = [replace(point, loss=value) for point in self._pending]

    def _backward_began(self) -> None:
        if not self._busy:
            self._safely(self._begin)

    def _begin(self) -> None:
        if not self._clock.begun:
            self._clock.begun = time.perf_counter()
        if self._updates.seen and self._pending and not self._fresh and self._pending[0].step != self.at:
            self._flush()
        self._fresh = True

    def _before_update(self, closure: bool) -> None:
        """The optimizer is about to step; with a closure the backward pass is still to come."""
        if not closure:
            self._safely(lambda: self._updating(self.at))

    def _after_update(self, closure: bool) -> None:
        if closure:
            # The weights have moved on already; what is measured only now is of the next step.
            self._safely(lambda: self._updating(self.at + 1))
        if self._armed and not any(ear.fired for ear in self._ears) and self._ears and self._gradients.backwards:
            self._safely(lambda: self._record.note(SILENT))
        self.at += 1
        self._gradients.forget()
        self._armed, self._fresh = is_signal_due(self.at, self.every), False
        if self._armed:
            for ear in self._ears:
                ear.fired = False

    def _updating(self, step: int) -> None:
        """Measure what has not been measured, and what clipping left of the gradient."""
        if self._fresh:
            self._measure(step)
        self._clip()

    # -- measuring ----------------------------------------------------------------------------------------------------

    def _measure(self, step: int) -> None:
        self._fresh = False
        if not self._armed:
            return
        # One more backward pass of the same update: what was measured before it was of a part of the gradient.
        self._pending = [point for point in self._pending if point.step != step]
        self._flush()
        raw = self._gradients.raw(self._measuring.scale)
        found = self._measuring.points(step, self._since)
        self._pending = [replace(point, norms=raw, loss=self._loss) for point in found]

    def _clip(self) -> None:
        """What the update used of the gradient, beside the raw norm that the pending points hold."""
        clipped = self._gradients.clipped() if self._armed and self._pending else None
        if clipped is None:
            return
        size, cosine = clipped
        self._pending = [
            replace(p, norms=replace(p.norms, log10_clipped=size, cosine=cosine)) if p.norms is not None else p
            for p in self._pending
        ]

    def _flush(self) -> None:
        points, self._pending = self._pending, []
        for point in points:
            self._record.point(point)

    def _last(self) -> None:
        """What the training came to."""
        self._flush()
        if self.at and not any(point.step == self.at for point in self._record.points):
            self._pending = self._measuring.last(self.at)
            self._flush()

    def _safely(self, action: Callable[[], None]) -> None:
        """Do it without a trace: no random number drawn, no hook of ours fired, no error let out; on the clock."""
        if self._failed or self._closed:
            return
        was, self._busy, self._since = self._busy, True, time.perf_counter()
        try:
            with untouched() if self._armed else nullcontext():
                action()
        except Exception as error:  # whatever fails here, the training goes on
            self._failed = True
            what = f"{type(error).__name__}: {error}"
            warnings.warn(f"gradscope.Monitor stopped measuring at step {self.at}: {what}", stacklevel=3)
        finally:
            self._busy = was
            if self._clock.begun and not was:
                self._clock.spent += time.perf_counter() - self._since


def _meant(given: str) -> str:
    """One line for an argument that there is not, naming the one that was meant."""
    if given in OTHERS_SAY:
        return f"Monitor has no argument '{given}'; it is called {OTHERS_SAY[given]}="
    return unknown("argument of Monitor", given, [*inspect.signature(Monitor).parameters][:-1])
