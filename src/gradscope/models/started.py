"""A cell that starts from a state the user gives, not from zeros."""

from __future__ import annotations

from torch import Tensor

from gradscope.errors import UsageError
from gradscope.models.cell import Cell, Linearization


class StartedCell:
    """Another cell in everything but its s_0."""

    def __init__(self, cell: Cell, first: Tensor, item: int) -> None:
        """Take s_0 as (rows, state_size): one row for all sequences, or one for each; `item` is the one shown alone."""
        self.inner, self.first, self.item = cell, first, item
        self.name, self.parameters = cell.name, cell.parameters
        self.input_size, self.state_size, self.output_size = cell.input_size, cell.state_size, cell.output_size

    def initial_state(self, batch: int) -> Tensor:
        """s_0, (batch, state_size).

        Raises:
            UsageError: as many states as sequences are needed, or one.
        """
        return rows_for(self.first, batch, self.item).clone()

    def step(self, x: Tensor, s: Tensor) -> Tensor:
        """s_t."""
        return self.inner.step(x, s)

    def output(self, x: Tensor, s: Tensor) -> Tensor:
        """y_t."""
        return self.inner.output(x, s)

    def linearize(self, x: Tensor, s0: Tensor) -> Linearization:
        """Run over x (T, batch, I)."""
        return self.inner.linearize(x, s0)


def rows_for(first: Tensor, batch: int, item: int) -> Tensor:
    """The states of `batch` sequences out of one row for all or one row for each; of a single sequence, row `item`.

    Raises:
        UsageError: the numbers of states and sequences do not go together.
    """
    if len(first) == 1:
        return first.expand(batch, -1)
    if batch == 1 and item < len(first):
        return first[item : item + 1]
    if len(first) != batch:
        raise UsageError(f"--state holds {len(first)} states for {batch} sequences; give one state, or one for each")
    return first
