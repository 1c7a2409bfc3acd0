"""Tensors out of nested data, by dotted names, and what each is held to before anything computes with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.text import safe_text

DEEPEST = 16
MOST = 200_000
"""Tensors that are looked at."""

_NOT_WEIGHTS = re.compile(
    r"(^|_)optim(?!izedlstm)|^opt(_state)?$|lr_sched|^schedulers?$|^callbacks$|^loops$|rng_state", re.IGNORECASE
)


def named_tensors(data: Any) -> dict[str, Tensor]:
    """Every tensor of nested dicts and lists by its dotted path, `model_state.lstm.weight_hh_l0`.

    The state of optimizers is left out: its moments have the shapes of weights and are none.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in _walk(data, (), ()):
        if len(found) >= MOST:
            raise UsageError(f"the file holds more than {MOST:,} tensors; save the recurrent part alone")
        found[name] = tensor
    return found


def _walk(data: Any, path: tuple[str, ...], above: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(data, Tensor):
        yield ".".join(path) or "tensor", data
        return
    if id(data) in above or len(path) > DEEPEST:  # a pickle may hold itself
        return
    if isinstance(data, Mapping):
        # A damaged pickle may have put anything under the names of methods; the class is asked, not the object.
        entries = list(dict.items(data)) if isinstance(data, dict) else list(data.items())
        if {"state", "param_groups"} <= {key for key, _ in entries if isinstance(key, str)}:
            return
    elif isinstance(data, list | tuple):
        entries = list(enumerate(data))
    else:
        return
    for key, value in entries:
        if isinstance(key, str | int) and not (isinstance(value, Mapping | list) and _NOT_WEIGHTS.search(str(key))):
            yield from _walk(value, (*path, str(key)), (*above, id(data)))


def checked(tensor: Tensor, name: str, shown: str) -> Tensor:
    """The tensor itself, once it is known to be what it claims: real numbers that are all stored.

    Args:
        tensor: as it came out of a file.
        name: its name in the file; empty for the only one.
        shown: the file, harmless to show.

    Raises:
        UsageError: sparse, quantized, without numbers, or larger than what is stored.
    """
    what = f" ('{safe_text(name, 60)}')" if name else ""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        kind = safe_text(type(tensor).__name__, 40)
        raise UsageError(f"'{shown}' holds a tensor of type {kind}{what}; save a plain one")
    plain: Tensor = torch.detach(tensor)  # without whatever attributes the file hung on it
    if plain.layout != torch.strided or plain.is_quantized:
        raise UsageError(f"'{shown}' holds a sparse or quantized tensor{what}; save x.to_dense() or x.dequantize()")
    if plain.device.type != "cpu":
        raise UsageError(f"'{shown}' holds a tensor without numbers{what} ({plain.device.type}); save it with them")
    if not _is_stored(plain):
        # A few stored bytes can claim any size.
        raise UsageError(f"'{shown}' holds an expanded tensor{what}, larger than what is stored; save x.contiguous()")
    return plain.resolve_conj().resolve_neg()


def _is_stored(tensor: Tensor) -> bool:
    held, width = tensor.untyped_storage().nbytes(), tensor.element_size()
    if tensor.numel() == 0:
        return True
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    steps_forward = all(step >= 0 for step in tensor.stride())
    end = (tensor.storage_offset() + last + 1) * width
    return steps_forward and end <= held and tensor.numel() * width <= held


def floats(tensor: Tensor, name: str, shown: str) -> Tensor:
    """`checked`, and of a floating type.

    Raises:
        UsageError: whole or complex numbers.
    """
    plain = checked(tensor, name, shown)
    if not plain.dtype.is_floating_point:
        kind = str(plain.dtype).removeprefix("torch.")
        raise UsageError(
            f"'{safe_text(name, 60)}' in '{shown}' holds {kind}, weights are floats; save x.to(torch.float32)"
        )
    return plain
