"""What a module is given, as a leaf that gradients arrive at: features, or what its embeddings make of tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradscope.models.user_modules import gradients_wanted
from gradscope.torch_private import leaf_of, sources

if TYPE_CHECKING:
    from gradscope.models.whole_module import WholeModule


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

    def embedded(self, func: Any, args: Any, kwargs: Any, output: Any) -> Any:
        """What is to be returned by a call of a function that may turn ids into numbers."""
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

    def embedded(self, func: Any, args: Any, kwargs: Any, output: Any) -> Any:
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
        self.hot: dict[int, tuple[Tensor, Tensor]] = {}
        """One-hot codes of ids, which are whole numbers yet, and the places that they are of, by their storage."""

    def _features(self, weight: Tensor) -> slice:
        return self._table(_made_of(weight), weight.shape[-1])

    def _table(self, table: Hashable, width: int) -> slice:
        if table not in self.tables:
            start = max((known.stop for known in self.tables.values()), default=0)
            self.tables[table] = slice(start, start + width)
        return self.tables[table]

    def embedded(self, func: Any, args: Any, kwargs: Any, output: Any) -> Any:
        """The embedding or one-hot code of ids of the input: itself, plus the leaf's zeros."""
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)][:2]
        if func in CONVERSIONS:
            told = isinstance(output, Tensor) and output.is_floating_point()
            places = self._places_of_code(tensors[0]) if told else None
            return output if places is None else self._joined(output, places, self._code(output))
        if func is ONE_HOT:
            if (places := self._places(tensors[0])) is not None:
                self.hot[output.untyped_storage().data_ptr()] = output, places
            return output
        if func in SCATTERS:
            return self._scattered(func, args, output)
        ids, *weights = sorted(tensors, key=lambda tensor: tensor.is_floating_point())
        places = self._places(ids)
        if places is None or not weights or weights[0].ndim != 2 or not weights[0].is_floating_point():
            return output
        return self._joined(output, places, self._features(weights[0]))

    def _code(self, output: Tensor) -> slice:
        return self._table("one-hot", output.shape[-1])

    def _scattered(self, func: Any, args: Any, output: Any) -> Any:
        """Ones that are written at ids into the last axis."""
        dim, index = (*args, None, None, None)[1:3]
        if not isinstance(dim, int) or not isinstance(index, Tensor) or not output.is_floating_point():
            return output
        ends = index.ndim == output.ndim and dim % max(output.ndim, 1) == output.ndim - 1 and index.shape[-1] == 1
        places = self._places(index[..., 0]) if ends and index.shape[:-1] == output.shape[:-1] else None
        if places is None:
            return output
        joined = self._joined(output, places, self._code(output))
        with torch.enable_grad():
            return output.copy_(joined) if func is Tensor.scatter_ else joined

    def _places_of_code(self, value: Tensor) -> Tensor | None:
        """Which of the ids a one-hot code, or a piece of one, is of."""
        known = None if value.is_floating_point() else self.hot.get(value.untyped_storage().data_ptr())
        if known is None or value.shape[-1:] != known[0].shape[-1:] or value.stride(-1) != 1:
            return None
        code, places = known
        numbers = torch.arange(code.numel(), device=code.device)
        rows = numbers.as_strided(value.shape, value.stride(), value.storage_offset())[..., 0] // code.shape[-1]
        return places.flatten()[rows]

    def _joined(self, output: Tensor, places: Tensor, features: slice) -> Tensor:
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
        return self.taken.embedded(func, args, kwargs or {}, found) if read else found


ONE_HOT = nn.functional.one_hot
SCATTERS = frozenset({torch.scatter, Tensor.scatter, Tensor.scatter_})
CONVERSIONS = frozenset(
    {Tensor.to, Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.type, Tensor.type_as}
)
LOOKUPS = frozenset(
    {
        nn.functional.embedding,
        torch.embedding,
        torch.index_select,
        Tensor.index_select,
        ONE_HOT,
        *SCATTERS,
        *CONVERSIONS,
    }
)
"""What may turn ids into numbers."""


def run_moved(model: WholeModule, ids: Tensor, added: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """What a module returns when something is added to what its embeddings make of token ids.

    Args:
        model: the module, whose tables are known.
        ids: (batch, T).
        added: zeros (batch, T, width of all tables) and a weight of the module -> what is added, of the same shape.
    """
    tokens = Tokens(model.module, model.laid_out(ids), model.tables)
    weight = next(p for p in model.module.parameters() if p.is_floating_point()).detach()
    width = max((known.stop for known in model.tables.values()), default=0)
    tokens.leaf = model.laid_out(added(weight.new_zeros(*ids.shape, width), weight)).contiguous()
    # A table that is made anew at every call is known again by what it is made of, which only its graph tells.
    with torch.enable_grad(), gradients_wanted(model.module):
        return model.run(tokens.taken, Embeddings(tokens))


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
        leaf = leaf_of(node)
        found |= set() if leaf is None else {id(leaf)}
        stack += [following for following, _ in sources(node) if following is not None]
    return next(iter(found)) if len(found) == 1 else frozenset(found)
