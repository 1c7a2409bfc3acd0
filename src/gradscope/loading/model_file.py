"""A file becomes a model: weights, Jacobians, modules that are trusted, files of other frameworks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.files.keras_file import read_keras
from gradscope.files.onnx_file import read_onnx
from gradscope.files.paths import FileKind, existing_file, kind_of
from gradscope.files.tensors import named_tensors
from gradscope.files.torch_file import WantsCodeError, listed
from gradscope.files.weights_file import read_weights
from gradscope.loading.concat_cell import concat_layers, find_concat
from gradscope.loading.first_state import FromState, first_states
from gradscope.loading.foreign_layer import ForeignLayer, flax_cells, flax_layer, model_of
from gradscope.loading.jacobians_file import chain_array, source_from_array
from gradscope.loading.keras_layers import keras_layer
from gradscope.loading.objects import source_from_object
from gradscope.loading.onnx_layers import onnx_layer
from gradscope.loading.source import Source
from gradscope.loading.torch_recurrences import SAID, Group, as_torch, choose, groups, understand, undropped
from gradscope.loading.trusted_files import STATE_DICT, Program, fingerprint, load_trusted, only_module
from gradscope.loading.user_module import from_torch
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.records import Loaded, RunSpec
from gradscope.text import safe_text

FOREIGN: tuple[FileKind, ...] = ("Keras", "HDF5", "ONNX")


def foreign_layer(path: Path, kind: FileKind, key: str | None, nonlinearity: str | None, shown: str) -> ForeignLayer:
    """The recurrence that `key` names in a file of kind `kind`.

    Raises:
        UsageError: it cannot be read, or holds none or several.
    """
    if kind == "ONNX":
        return onnx_layer(read_onnx(path), key, shown)
    return keras_layer(read_keras(path, kind), key, nonlinearity, shown)


FLAG = "model"
CODE: tuple[FileKind, ...] = ("TorchScript", "pt2")
BACKWARDS = "it reads the sequence from its end: step 1 is what it reads first, the last one of the data"


def source_from_file(file: str, key: str | None, spec: RunSpec) -> Source:
    """The model in `file`; `key`, or else `spec.key`, chooses among several recurrences.

    Raises:
        UsageError: it cannot be read, holds no recurrence or several, or wants to run code without --trust.
    """
    path = existing_file(file, FLAG)
    word, key = path.name + (f":{key}" if key else ""), key or spec.key
    kind, shown = kind_of(path, FLAG), safe_text(file)
    if (array := chain_array(path, kind)) is not None:
        return source_from_array(word, array, spec, shown)
    if kind in CODE and spec.trust:
        return _trusted(word, path, kind, key, spec)
    if kind in FOREIGN and spec.cell is None:
        return _foreign(word, foreign_layer(path, kind, key, spec.nonlinearity, shown), spec, shown)
    try:
        tensors = read_weights(path, FLAG, kind)
    except WantsCodeError as error:
        if spec.trust:
            return _trusted(word, path, kind, key, spec)
        raise UsageError(_whole(shown, error.wanted)) from error
    return source_from_tensors(word, tensors, key, spec, shown, kind)


def _foreign(word: str, layer: ForeignLayer, spec: RunSpec, shown: str) -> Source:
    model = model_of(layer, word, getattr(torch, spec.dtype), spec.device, shown)
    notes = (str(layer), *layer.notes, *((BACKWARDS,) if layer.is_backwards else ()))
    source = _fixed(word, _from_state(model, spec), layer.name, notes, spec, shown)
    return replace(source, is_backwards=layer.is_backwards)


def _whole(shown: str, wanted: tuple[str, ...]) -> str:
    """Why a pickle of a whole object is not loaded, and the ways on."""
    ways = STATE_DICT
    if any(name.startswith("__main__.") for name in wanted):
        ways += " (its class is known only to the script that saved it)"
    else:
        ways += ", or, if you trust it, add --trust --import-path DIR"
    return f"'{shown}' is a whole Python object, it wants {listed(wanted)}; {ways}"


def source_from_tensors(
    word: str, tensors: Mapping[str, Tensor], key: str | None, spec: RunSpec, shown: str, kind: FileKind
) -> Source:
    """The recurrence that `key` names among named tensors, in closed form and as torch runs it.

    Raises:
        UsageError: none or several, or shapes that fit no recurrence.
    """
    dtype = getattr(torch, spec.dtype)
    if spec.cell is not None:
        layer = find_concat(tensors, key, spec.cell, shown)
        stack = Recurrent(word, [layer.cell(dtype, spec.device)], reference=layer.as_torch(dtype, spec.device))
        return _fixed(word, _from_state(stack, spec), layer.name, (str(layer),), spec, shown)
    tensors, dropped = undropped(tensors)
    if not groups(tensors) and (cells := flax_cells(tensors)):
        return _foreign(word, flax_layer(cells, key, spec.nonlinearity, shown), spec, shown)
    found = understand(choose(_some(groups(tensors), tensors, shown), key, shown), shown)
    phi, assumed = spec.nonlinearity or "tanh", [str(found)]
    if found.kind == "RNN" and spec.nonlinearity is None:
        assumed.append("tanh is assumed, weights do not tell; --nonlinearity relu for the other")
    if found.name in dropped:
        assumed.append(SAID)
    if kind == "npz":
        assumed.append("gate order of torch.nn is assumed (LSTM i, f, g, o; GRU r, z, n)")
    module = as_torch(found, phi, dtype, spec.device)
    return _fixed(word, _from_state(from_torch(module, word), spec), found.name, tuple(assumed), spec, shown)


def _fixed(
    word: str, model: Recurrent | WholeModule, name: str, assumed: tuple[str, ...], spec: RunSpec, shown: str
) -> Source:
    place, (what, *more) = safe_text(name, 60), assumed
    more += [f"starts from the state in {safe_text(spec.state)}"] if spec.state is not None else []
    loaded = Loaded(f"{shown}: {place or '.'}", (f"{place or 'the file'}: {what}", *more), trained=True)
    return Source(word, lambda _size, _seed: model, model.input_size, loaded)


def _from_state(model: Recurrent | WholeModule, spec: RunSpec) -> Recurrent | WholeModule:
    """The same, started from --state.

    Raises:
        UsageError: the file holds no state of this model.
    """
    if spec.state is None:
        return model
    if not isinstance(model, Recurrent) or model.reference is None:
        raise UsageError("--state starts a recurrence of one direction, this one has two; leave it out")
    sizes = [(cell.output_size, cell.state_size - cell.output_size) for cell in model.cells]
    start = [state.to(spec.device, getattr(torch, spec.dtype)) for state in first_states(spec.state, sizes)]
    return Recurrent(model.name, model.cells, reference=FromState(model.reference, start), start=start)


def _some(found: list[Group], tensors: Mapping[str, Tensor], shown: str) -> list[Group]:
    """`found`, unless it is empty.

    Raises:
        UsageError: no recurrence; the message says what could be one.
    """
    if found:
        return found
    wide = concat_layers(tensors)
    hint = f"; for a layer over torch.cat((x, h)) add --cell linear-concat --key NAME ({_first(wide)})" if wide else ""
    raise UsageError(
        f"'{shown}' holds no recurrence (no weight_hh among {len(tensors)} tensors: {_first(tensors)}){hint}; "
        f"a whole module is given as file.py:attr --weights FILE"
    )


def _first(names: Iterable[str], most: int = 4) -> str:
    shown = [safe_text(name, 40) for name in names]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "") or "none"


def _trusted(word: str, path: Path, kind: FileKind, key: str | None, spec: RunSpec) -> Source:
    """What a trusted file makes of itself: its module, or the tensors in it."""
    shown, ran = safe_text(path), fingerprint(path)
    loaded, code = load_trusted(path, kind, spec.import_path)
    module = only_module(loaded, shown)
    with code.active():
        if module is None:
            source = source_from_tensors(word, named_tensors(loaded), key, spec, shown, kind)
        else:
            source = source_from_object(module, word, spec)
    notes: tuple[str, ...] = (ran,)
    if isinstance(module, Program):
        notes += (f"computed in {str(module.dtype).removeprefix('torch.')}, as it was saved",)
    return replace(source, code=code, loaded=replace(source.loaded, assumed=(*notes, *source.loaded.assumed)))
