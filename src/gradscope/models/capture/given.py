"""What a module is given, as a leaf that gradients arrive at: features, or what its embeddings make of tokens."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Tables = dict[Hashable, slice]
"""Which features of the leaf belong to which table of embeddings, by what the table is made of."""


class Given(Protocol):
    """The input of one pass."""

    taken: Tensor
    """What the module is called with."""

    @property
    def leaf(self) -> Tensor | None:
        """Where the gradient arrives."""
        ...

    @property
    def outgrown(self) -> bool:
        """Whether a table was read that the leaf has no features for: the pass is to be made again."""
        ...

    def embedded(self, args: Any, kwargs: Any, output: Any) -> Any:
        """What is to be returned by a call of an embedding."""
        ...


def given(module: nn.Module, x: Tensor, tables: Tables) -> Given:
    """X as the module takes it: numbers or ids; `tables` are kept from one pass to the next."""
    return Features(x) if x.is_floating_point() else Tokens(module, x, tables)


class Features:
    """Numbers."""

    outgrown = False

    def __init__(self, x: Tensor) -> None:
        """Take them; the module gets a copy, which it may write into."""
        self.leaf: Tensor | None = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            self.taken = self.leaf.clone()

    def embedded(self, args: Any, kwargs: Any, output: Any) -> Any:
        """Embeddings have nothing to do with it."""
        return output


class Tokens:
    """Ids, which have no gradient, and a leaf that stands for what the module's embeddings make of them.

    It is zero and is added to the embedding of every id that is read, wherever and however often that is done,
    whole sequences or step by step: dL/d(leaf) is the gradient of the embedded token.
    """

    def __init__(self, module: nn.Module, ids: Tensor, tables: Tables) -> None:
        """Take the ids as the module takes them, two axes in memory order."""
        self.ids, self.taken = ids.contiguous(), ids.contiguous().clone()
        self.places = torch.arange(ids.numel(), device=ids.device).reshape(ids.shape)
        self.tables, self.outgrown = tables, False
        for part in module.modules():
            if isinstance(part, nn.Embedding):
                self._features(part.weight)
        self.leaf: Tensor | None = None

    def _features(self, weight: Tensor) -> slice:
        table = _made_of(weight)
        if table not in self.tables:
            start = max((known.stop for known in self.tables.values()), default=0)
            self.tables[table] = slice(start, start + weight.shape[-1])
        return self.tables[table]

    def embedded(self, args: Any, kwargs: Any, output: Any) -> Any:
        """The embedding of ids of the input: itself, plus the leaf's zeros."""
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)][:2]
        ids, *weights = sorted(tensors, key=lambda tensor: tensor.is_floating_point())
        places = self._places(ids)
        if places is None or not weights or weights[0].ndim != 2 or not weights[0].is_floating_point():
            return output
        weight = weights[0]
        features = self._features(weight)
        if self.leaf is None:
            width = max(known.stop for known in self.tables.values())
            self.leaf = output.new_zeros(*self.ids.shape, width).requires_grad_()
        if features.stop > self.leaf.shape[-1]:
            self.outgrown = True
            return output
        with torch.enable_grad():
            return output.detach() + self._read(places)[..., features]

    def _read(self, places: Tensor) -> Tensor:
        """The leaf at these places; a step by itself as a plain index."""
        assert self.leaf is not None
        if places.shape == self.ids.shape and torch.equal(places, self.places):
            return self.leaf
        first, steps = int(places.flatten()[0]), self.ids.shape[1]
        if places.ndim == 1 and torch.equal(places, self.places[:, first % steps]):
            return self.leaf[:, first % steps]
        if places.ndim == 1 and torch.equal(places, self.places[first // steps]):
            return self.leaf[first // steps]
        return self.leaf.flatten(0, 1)[places]

    def _places(self, read: Any) -> Tensor | None:
        """Which of the ids are read, counted in memory order; None where it is something else."""
        if not isinstance(read, Tensor) or read.is_floating_point() or read.dtype == torch.bool:
            return None
        if read.untyped_storage().data_ptr() == self.taken.untyped_storage().data_ptr():
            places = self.places.as_strided(read.shape, read.stride(), read.storage_offset())
            return places if torch.equal(self.ids.flatten()[places], read) else None
        if read.shape == self.ids.shape and torch.equal(read, self.ids.to(read.dtype)):
            return self.places
        if read.shape == self.ids.T.shape and torch.equal(read, self.ids.T.to(read.dtype)):
            return self.places.T
        return None


class Embeddings(TorchFunctionMode):
    """Hands what embeddings return to the input of a pass, whichever way they are called."""

    def __init__(self, taken: Given) -> None:
        super().__init__()
        self.taken = taken

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call."""
        found = func(*args, **(kwargs or {}))
        read = func in LOOKUPS or func is Tensor.__getitem__
        return self.taken.embedded(args, kwargs or {}, found) if read else found


LOOKUPS = frozenset({nn.functional.embedding, torch.embedding, torch.index_select, Tensor.index_select})


def _made_of(weight: Tensor) -> Hashable:
    """What tells a table from others, also where it is made anew at every step: the parameters that it is made of."""
    if weight.grad_fn is None:
        return id(weight) if isinstance(weight, nn.Parameter) else tuple(weight.shape)
    found, stack, seen = set[int](), [weight.grad_fn], set[Any]()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        found |= set() if leaf is None else {id(leaf)}
        stack += [following for following, _ in node.next_functions if following is not None]
    return next(iter(found)) if len(found) == 1 else frozenset(found)
