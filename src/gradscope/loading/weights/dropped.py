"""Weight-dropped LSTMs (Merity et al. 2018): `weight_hh_l0_raw` is the weight, `weight_hh_l0` a copy with holes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

RAW = re.compile(r"(?:(.*)\.)?(weight_(?:hh|ih)_l\d{1,3}(?:_reverse)?)_raw", re.DOTALL)
SAID = "weight-dropped: read without its dropout (weight_hh_l0_raw)"


def undropped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], frozenset[str]]:
    """The tensors with every raw weight under its plain name, and the names of the recurrences that had one.

    The wrapper keeps the raw weight beside the module that it wraps (fastai: `rnns.0.weight_hh_l0_raw` and
    `rnns.0.module.weight_ih_l0`) or inside it (`rnns.0.module.weight_hh_l0_raw`).
    """
    found, groups = dict(tensors), set()
    for key in tensors:
        if match := RAW.fullmatch(key):
            prefix, name = match.groups()
            place = f"{prefix}." if prefix else ""
            wrapped = f"{place}module."
            inside = any(other.startswith(f"{wrapped}weight_") for other in tensors)
            place = wrapped if inside else place
            found[place + name] = found.pop(key)
            groups.add(place.rstrip("."))
    return found, frozenset(groups)
