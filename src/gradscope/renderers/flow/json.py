"""The trajectory as one JSON object, its verdicts included."""

from __future__ import annotations

from gradscope.renderers.json import written
from gradscope.renderers.view import View
from gradscope.trajectory import Trajectory


def render(trajectory: Trajectory, view: View) -> str:
    """Non-finite floats by name, unknown as null; `view` changes nothing: data are data."""
    return written(trajectory) + "\n"
