"""Run a user's module as it is, and see the recurrences inside at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.models.capture.given import Embeddings, Tables, given
from gradscope.models.capture.handover import handed_on
from gradscope.models.capture.known import Levels, cells_of, is_known, read_cell, read_fused
from gradscope.models.capture.reading import Reading
from gradscope.models.capture.recurrence import Recurrence
from gradscope.models.direct import Direct
from gradscope.models.user_modules import gradients_wanted

Call = Callable[[Tensor], Any]


@dataclass(frozen=True, eq=False)
class Seen:
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

    readings: list[Reading] = field(default_factory=list)
    cells: Levels = ()


def see(model: Direct, x: Tensor, *, search: bool = True) -> Seen:
    """One forward pass of a model for x (batch, T, ...), opened at the recurrences inside a user's module.

    Where it is not known which axis of the module's input is time, it is taken to be the second. Recurrences that then
    walk along the batch say otherwise, if what the module returns fits that; the model remembers.
    """
    search = search and model.kind == "module" and not model.closed
    call = partial(model.run, copied=True)
    found = watch(model.module, call, model.laid_out(x), x.shape[1], model.tables, search=search)
    if model.time_first is None and found.recurrences:
        batch, steps = x.shape[:2]
        model.time_first = False
        walked = found
        if batch == steps > 2:
            # With a step less it shows which axis they walk along.
            steps -= 1
            with suppress(UsageError):
                walked = watch(model.module, call, x[:, 1:], steps, model.tables)
        if batch != steps and all(one.x.shape[:2] == (batch, steps) for one in walked.recurrences):
            return _turned(model, x, found)
    return found


def _turned(model: Direct, x: Tensor, found: Seen) -> Seen:
    """The pass with time first, where what the module returns has its sequences there; else the pass as it was."""
    model.time_first = True
    try:
        turned = watch(model.module, partial(model.run, copied=True), model.laid_out(x), x.shape[1], model.tables)
        fits = model.fits(turned.raw, x, time_first=True)
    except UsageError:
        fits = False
    if not fits:
        model.time_first = False
        return found
    model.turn(guessed=model.fits(found.raw, x, time_first=False))
    return turned


def watch(module: nn.Module, call: Call, x: Tensor, steps: int, tables: Tables, *, search: bool = True) -> Seen:
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
        return watch(module, call, x, steps, tables, search=search)
    parts = dict(module.named_modules())
    found = [one for name, note in notes.items() for one in _joined(name, parts[name], note)]
    again = None
    if found:
        with torch.no_grad():
            again = call(x.clone())
    return Seen(raw, own.leaf, tuple(found), again)


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
    groups: list[list[Reading]] = []
    for reading in note.readings:
        if groups and not getattr(part, "bidirectional", False) and handed_on(groups[-1][-1], reading):
            groups[-1].append(reading)
        else:
            groups.append([reading])
    shown = name.replace("_orig_mod.", "").removesuffix("._orig_mod") or "module"
    names = [shown, *(f"{shown}#{n}" for n in range(2, len(groups) + 1))]
    return [Recurrence(n, part, note.cells, tuple(group)) for n, group in zip(names, groups, strict=False)]
