"""A recurrence seen inside a user's module: its calls joined to one walk along time, run again as linear maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from gradscope.models.capture.known import Levels
from gradscope.models.capture.reading import Reading
from gradscope.models.cell import Cell, Linearization
from gradscope.models.recurrent import Recurrent
from gradscope.models.views import Cut


@dataclass(frozen=True, eq=False)
class Unit:
    """One layer in one direction; `layer` walks in its own order of steps, from the last input for a reverse one."""

    name: str
    layer: Linearization
    order: Tensor | None
    """Step of the input that the unit reads at each of its own steps, (T, batch); None where they are the same."""


@dataclass(frozen=True, eq=False)
class Recurrence:
    """One recurrence along one forward pass of the module it lies in."""

    name: str
    module: nn.Module
    cells: Levels
    readings: tuple[Reading, ...]

    @property
    def one_way(self) -> bool:
        """Whether it has a single direction, and so a joint state."""
        return all(len(level) == 1 for level in self.cells)

    @property
    def lengths(self) -> Tensor | None:
        """Steps of every sequence, (batch), where they differ."""
        return self.readings[0].lengths

    @cached_property
    def x(self) -> Tensor:
        """What it read, (T, batch, features), joined to the module's graph."""
        return torch.cat([reading.x for reading in self.readings])

    @cached_property
    def start(self) -> tuple[Tensor, ...]:
        """s_0 of every unit, (batch, size), joined to the graph where the module gave it."""
        if self.readings[0].start:
            return self.readings[0].start
        return tuple(cell.initial_state(self.x.shape[1]) for level in self.cells for cell in level)

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """Where the graph was opened."""
        return tuple(one for reading in self.readings for one in reading.leaves)

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """Steps that were given a state without gradient, from 1; the very first is no cut."""
        first, found = 1, []
        for place, reading in enumerate(self.readings):
            if place and reading.detached:
                found.append(first)
            first += len(reading.x)
        return tuple(found)

    @cached_property
    def levels(self) -> tuple[tuple[Unit, ...], ...]:
        """The units with their linear maps, bottom first."""
        return self.walked(self.x.detach())

    def walked(self, x: Tensor, start: Sequence[Tensor] = ()) -> tuple[tuple[Unit, ...], ...]:
        """The units along another input, (T, batch, features), from the same start or another."""
        flow, starts, found = x, iter(start or self.start), []
        with torch.no_grad():
            for level in self.cells:
                units = tuple(self._unit(cell, flow, next(starts).detach(), way) for way, cell in enumerate(level))
                flow = torch.cat([reordered(unit.layer.outputs, unit.order) for unit in units], -1)
                found.append(units)
        return tuple(found)

    def _unit(self, cell: Cell, flow: Tensor, start: Tensor, way: int) -> Unit:
        lengths = None if self.lengths is None else self.lengths.clamp_max(len(flow))
        order = backwards(len(flow), flow.shape[1], lengths).to(flow.device) if way else None
        layer: Linearization = cell.linearize(reordered(flow, order), start)
        return Unit(cell.name, Cut(layer, self.cuts) if self.cuts else layer, order)

    @property
    def output(self) -> Tensor | None:
        """What the module saw it return by step, (T, batch, features), as numbers; None for a cell."""
        parts = [reading.output for reading in self.readings if reading.output is not None]
        return torch.cat(parts) if parts else None

    def spread(self, gradients: Mapping[int, Tensor]) -> tuple[Tensor | None, tuple[Tensor | None, ...]]:
        """Gradients of the leaves by step: of the output (T, batch, features), and of every unit's states.

        The latter are (T, batch, size) in the unit's own order of steps; None where there is nothing but zeros.
        """
        spreads = [reading.spread([gradients.get(id(leaf)) for leaf in reading.leaves]) for reading in self.readings]
        outputs = [spread.output for spread in spreads]
        output = None
        if any(part is not None for part in outputs):
            shapes = [reading.output for reading in self.readings]
            output = torch.cat(
                [torch.zeros_like(s) if p is None else p for p, s in zip(outputs, shapes, strict=True) if s is not None]
            )
        ends = [self._ends([spread.ends[unit] for spread in spreads]) for unit in range(len(self.start))]
        return output, tuple(ends)

    def _ends(self, gradients: Sequence[Tensor | None]) -> Tensor | None:
        """Gradients of a unit's last states, one per reading, at the steps they belong to."""
        known = next((gradient for gradient in gradients if gradient is not None), None)
        if known is None:
            return None
        found = known.new_zeros(len(self.x), *known.shape)
        step = 0
        for reading, gradient in zip(self.readings, gradients, strict=True):
            step += len(reading.x)
            if gradient is None:
                continue
            if self.lengths is None:
                found[step - 1] = gradient
            else:
                found[self.lengths.to(found.device) - 1, torch.arange(found.shape[1], device=found.device)] = gradient
        return found

    def of_item(self, item: int) -> tuple[Recurrent, Tensor]:
        """The recurrence by itself, from the state it was given, and what it read in one sequence, (1, T, features)."""
        cells = [level[0] for level in self.cells]
        start = [state[item : item + 1].detach() for state in self.start]
        model = Recurrent(self.name, cells, start=start, cuts=self.cuts)
        return model, self.x[:, item : item + 1].detach().transpose(0, 1)


def backwards(steps: int, batch: int, lengths: Tensor | None) -> Tensor:
    """Steps from the last to the first, within the length of every sequence; what lies beyond stays in place."""
    forward = torch.arange(steps)[:, None].expand(steps, batch)
    last = (torch.full((batch,), steps) if lengths is None else lengths.cpu())[None] - 1
    return torch.where(forward <= last, last - forward, forward)


def reordered(values: Tensor, order: Tensor | None) -> Tensor:
    """Steps of (T, batch, ...) in another order; the order of `backwards` undoes itself."""
    if order is None:
        return values
    shape = (*order.shape, *(1,) * (values.ndim - 2))
    return values.gather(0, order.reshape(shape).expand_as(values))
