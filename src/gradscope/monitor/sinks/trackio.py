"""trackio: the numbers of each point, into the run that is there, or into a new one."""

from __future__ import annotations

from gradscope.errors import UsageError
from gradscope.monitor.sinks.logger import LoggerSink
from gradscope.trajectory import Trajectory


class TrackioSink(LoggerSink):
    """`sinks=["trackio"]`."""

    def __init__(self) -> None:
        """Use the current run, or begin one of the project `gradscope`.

        Raises:
            UsageError: trackio is not installed.
        """
        try:
            import trackio
        except ImportError as error:
            raise UsageError("the sink 'trackio' needs the extra [trackio]: pip install trackio") from error
        current = trackio.context_vars.current_run.get()
        self._finish = trackio.finish if current is None else None
        super().__init__(trackio.init(project="gradscope") if current is None else current)

    def end(self, trajectory: Trajectory) -> None:
        """End the run that was begun here."""
        if self._finish is not None:
            self._finish()
