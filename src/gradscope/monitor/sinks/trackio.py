"""trackio: the numbers of each point, into its local store."""

from __future__ import annotations

from gradscope.errors import UsageError
from gradscope.monitor.sinks.logger import LoggerSink
from gradscope.trajectory import Trajectory


class TrackioSink(LoggerSink):
    """`sinks=["trackio"]`."""

    def __init__(self) -> None:
        """Begin a run of the project `gradscope`; a run of your own is handed over itself, sinks=[run].

        Raises:
            UsageError: trackio is not installed.
        """
        try:
            import trackio
        except ImportError as error:
            raise UsageError("the sink 'trackio' needs the extra [trackio]: pip install trackio") from error
        self._finish = trackio.finish
        super().__init__(trackio.init(project="gradscope"))

    def end(self, trajectory: Trajectory) -> None:
        """End the run."""
        self._finish()
