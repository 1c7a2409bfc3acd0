"""What a module is given, as a leaf that gradients arrive at: features, or what its embeddings make of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class InputLeaf:
    """Features."""

    embeddings: tuple[nn.Module, ...] = ()

    def __init__(self, x: Tensor) -> None:
        """Take them as the module does; it takes a copy, which it may write into."""
        self.leaf = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            self.taken = self.leaf.clone()

    def note(self, part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Embeddings have nothing to do with it."""
        return output


class TokenInput:
    """Ids, which have no gradient, and a leaf that stands for what the module's embeddings make of them.

    It is zero and is added to the embedding of every id that is read, wherever and however often that is done,
    whole sequences or step by step: dL/d(leaf) is the gradient of the embedded token.
    """

    def __init__(self, module: nn.Module, ids: Tensor) -> None:
        """Take the ids as the module takes them, two axes in memory order."""
        self.ids, self.taken = ids.contiguous(), ids.contiguous().clone()
        self.places = torch.arange(ids.numel(), device=ids.device).reshape(ids.shape)
        self.columns: dict[nn.Module, slice] = {}
        for part in module.modules():
            if isinstance(part, nn.Embedding):
                start = max((taken.stop for taken in self.columns.values()), default=0)
                self.columns[part] = slice(start, start + part.embedding_dim)
        self.embeddings = tuple(self.columns)
        self.leaf: Tensor | None = None
        """None until an embedding reads the ids."""

    def note(self, part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """After a call of an embedding."""
        read = args[0] if args else kwargs.get("input")
        places = self._places(read)
        if places is None:
            return output
        if self.leaf is None:
            width = max(taken.stop for taken in self.columns.values())
            self.leaf = output.new_zeros(*self.ids.shape, width).requires_grad_()
        return output.detach() + self.leaf.flatten(0, 1)[places][..., self.columns[part]]

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
