"""Buffers that a module writes step by step and reads back: what is read is what was written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

Place = tuple[int, int]
"""Axis and index."""


class Written:
    """For every buffer, what was last written at which index of one axis."""

    def __init__(self) -> None:
        self.buffers: Any = WeakIdKeyDictionary()

    def write(self, func: Any, buffer: Any, key: Any, value: Any) -> Any:
        """Buffer[key] = value, remembered where the key is one index of one axis."""
        version = buffer._version
        found = func(buffer, key, value)
        known = self._known(buffer, version)
        place = _from_front(place_of(key, buffer.ndim), buffer)
        if place is None or not isinstance(value, Tensor) or (known and next(iter(known))[0] != place[0]):
            known = {}
        elif value.requires_grad and torch.is_grad_enabled() and value.shape == _shape(buffer, place[0]):
            known[place] = (value, value._version)
        else:
            known.pop(place, None)
        self.buffers[buffer] = (buffer._version, known)
        return found

    def read(self, buffer: Any, key: Any) -> Tensor | None:
        """What was written there and has not changed since; None where that is not known."""
        if not isinstance(buffer, Tensor) or buffer not in self.buffers:
            return None
        place = _from_front(place_of(key, buffer.ndim), buffer)
        kept = None if place is None else self._known(buffer, buffer._version).get(place)
        if kept is None:
            return None
        value, version = kept
        return value.clone() if value._version == version else None

    def _known(self, buffer: Tensor, version: int) -> dict[Place, tuple[Tensor, int]]:
        """What is known of a buffer that nobody else has written into."""
        before, known = self.buffers.get(buffer, (version, {}))
        return known if before == version else {}


def place_of(key: Any, ndim: int) -> Place | None:
    """(axis, index) of a key such as `[:, 3]`; None for any other."""
    parts = key if isinstance(key, tuple) else (key,)
    if Ellipsis in [part for part in parts if not isinstance(part, Tensor)]:
        gap = parts.index(Ellipsis)
        parts = (*parts[:gap], *(slice(None),) * (ndim - len(parts) + 1), *parts[gap + 1 :])
    found = None
    for axis, part in enumerate(parts):
        if isinstance(part, int) and not isinstance(part, bool) and found is None:
            found = (axis, part)
        elif not (isinstance(part, slice) and part == slice(None)):
            return None
    return found


def _from_front(place: Place | None, buffer: Tensor) -> Place | None:
    return None if place is None else (place[0], place[1] % buffer.shape[place[0]])


def _shape(buffer: Tensor, axis: int) -> torch.Size:
    return torch.Size([*buffer.shape[:axis], *buffer.shape[axis + 1 :]])
