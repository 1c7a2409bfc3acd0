"""Run a user's module as it is, and see the recurrences inside at work: calls joined along time, as linear maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.models.cell import Cell, Linearization
from gradscope.models.fused_call import Levels, RecurrenceCall, cells_of, handed_on, is_known, read_cell, read_fused
from gradscope.models.input_leaf import Embeddings, Tables, given
from gradscope.models.stack import Recurrent, WithDetachedSteps
from gradscope.models.user_modules import gradients_wanted
from gradscope.models.whole_module import WholeModule


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
    readings: tuple[RecurrenceCall, ...]

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
        return Unit(cell.name, WithDetachedSteps(layer, self.cuts) if self.cuts else layer, order)

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


Call = Callable[[Tensor], Any]


@dataclass(frozen=True, eq=False)
class OpenedPass:
    """One forward pass of a module with its graph opened at every recurrence."""

    raw: Any
    """What the module returned."""
    given: Tensor | None
    """The leaf that influence is measured on: the input, or what the embedding made of its tokens; as the module saw
    it. None where tokens went in and no embedding read them."""
    recurrences: tuple[Recurrence, ...]
    """In the order of their first calls."""
    again: Any = None
    """What the module returned for the same input in a run before."""


@dataclass
class _Note:
    """What is gathered about one part of a module: the readings of its calls, and its cells."""

    readings: list[RecurrenceCall] = field(default_factory=list)
    cells: Levels = ()


def run_opened(model: WholeModule, x: Tensor, *, search: bool = True) -> OpenedPass:
    """One forward pass of a model for x (batch, T, ...), opened at the recurrences inside a user's module.

    Where it is not known which axis of the module's input is time, it is taken to be the second. Recurrences that then
    walk along the batch say otherwise, if what the module returns fits that; the model remembers.
    """
    search = search and model.kind == "module" and not model.closed
    call = partial(model.run, copied=True)
    found = run_hooked(model.module, call, model.laid_out(x), x.shape[1], model.tables, search=search)
    if model.time_first is None and found.recurrences:
        batch, steps = x.shape[:2]
        model.time_first = False
        walked = found
        if batch == steps > 2:
            # With a step less it shows which axis they walk along.
            steps -= 1
            with suppress(UsageError):
                walked = run_hooked(model.module, call, x[:, 1:], steps, model.tables)
        if batch != steps and all(one.x.shape[:2] == (batch, steps) for one in walked.recurrences):
            return _turned(model, x, found)
    return found


def _turned(model: WholeModule, x: Tensor, found: OpenedPass) -> OpenedPass:
    """The pass with time first, where what the module returns has its sequences there; else the pass as it was."""
    model.time_first = True
    try:
        turned = run_hooked(model.module, partial(model.run, copied=True), model.laid_out(x), x.shape[1], model.tables)
        fits = model.fits(turned.raw, x, time_first=True)
    except UsageError:
        fits = False
    if not fits:
        model.time_first = False
        return found
    model.turn(guessed=model.fits(found.raw, x, time_first=False))
    return turned


def run_hooked(
    module: nn.Module, call: Call, x: Tensor, steps: int, tables: Tables, *, search: bool = True
) -> OpenedPass:
    """Run `call` on x and follow every recurrence of torch.nn in `module`.

    Args:
        module: what is looked into.
        call: runs it; differentiable, and may write into what it is given.
        x: the input as the module takes it, floating point, or token ids.
        steps: T.
        tables: of embeddings, as known from passes before.
        search: whether to look for recurrences at all.
    """
    notes: dict[str, _Note] = {}
    own = given(module, x, tables)
    with ExitStack() as hooks, torch.enable_grad():
        for name, part in module.named_modules() if search else ():
            if is_known(part):
                hooks.enter_context(hooked(part, partial(_note_known, notes.setdefault(name, _Note()))))
        if not x.is_floating_point():
            hooks.enter_context(gradients_wanted(module))
            hooks.enter_context(Embeddings(own))
        raw = call(own.taken)
    if own.outgrown:
        return run_hooked(module, call, x, steps, tables, search=search)
    parts = dict(module.named_modules())
    found = [one for name, note in notes.items() for one in _joined(name, parts[name], note)]
    again = None
    if found:
        with torch.no_grad():
            again = call(x.clone())
    return OpenedPass(raw, own.leaf, tuple(found), again)


@contextmanager
def hooked(part: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """Call `hook(module, args, kwargs, output)` after every call of `part`, for a while."""
    handle = part.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _note_known(note: _Note, part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    if not torch.is_grad_enabled():
        return output
    read: Any = read_cell if isinstance(part, nn.RNNCellBase) else read_fused
    replaced, reading = read(part, args, kwargs, output)
    if not note.readings:
        assert isinstance(part, nn.RNNBase | nn.RNNCellBase)
        note.cells = cells_of(part)
    note.readings.append(reading)
    return replaced


def _joined(name: str, part: nn.Module, note: _Note) -> list[Recurrence]:
    """One recurrence for every run of calls that hand their state on."""
    groups: list[list[RecurrenceCall]] = []
    for reading in note.readings:
        if groups and not getattr(part, "bidirectional", False) and handed_on(groups[-1][-1], reading):
            groups[-1].append(reading)
        else:
            groups.append([reading])
    shown = name.replace("_orig_mod.", "").removesuffix("._orig_mod") or "module"
    names = [shown, *(f"{shown}#{n}" for n in range(2, len(groups) + 1))]
    return [Recurrence(n, part, note.cells, tuple(group)) for n, group in zip(names, groups, strict=False)]
