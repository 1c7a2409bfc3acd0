"""Run a user's module as it is, and see the recurrences inside at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.models.capture.known import KNOWN, cells_of, read_cell, read_fused
from gradscope.models.capture.own import OwnStep, Suspect, holds_known, outermost, read_own
from gradscope.models.capture.reading import Reading, storages
from gradscope.models.capture.recurrence import Recurrence
from gradscope.models.custom import CustomCell
from gradscope.models.direct import Direct

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


def see(model: Direct, x: Tensor, *, search: bool = True) -> Seen:
    """One forward pass of a model for x (batch, T, ...), opened at the recurrences inside a user's module.

    Where it is not known which axis of the module's input is time, it is taken to be the second; a recurrence that
    then walks along the batch says otherwise, and the model remembers.
    """
    search = search and model.kind == "module"
    found = watch(model.module, model.run, model.laid_out(x), x.shape[1], search=search)
    if model.time_first is None:
        batch, steps = x.shape[:2]
        model.time_first = batch != steps and any(one.x.shape[:2] == (batch, steps) for one in found.recurrences)
        if model.time_first:
            return see(model, x, search=search)
    return found


def watch(module: nn.Module, call: Call, x: Tensor, steps: int, *, search: bool = True) -> Seen:
    """Run `call` on x and follow every recurrence of torch.nn in `module`, and every cell of the user's own.

    Args:
        module: what is looked into.
        call: runs it; differentiable.
        x: the input as the module takes it, floating point, or token ids.
        steps: T, which a cell of the user's own must be called for to be taken for one.
        search: whether to look for recurrences at all.
    """
    own = _own_cells(module, call, x, steps) if search else {}
    notes: dict[str, list[Reading]] = {}
    made: dict[str, OwnStep] = {}
    given: list[Tensor] = []
    with ExitStack() as hooks, torch.enable_grad():
        if x.is_floating_point():
            x = x.detach().clone().requires_grad_()
            given.append(x)
        for name, part in module.named_modules() if search else ():
            if isinstance(part, KNOWN) and not any(name == o or name.startswith(f"{o}.") for o in own):
                hooks.enter_context(hooked(part, partial(_note_known, notes.setdefault(name, []))))
            elif name in own:
                note = partial(_note_own, notes.setdefault(name, []), made, name, own[name])
                hooks.enter_context(hooked(part, note))
        for part in module.modules() if not given else ():
            if isinstance(part, nn.Embedding):
                hooks.enter_context(hooked(part, partial(_note_embedding, given, x)))
        raw = call(x)
    parts = dict(module.named_modules())
    found = [one for name, calls in notes.items() for one in _joined(name, parts[name], calls, made.get(name))]
    return Seen(raw, given[0] if given else None, tuple(found))


def _own_cells(module: nn.Module, call: Call, x: Tensor, steps: int) -> dict[str, dict[int, int]]:
    """Names of the user's own cells, each with the places of its states, from a first run."""
    suspects = {
        name: (part, Suspect())
        for name, part in module.named_modules()
        if name and not isinstance(part, (*KNOWN, torch.jit.ScriptModule)) and not holds_known(part)
    }

    def see(suspect: Suspect, part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        suspect.see(args, kwargs, output)

    with ExitStack() as hooks, torch.no_grad():
        for part, suspect in suspects.values():
            hooks.enter_context(hooked(part, partial(see, suspect)))
        call(x)
    cells = {name: suspect.links for name, (_, suspect) in suspects.items() if suspect.is_cell(steps)}
    return {name: cells[name] for name in outermost(list(cells))}


@contextmanager
def hooked(part: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """Call `hook(module, args, kwargs, output)` after every call of `part`, for a while."""
    handle = part.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _note_known(notes: list[Reading], part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    read: Any = read_cell if isinstance(part, nn.RNNCellBase) else read_fused
    replaced, reading = read(part, args, kwargs, output)
    notes.append(reading)
    return replaced


def _note_own(
    notes: list[Reading],
    made: dict[str, OwnStep],
    name: str,
    links: dict[int, int],
    part: nn.Module,
    args: Any,
    kwargs: Any,
    output: Any,
) -> Any:
    step = made.setdefault(name, OwnStep(part, links, args, kwargs))
    if not step.fits():
        return output
    replaced, reading = read_own(step, args, kwargs, output)
    notes.append(reading)
    return replaced


def _note_embedding(given: list[Tensor], ids: Tensor, part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    read = args[0] if args else kwargs.get("input")
    if given or not isinstance(read, Tensor) or not storages([read]) & storages([ids]):
        return output
    given.append(output.detach().clone().requires_grad_())
    return given[0]


def _joined(name: str, part: nn.Module, calls: list[Reading], step: OwnStep | None) -> list[Recurrence]:
    """One recurrence for every run of calls that hand their state on."""
    groups: list[list[Reading]] = []
    for reading in calls:
        one_way = not getattr(part, "bidirectional", False)
        if groups and one_way and reading.given & groups[-1][-1].left:
            groups[-1].append(reading)
        else:
            groups.append([reading])
    if step is None:
        assert isinstance(part, KNOWN)
        cells = cells_of(part)
    else:
        start = calls[0].start[0] if calls else torch.zeros(1, 0)
        cells = ((CustomCell("l0", step, start[0].detach(), calls[0].x.shape[-1]),),) if calls else ()
    names = [name or "module", *(f"{name or 'module'}#{n}" for n in range(2, len(groups) + 1))]
    return [Recurrence(n, part, cells, tuple(group)) for n, group in zip(names, groups, strict=False)]
