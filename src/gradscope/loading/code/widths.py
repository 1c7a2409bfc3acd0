"""How many features a module takes: as its layers declare, and as it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from gradscope.config.check import FEATURES
from gradscope.errors import UsageError
from gradscope.models.direct import Direct

DECLARED = ("input_size", "in_features", "embed_dim", "d_model", "in_channels", "normalized_shape")
MOST = 12
"""Widths that are tried."""


def features(
    module: nn.Module, own_types: Mapping[str, torch.dtype] | None = None, *, has_data: bool = False
) -> int | None:
    """The first width that a layer declares with which the module runs; None where the data are to say.

    Args:
        module: what takes them.
        own_types: see `Direct`.
        has_data: whether there is a file of numbers, which has a width. Without one the first width that is declared
            stands for all, also where the module runs with none, and 16 where none is declared.
    """
    widths = list(dict.fromkeys(_declared(module)))[:MOST]
    if (len(widths) > 1 or has_data) and not any(map(nn.parameter.is_lazy, module.parameters())):
        found = next((width for width in widths if _runs(module, width, own_types)), None)
        if found is not None or has_data:
            return found
    return widths[0] if widths else None if has_data else FEATURES


def _declared(module: nn.Module) -> Iterator[int]:
    for part in module.modules():
        for attribute in DECLARED:
            found = getattr(part, attribute, None)
            found = found[0] if isinstance(found, tuple) and len(found) == 1 else found
            if isinstance(found, int) and not isinstance(found, bool) and found > 0:
                yield found
    # What one matrix over input and state, torch.cat((x, h)), leaves for the input.
    for part in module.modules():
        if isinstance(part, nn.Linear) and part.in_features > part.out_features:
            yield part.in_features - part.out_features


def _runs(module: nn.Module, width: int, own_types: Mapping[str, torch.dtype] | None) -> bool:
    """Whether it takes two sequences of three steps."""
    x = next(module.parameters(), torch.zeros(())).new_zeros(2, 3, width)
    model = Direct("", module, width, kind="module", own_types=own_types)
    try:
        with torch.no_grad():
            model.run(model.fitted(x))
    except UsageError:
        return False
    finally:
        if model.runs_in is not None:
            module.to(x.dtype)
    return True
