"""Filling a module of the user's from a file of weights: all of its parameters, and nothing left over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.files.paths import existing_file
from gradscope.files.tensors import checked
from gradscope.files.weights_file import read_weights
from gradscope.text import safe_text

FLAG = "--weights"
_COMPILED = "_orig_mod."


def fill(module: nn.Module, name: str, key: str | None = None) -> tuple[str, ...]:
    """Copy the weights in file `name` into `module`, in place, strictly.

    The state dict may lie inside other dicts (`model_state`, `state_dict`) and behind prefixes (`module.`); `key`
    chooses where there are several. A refused module is left as it was.

    Returns:
        What was assumed, one sentence each.

    Raises:
        UsageError: the file cannot be read; keys are missing, unexpected or of another shape.
    """
    path, shown = existing_file(name, FLAG), safe_text(name)
    wanted = {_plain(key): tensor for key, tensor in module.state_dict(keep_vars=True).items() if _is_tensor(tensor)}
    if not wanted:
        raise UsageError(f"{FLAG} '{shown}' cannot fill a {type(module).__name__} that has no parameters; leave it out")
    held = {_plain(key): (key, tensor) for key, tensor in read_weights(path, FLAG).items()}
    prefix = _prefix(held, wanted, key, shown)
    inside = {key.removeprefix(prefix): found for key, found in held.items() if key.startswith(prefix)}
    _same_keys(inside, wanted, prefix, f"{FLAG} '{shown}'", type(module).__name__)
    ready = {}
    for key, (original, tensor) in inside.items():
        _same_kind(key, tensor, wanted[key], f"{FLAG} '{shown}'")
        ready[key] = checked(tensor, original, shown)
    with torch.no_grad():
        for key, tensor in ready.items():
            wanted[key].copy_(tensor)
    return (f"weights of {shown}: {safe_text(prefix.rstrip('.'), 60)}",) if prefix else ()


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _plain(key: str) -> str:
    """A key without the marks that torch.compile leaves in it."""
    return key.replace(_COMPILED, "")


def _prefix(held: Iterable[str], wanted: Mapping[str, Tensor], key: str | None, shown: str) -> str:
    """What stands before the module's own keys in the file: where most of them are found, or what `key` says."""
    counts: dict[str, int] = {"": 0}
    for name in held:
        parts = name.split(".")
        for place in range(len(parts)):
            if ".".join(parts[place:]) in wanted:
                prefix = "".join(part + "." for part in parts[:place])
                counts[prefix] = counts.get(prefix, 0) + 1
    if key is not None and f"{key.rstrip('.')}." in counts:
        return f"{key.rstrip('.')}."
    best = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    if len(best) > 1 and counts[best[0]]:
        names = _listed([prefix.rstrip(".") or "." for prefix in best], 8)
        raise UsageError(f"{FLAG} '{shown}' holds {len(best)} sets of these weights; choose one with --key ({names})")
    return best[0]


def _same_keys(inside: Mapping[str, object], wanted: Mapping[str, Tensor], prefix: str, what: str, kind: str) -> None:
    missing, extra = [key for key in wanted if key not in inside], [key for key in inside if key not in wanted]
    # A parameter under two names is saved once by formats that save no sharing.
    kept = {wanted[key].data_ptr() for key in wanted if key in inside and wanted[key].numel()}
    missing = [key for key in missing if wanted[key].data_ptr() not in kept]
    if missing:
        raise UsageError(f"{what} has no {_listed(missing)}, which {kind} needs; build it as it was trained (--arg)")
    if extra:
        found = _listed([prefix + key for key in extra])
        raise UsageError(f"{what} has {found}, which {kind} does not know; build it as it was trained (--arg)")


def _same_kind(key: str, tensor: Tensor, wanted: Tensor, what: str) -> None:
    name = safe_text(key, 60)
    if tuple(tensor.shape) != tuple(wanted.shape):
        shapes = f"{tuple(tensor.shape)}, the module {tuple(wanted.shape)}"
        raise UsageError(f"{what} has {name} of shape {shapes}; build it as it was trained (--arg)")
    if tensor.is_floating_point() != wanted.is_floating_point() or tensor.is_complex() != wanted.is_complex():
        kinds = f"{tensor.dtype} numbers, the module {wanted.dtype}"
        raise UsageError(f"{what} has {name} of {kinds}; save it as it was trained".replace("torch.", ""))


def _listed(keys: list[str], most: int = 3) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(safe_text(key, 60) for key in keys[:most]) + more
