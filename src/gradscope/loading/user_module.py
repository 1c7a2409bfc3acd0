"""Any nn.Module of the user's as a model: its recurrences, its widths, token ids, and weights from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gradscope.config.check import FEATURES, SYNTHETIC_LENGTH
from gradscope.config.words import is_file_of_numbers
from gradscope.errors import UsageError
from gradscope.files.paths import existing_file
from gradscope.files.tensors import checked
from gradscope.files.weights_file import read_weights
from gradscope.loading.source import Source
from gradscope.models.attention_weights import reader
from gradscope.models.cell import Cell
from gradscope.models.fused_call import cells_of, storages
from gradscope.models.fused_recurrence import hooked
from gradscope.models.output_shape import leaves_of
from gradscope.models.stack import Recurrent
from gradscope.models.token_models import TokenIds
from gradscope.models.user_modules import copied
from gradscope.models.whole_module import Module, WholeModule, applied, default_dtype, types_of
from gradscope.records import Loaded, RunSpec
from gradscope.text import safe_text

DECLARED = ("input_size", "in_features", "embed_dim", "d_model", "in_channels", "normalized_shape")
MOST = 12
"""Widths that are tried."""


def features(
    module: nn.Module, own_types: Mapping[str, torch.dtype] | None = None, *, has_data: bool = False
) -> int | None:
    """The first width that a layer declares with which the module runs; None where the data are to say.

    Args:
        module: what takes them.
        own_types: see `WholeModule`.
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
    model = WholeModule("", module, width, kind="module", own_types=own_types)
    try:
        with torch.no_grad():
            model.run(model.fitted(x))
    except UsageError:
        return False
    finally:
        if model.runs_in is not None:
            module.to(x.dtype)
    return True


def token_ids(module: nn.Module) -> TokenIds | None:
    """The ids that a module takes: it holds an embedding and runs on two of them. None for a module of numbers."""
    sizes = [part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding)]
    if not sizes:
        return None
    weight = next(module.parameters())
    read: list[int] = []

    def run(steps: int) -> Any:
        ids = torch.zeros(1, steps, dtype=torch.int64, device=weight.device)
        with ExitStack() as hooks, torch.no_grad(), default_dtype(weight.dtype):
            for part in module.modules():
                if isinstance(part, nn.Embedding):
                    hooks.enter_context(hooked(part, partial(_note, read, ids)))
            return module(ids)

    found = _tried(run, 2)
    if found is None:
        return None
    tensor = next((value for value in leaves_of(found) if isinstance(value, Tensor)), None)
    width = tensor.shape[-1] if tensor is not None and tensor.ndim == 3 else None
    return TokenIds(read[0] if read else sizes[0], width, _longest(lambda steps: _tried(run, steps) is not None))


def _note(read: list[int], ids: Tensor, part: nn.Embedding, args: Any, kwargs: Any, output: Any) -> None:
    """Rows of the embedding that reads the ids themselves: another may hold positions."""
    given = args[0] if args else kwargs.get("input")
    if isinstance(given, Tensor) and storages([given]) & storages([ids]):
        read.append(part.num_embeddings)


def _tried(run: Callable[[int], Any], steps: int) -> Any:
    try:
        return run(steps)
    except Exception:  # a user's module may refuse ids, or a length, in any way
        return None


def _longest(runs: Callable[[int], bool]) -> int | None:
    """The most steps it takes, by bisection; None where it takes as many as a sequence has when nothing is said."""
    if runs(SYNTHETIC_LENGTH):
        return None
    fits, fails = 2, SYNTHETIC_LENGTH
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if runs(middle) else (fits, middle)
    return fits


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


def in_type(module: Module, spec: RunSpec) -> Module:
    """The module itself in the number type and on the device of the run, complex parameters in the complex one."""
    real = getattr(torch, spec.dtype)

    def cast(tensor: Tensor) -> Tensor:
        # Module.to would take the real part of a complex parameter.
        kind = real.to_complex() if tensor.is_complex() else real if tensor.is_floating_point() else tensor.dtype
        return tensor.to(spec.device, kind)

    return applied(module, cast)


