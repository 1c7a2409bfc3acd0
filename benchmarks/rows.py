"""Every row of the table, by the name that `--row` takes."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import found, gradients, jacobians, kills, leading, million, monitor, processes, scale, screen, sweeps
from benchmarks.figure import Figure
from benchmarks.measure import Effort

ROWS: dict[str, Callable[[Effort], list[Figure]]] = {
    "jacobians": jacobians.jacobians,
    "sweeps": sweeps.rnn,
    "sweeps-lstm": sweeps.lstm,
    "gradients": gradients.gradients,
    "leading": leading.leading,
    "million": million.million,
    "screen": screen.screen,
    "found": found.found,
    "monitor": monitor.monitor,
    "processes": processes.processes,
    "sweep-overhead": scale.overhead,
    "sweep-dispatch": scale.dispatch,
    "sweep-client": scale.client,
    "kills": kills.kills,
}
