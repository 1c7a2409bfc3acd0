"""A user's own cell, called step by step in a loop: known by its output state coming back as its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gradscope.models.capture.known import KNOWN
from gradscope.models.capture.reading import Reading, Spread, leaf, storages, zeros_or


class Suspect:
    """What was seen so far of a module that may be a cell."""

    def __init__(self) -> None:
        self.calls = 0
        self.links: dict[int, int] = {}
        """Place of a state among the arguments -> its place in the output of the call before."""
        self.steady = True
        """Whether all that is neither state nor a row of numbers stays the same from call to call."""
        self._output: list[Any] = []
        self._arguments: list[Any] = []

    def see(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Note one more call; what it returned is kept until the next, so that its storage is not given to others."""
        given, returned = pytree.tree_leaves((args, kwargs)), pytree.tree_leaves(output)
        if self.calls:
            links = _links(given, self._output)
            self.links = links if self.calls == 1 else {p: q for p, q in self.links.items() if links.get(p) == q}
            self.steady = self.steady and _same(given, self._arguments)
        self.calls, self._output, self._arguments = self.calls + 1, returned, given

    def is_cell(self, steps: int) -> bool:
        """Whether it walked along the sequence, one step a call, handing its state on."""
        return self.calls == steps > 1 and bool(self.links) and self.steady


def _links(given: Sequence[Any], returned: Sequence[Any]) -> dict[int, int]:
    places = {_place(value): q for q, value in enumerate(returned) if _is_row(value)}
    return {p: places[_place(value)] for p, value in enumerate(given) if _is_row(value) and _place(value) in places}


def _is_row(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 1 and value.numel() > 0


def _place(value: Tensor) -> tuple[int, tuple[int, ...]]:
    return value.untyped_storage().data_ptr(), tuple(value.shape)


def _same(given: Sequence[Any], before: Sequence[Any]) -> bool:
    if len(given) != len(before):
        return False
    pairs = [(a, b) for a, b in zip(given, before, strict=True) if not (_is_row(a) and _is_row(b))]
    return all(a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b) for a, b in pairs)


def outermost(names: Sequence[str]) -> list[str]:
    """Those that lie in none of the others."""
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names if other != name)]


def holds_known(module: nn.Module) -> bool:
    """Whether a recurrence of torch.nn lies inside, which can be followed better by itself."""
    return any(isinstance(part, KNOWN) for part in module.modules())


class OwnStep(nn.Module):
    """The user's cell as step(x, s) -> s on rows: arguments and states side by side, each (batch, numbers)."""

    def __init__(self, module: nn.Module, links: dict[int, int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the shapes from one call."""
        super().__init__()
        self.inner = module
        self.links = links
        self.given, self.form = pytree.tree_flatten((args, kwargs))
        self.rows = [p for p, value in enumerate(self.given) if _is_row(value) and p not in links]

    @property
    def widths(self) -> tuple[list[int], list[int]]:
        """Numbers in every input and every state, for one sequence."""
        return [self.given[p][0].numel() for p in self.rows], [self.given[p][0].numel() for p in self.links]

    def fits(self) -> bool:
        """Whether all inputs and states have one row a sequence."""
        return len({len(self.given[p]) for p in (*self.rows, *self.links)}) == 1

    def flat(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """X (batch, I) and s (batch, S) of one call."""
        given = pytree.tree_leaves((args, kwargs))
        state = torch.cat([given[p].flatten(1) for p in self.links], -1)
        rows = [given[p].flatten(1) for p in self.rows]
        return torch.cat(rows, -1) if rows else state[:, :0], state

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """The new state."""
        given, (inputs, states) = list(self.given), self.widths
        places = (*self.rows, *self.links)
        for p, part in zip(places, (*x.split(inputs, -1), *s.split(states, -1)), strict=True):
            given[p] = part.reshape(len(part), *self.given[p].shape[1:])
        args, kwargs = pytree.tree_unflatten(given, self.form)
        returned = pytree.tree_leaves(self.inner(*args, **kwargs))
        return torch.cat([returned[q].flatten(1) for q in self.links.values()], -1)


def read_own(step: OwnStep, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> tuple[Any, Reading]:
    """A call of the user's cell: the states it returns become leaves, all else stays as it is."""
    x, state = step.flat(args, kwargs)
    given = pytree.tree_leaves((args, kwargs))
    returned, form = pytree.tree_flatten(output)
    originals = [returned[q] for q in step.links.values()]
    leaves = {id(value): leaf(value) for value in originals}
    parts = tuple(leaves[id(value)] for value in originals)

    def spread(gradients: Sequence[Tensor | None]) -> Spread:
        if all(gradient is None for gradient in gradients):
            return Spread(None, (None,))
        return Spread(
            None, (torch.cat([zeros_or(g, p).flatten(1) for g, p in zip(gradients, parts, strict=True)], -1),)
        )

    states = [given[p] for p in step.links]
    reading = Reading(
        x=x[None],
        start=(state,),
        output=None,
        ends=(torch.cat([part.flatten(1) for part in parts], -1).detach(),),
        lengths=None,
        leaves=parts,
        spread=spread,
        given=storages(states),
        left=storages(parts),
        detached=not any(value.requires_grad for value in states),
    )
    return pytree.tree_unflatten([leaves.get(id(value), value) for value in returned], form), reading
