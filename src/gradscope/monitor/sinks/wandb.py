"""Weights & Biases: the numbers of each point, into the run that is there, or into a new one."""

from __future__ import annotations

from gradscope.errors import UsageError
from gradscope.monitor.sinks.logger import LoggerSink
from gradscope.trajectory import Trajectory


class WandbSink(LoggerSink):
    """`sinks=["wandb"]`."""

    def __init__(self) -> None:
        """Use the current run, or begin one.

        Raises:
            UsageError: wandb is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise UsageError("the sink 'wandb' needs the extra [wandb]: pip install wandb") from error
        self._own = wandb.run is None
        self._run = wandb.run or wandb.init(project="gradscope")
        super().__init__(self._run)

    def end(self, trajectory: Trajectory) -> None:
        """End the run that was begun here."""
        if self._own:
            self._run.finish()
