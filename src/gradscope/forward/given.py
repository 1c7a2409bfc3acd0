"""What a module is given, as a leaf that gradients arrive at: features, or what its embeddings make of tokens."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Given(Protocol):
    """The input of one pass."""

    taken: Tensor
    """What the module is called with."""

    @property
    def leaf(self) -> Tensor | None:
        """Where the gradient arrives."""
        ...

    def embedded(self, args: Any, kwargs: Any, output: Any) -> Any:
        """What is to be returned by a call of an embedding."""
        ...


def given(module: nn.Module, x: Tensor) -> Given:
    """X as the module takes it: numbers or ids."""
    return Features(x) if x.is_floating_point() else Tokens(module, x)


class Features:
    """Numbers."""

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

    def __init__(self, module: nn.Module, ids: Tensor) -> None:
        """Take the ids as the module takes them, two axes in memory order."""
        self.ids, self.taken = ids.contiguous(), ids.contiguous().clone()
        self.places = torch.arange(ids.numel(), device=ids.device).reshape(ids.shape)
        self.columns: dict[int, slice] = {}
        self.width = 0
        for part in module.modules():
            if isinstance(part, nn.Embedding):
                self._column(part.weight)
        self.leaf: Tensor | None = None

    def _column(self, weight: Tensor) -> slice:
        if id(weight) not in self.columns:
            self.columns[id(weight)] = slice(self.width, self.width + weight.shape[-1])
            self.width += weight.shape[-1]
        return self.columns[id(weight)]

    def embedded(self, args: Any, kwargs: Any, output: Any) -> Any:
        """The embedding of ids of the input: itself, plus the leaf's zeros."""
        both = [*args, *(kwargs[name] for name in ("input", "indices", "weight") if name in kwargs)][:2]
        ids, weight = sorted(both, key=lambda tensor: tensor.is_floating_point())
        places = self._places(ids)
        if places is None:
            return output
        column = self._column(weight)
        if self.leaf is None:
            self.leaf = output.new_zeros(*self.ids.shape, self.width).requires_grad_()
        if column.stop > self.leaf.shape[-1]:
            return output
        with torch.enable_grad():
            return output.detach() + self._read(places)[..., column]

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
        if not isinstance(read, Tensor) or read.is_floating_point():
            return None
        if read.untyped_storage().data_ptr() == self.taken.untyped_storage().data_ptr():
            places = self.places.as_strided(read.shape, read.stride(), read.storage_offset())
            return places if torch.equal(self.ids.flatten()[places], read) else None
        if read.shape == self.ids.shape and torch.equal(read, self.ids.to(read.dtype)):
            return self.places
        if read.shape == self.ids.T.shape and torch.equal(read, self.ids.T.to(read.dtype)):
            return self.places.T
        return None