def from_torch(module: nn.RNN | nn.GRU | nn.LSTM, name: str) -> Recurrent | WholeModule:
    """A bare recurrence of torch.nn, in evaluation mode.

    One with a single direction is a stack of cells with the module's own weights, held against the module itself;
    a bidirectional one has no joint state and is run as it is.
    """
    module = module.eval()
    if module.bidirectional:
        plain = BatchFirst(module)
        return WholeModule(name, plain, module.input_size, kind="module")
    cells = [level[0] for level in cells_of(module)]
    reference = _unparametrized(module, cells) if parametrize.is_parametrized(module) else copied(module)
    reference.batch_first = True
    return Recurrent(name, cells, reference=reference)


def _unparametrized(module: nn.RNNBase, cells: list[Cell]) -> nn.RNNBase:
    """A layer of torch.nn whose weights are numbers: gradients are compared by weights, whatever those are made of."""
    kind = next(kind for kind in (nn.RNN, nn.GRU, nn.LSTM) if isinstance(module, kind))
    more = {"nonlinearity": module.nonlinearity} if isinstance(module, nn.RNN) else {}
    more |= {"proj_size": module.proj_size} if isinstance(module, nn.LSTM) else {}
    made = kind(module.input_size, module.hidden_size, len(cells), bias=module.bias, **more)
    weights = {f"{key}_{cell.name}": value for cell in cells for key, value in cell.parameters.items()}
    made.to(next(iter(weights.values()))).load_state_dict(weights)
    return made.eval()


COMPLEX = "its parameters are complex, whose steps are not followed, so it is measured from its input alone"


def has_own_head(model: object) -> bool:
    """Whether the outputs of a model are what a user's module answers, and not the states of a layer or a family."""
    return isinstance(model, WholeModule) and model.kind == "module" and not isinstance(model.module, BatchFirst)


class BatchFirst(nn.Module):
    """A recurrence of torch.nn that takes (batch, T, features) and returns its output alone."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        """Take the module as it is."""
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        """(batch, T, directions x features)."""
        found: Tensor = self.rnn(x if self.rnn.batch_first else x.transpose(0, 1))[0]
        return found if self.rnn.batch_first else found.transpose(0, 1)


def from_cell(module: nn.RNNCellBase, name: str) -> Recurrent:
    """A cell of torch.nn by itself, held against itself called step by step."""
    return Recurrent(name, [level[0] for level in cells_of(module)], reference=Looped(module.eval()))


class Looped(nn.Module):
    """A cell of torch.nn walked along (batch, T, features) from a zero state; returns its outputs."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        """Take the cell as it is."""
        super().__init__()
        self.cell, self.stands_for = cell, f"torch.nn.{type(cell).__name__}"

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """(batch, T, hidden)."""
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return (torch.stack(outputs, 1),)


def from_module(module: nn.Module, name: str, spec: RunSpec, loaded: Loaded) -> Source:
    """Any nn.Module, put into the type of the run, and on its device."""
    own_types = types_of(module)
    module = in_type(module, spec).eval()
    ids = token_ids(module) if spec.input_size is None else None
    has_data = is_file_of_numbers(spec.input)
    size = spec.input_size if spec.input_size is not None else features(module, own_types, has_data=has_data)
    closed = str(getattr(module, "closed", "")) or (COMPLEX if any(p.is_complex() for p in module.parameters()) else "")
    time_first = None if spec.layout is None else spec.layout == "time-first"
    # With the user's own data, what is analysed is what their training does; only a layer that itself says which axis
    # it takes first is handed what it asks for.
    turns = spec.input is None or hasattr(module, "batch_first")

    @cache
    def built(width: int) -> WholeModule:
        model = WholeModule(
            name,
            module,
            width,
            kind="module",
            time_first=time_first,
            ids=ids,
            key=spec.key,
            closed=closed,
            turns=turns,
            own_types=own_types,
        )
        model.weights = reader(model)
        return model

    if size is not None:
        built(size)
    loaded = replace(loaded, assumed=(*loaded.assumed, *([closed] if closed else [])))
    return Source(name, lambda width, _seed: built(width if size is None else size), size, loaded, ids)
