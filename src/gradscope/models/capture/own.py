"""A user's own cell, called step by step in a loop: known by its output state coming back as its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gradscope.models.capture.own_step import OwnStep, is_row
from gradscope.models.capture.reading import Reading, Spread, opened, zeros_or


class Suspect:
    """What was seen so far of a module that may be a cell."""

    def __init__(self) -> None:
        self.calls = 0
        self.links: dict[int, int] = {}
        """Place of a state among the arguments -> its place in the output of the call before."""
        self.steady = True
        """Whether all that is neither state nor a row of numbers stays the same from call to call."""
        self.fresh = True
        """Whether it read something new at every call, besides its state."""
        self.call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        """The arguments of the newest call."""
        self._output: list[Any] = []
        self._arguments: list[Any] = []

    def see(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Note one more call; what it returned is kept until the next, so that its storage is not given to others."""
        given, returned = pytree.tree_leaves((args, kwargs)), pytree.tree_leaves(output)
        if self.calls:
            links = _links(given, self._output)
            self.links = links if self.calls == 1 else {p: q for p, q in self.links.items() if links.get(p) == q}
            self.steady = self.steady and _same(given, self._arguments)
            self.fresh = self.fresh and _reads_new(given, self._arguments, self.links)
        self.calls, self._output, self._arguments, self.call = self.calls + 1, returned, given, (args, kwargs)

    def is_cell(self, steps: int) -> bool:
        """Whether it walked along time, one step a call, handing its state on.

        A layer that is used again and again on the whole sequence hands its output on as well. Its state has an axis
        of steps (which may be a width by chance), and it reads nothing new at its calls.
        """
        if self.calls < 2 or not self.links:
            return False
        whole = any(steps in self._arguments[p].shape[1:] for p in self.links)
        if self.calls == steps:
            return self.fresh or not whole
        return self.fresh and not whole


def _links(given: Sequence[Any], returned: Sequence[Any]) -> dict[int, int]:
    places = {_place(value): q for q, value in enumerate(returned) if is_row(value)}
    found: dict[int, int] = {}
    for p, value in enumerate(given):
        if is_row(value) and _place(value) in places and places[_place(value)] not in found.values():
            found[p] = places[_place(value)]
    return found


def _place(value: Tensor) -> tuple[int, tuple[int, ...]]:
    return value.untyped_storage().data_ptr(), tuple(value.shape)


def _same(given: Sequence[Any], before: Sequence[Any]) -> bool:
    if len(given) != len(before):
        return False
    pairs = [(a, b) for a, b in zip(given, before, strict=True) if not (is_row(a) and is_row(b))]
    return all(a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b) for a, b in pairs)


def _reads_new(given: Sequence[Any], before: Sequence[Any], links: dict[int, int]) -> bool:
    pairs = [(a, b) for p, (a, b) in enumerate(zip(given, before, strict=False)) if p not in links and is_row(a)]
    return any(
        not is_row(b) or a.shape != b.shape or a.data_ptr() != b.data_ptr() or not torch.equal(a, b) for a, b in pairs
    )


def outermost(names: Sequence[str]) -> list[str]:
    """Those that lie in none of the others."""
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names if other != name)]


def read_own(step: OwnStep, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> tuple[Any, Reading]:
    """A call of the user's cell: the states it returns become leaves, all else stays as it is."""
    x, state = step.flat(args, kwargs)
    given = pytree.tree_leaves((args, kwargs))
    returned, form = pytree.tree_flatten(output)
    originals = [returned[q] for q in step.links.values()]
    made = {id(value): opened(value) for value in originals}
    parts = tuple(made[id(value)][0] for value in originals)

    def spread(gradients: Sequence[Tensor | None]) -> Spread:
        if all(gradient is None for gradient in gradients):
            return Spread(None, (None,))
        return Spread(None, (step.joined([zeros_or(g, part) for g, part in zip(gradients, parts, strict=True)]),))

    states = tuple(given[p].clone() for p in step.links)
    reading = Reading(
        x=x[None],
        start=(state,),
        output=None,
        ends=(step.joined(parts).detach(),),
        lengths=None,
        leaves=parts,
        spread=spread,
        given=states,
        left=parts,
        detached=not any(value.requires_grad for value in states),
    )
    replaced = [made[id(value)][1] if id(value) in made else value for value in returned]
    return pytree.tree_unflatten(replaced, form), reading
