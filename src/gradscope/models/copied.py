"""Copies of modules that keep results of earlier calls."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn
from torch.utils import _pytree as pytree

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module) -> Module:
    """A deep copy; tensors that an earlier call left on the module (old weight_norm does) are copied as numbers."""
    kept = (leaf for part in module.modules() for leaf in pytree.tree_leaves(vars(part)))
    memo = {id(leaf): leaf.detach().clone() for leaf in kept if isinstance(leaf, Tensor) and not leaf.is_leaf}
    return copy.deepcopy(module, memo)
