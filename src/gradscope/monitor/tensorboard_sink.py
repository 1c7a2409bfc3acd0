"""TensorBoard: a curve per quantity, and at the end the influence over lags and training steps as an image."""

from __future__ import annotations

import math
from typing import Any

import torch

from gradscope.errors import UsageError
from gradscope.monitor.sinks import finite, scalars
from gradscope.profile import Profile
from gradscope.records import Number
from gradscope.trajectory import Head, Point, Trajectory

FLOOR = -12.0
"""log10 of the influence, relative to lag 1, that is drawn black."""
LEAST = 240
"""Pixels that an image has a side, at least."""


class TensorBoardSink:
    """`sinks=["tensorboard"]` writes to `runs/`; hand over a SummaryWriter for another place."""

    def __init__(self, writer: Any = None) -> None:
        """Use a writer, or make one.

        Raises:
            UsageError: tensorboard is not installed.
        """
        if writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UsageError("the sink 'tensorboard' needs the extra [tensorboard]") from error
            writer = SummaryWriter()
        self._writer = writer

    def begin(self, head: Head) -> None:
        """The run's name."""
        self._writer.add_text("gradscope/run", head.name)

    def point(self, point: Point) -> None:
        """Its numbers."""
        for name, value in finite(scalars(point)).items():
            self._writer.add_scalar(name, value, point.step)

    def note(self, text: str) -> None:
        """As text."""
        self._writer.add_text("gradscope/notes", text)

    def end(self, trajectory: Trajectory) -> None:
        """The images: a band per lag that was kept, a column per point; signals and whole analyses have one each."""
        last = trajectory.points[-1].step if trajectory.points else 0
        for layer, kind in dict.fromkeys((point.layer, point.kind) for point in trajectory.points):
            picture = image([point for point in trajectory.points if (point.layer, point.kind) == (layer, kind)])
            if picture is not None:
                self._writer.add_image(f"gradscope/{layer or 'model'}/influence", picture, last, dataformats="HW")
        self._writer.flush()


def image(points: list[Point]) -> torch.Tensor | None:
    """Influence relative to lag 1 in 0..1, the newest lag on top, (height, width); None where there is nothing.

    Every lag and point is drawn at least so large that the image has `LEAST` pixels a side.
    """
    kept = [point for point in points if len(point.lags) > 1]
    if not kept:
        return None
    lags = max((point.lags for point in kept), key=len)
    columns = []
    for point in kept:
        known = dict(zip(point.lags, point.log10_influence, strict=True))
        reference = Profile(point.lags[-1] + 1, [known.get(lag) for lag in range(point.lags[-1] + 1)]).reference
        columns.append([_brightness(known.get(lag), reference) for lag in lags])
    drawn = torch.tensor(columns).T
    high, wide = (max(1, -(-LEAST // side)) for side in drawn.shape)
    return drawn.repeat_interleave(high, 0).repeat_interleave(wide, 1).contiguous()


def _brightness(value: Number, reference: float) -> float:
    """1 for all that is at least the reference, 0 at `FLOOR` below it, and for what is zero or not known."""
    if value is None or math.isnan(value):
        return 0.0
    return 1 - max(0.0, min(1.0, (value - reference) / FLOOR))
