"""TensorBoard: a curve per quantity, and at the end the influence over lags and training steps as an image."""

from __future__ import annotations

from typing import Any

import torch

from gradscope.errors import UsageError
from gradscope.monitor.sinks.scalars import finite, scalars
from gradscope.trajectory import Head, Point, Trajectory

FLOOR = -12.0
"""log10 of the influence, relative to lag 1, that is drawn black."""


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
        """The image: a row per lag that was kept, a column per point."""
        last = trajectory.points[-1].step if trajectory.points else 0
        for layer in dict.fromkeys(point.layer for point in trajectory.points):
            picture = image([point for point in trajectory.points if point.layer == layer])
            if picture is not None:
                self._writer.add_image(f"gradscope/{layer or 'model'}/influence", picture, last, dataformats="HW")
        self._writer.flush()


def image(points: list[Point]) -> torch.Tensor | None:
    """Influence relative to lag 1 in 0..1, (lags, points), the newest lag on top; None where there is nothing."""
    kept = [point for point in points if len(point.lags) > 1]
    if not kept:
        return None
    lags = max((point.lags for point in kept), key=len)
    columns = []
    for point in kept:
        known = dict(zip(point.lags, point.log10_influence, strict=True))
        reference = known.get(1) or 0.0
        relative = [(known.get(lag) if known.get(lag) is not None else float("-inf")) for lag in lags]
        columns.append([1 - max(0.0, min(1.0, ((value or 0.0) - reference) / FLOOR)) for value in relative])
    return torch.tensor(columns).T.contiguous()
