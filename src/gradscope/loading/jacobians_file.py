"""Jacobians in a file, from any framework: chain.npy or .npz of shape (T, N, N) or (batch, T, N, N)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.chain import ArrayChain
from gradscope.errors import UsageError
from gradscope.files.numpy_file import npz_names, open_npy, read_npz
from gradscope.files.paths import FileKind
from gradscope.loading.source import Source
from gradscope.records import Loaded, RunSpec

EXPECTED = "expected Jacobians (T, N, N) or (batch, T, N, N)"


def chain_array(path: Path, kind: FileKind) -> NDArray[Any] | None:
    """The Jacobians of an .npy file, or the only array of an .npz when it is one of three or four dimensions.

    Raises:
        UsageError: damaged, or Python objects inside.
    """
    if kind == "npy":
        return open_npy(path)
    if kind != "npz" or len(names := npz_names(path)) != 1:
        return None
    values = read_npz(path, names[0])
    return values if values.ndim in (3, 4) else None


def real_jacobians(values: Tensor, dtype: torch.dtype, device: str) -> tuple[Tensor, tuple[str, ...]]:
    """Jacobians (..., N, N) in the type of the run, complex ones as maps of (Re s, Im s); and what is said of that.

    J = A + iB maps the real and imaginary parts of a state by [[A, -B], [B, A]], (..., 2N, 2N): the same singular
    values and the same moduli of eigenvalues, each twice.
    """
    if not values.is_complex():
        return values.to(device, dtype), ()
    upper = torch.cat((values.real, -values.imag), -1)
    real = torch.cat((upper, torch.cat((values.imag, values.real), -1)), -2)
    return real.to(device, dtype), ("complex Jacobians as real ones of (Re, Im): every singular value is there twice",)


def source_from_array(word: str, values: NDArray[Any], spec: RunSpec, shown: str) -> Source:
    """A chain that brings its own steps and sequences; `--length` and `--batch` take the first of them.

    Raises:
        UsageError: another shape, numbers that are not real, fewer steps or sequences than asked for, or too many
            for memory.
    """
    if values.dtype.kind == "b":
        raise UsageError(
            f"'{shown}' holds true and false, Jacobians are real numbers; save x.astype(float) if 1 and 0 are meant"
        )
    if values.dtype.kind not in "fiuc":
        raise UsageError(
            f"'{shown}' holds {values.dtype} values, Jacobians are real or complex numbers; save x.astype(float)"
        )
    if values.ndim not in (3, 4) or values.shape[-1] != values.shape[-2] or 0 in values.shape:
        raise UsageError(f"'{shown}' has shape {values.shape}; {EXPECTED}")
    stacked = values[None] if values.ndim == 3 else values
    held = {"length": stacked.shape[1], "batch": stacked.shape[0]}
    asked = {"length": spec.length or held["length"], "batch": spec.batch or held["batch"]}
    for name, count in asked.items():
        if count > held[name]:
            unit = "Jacobians" if name == "length" else "sequences"
            raise UsageError(f"'{shown}' holds {held[name]} {unit}, --{name} is {count}; use {held[name]} or less")
    if asked["length"] < 2:
        raise UsageError(f"'{shown}' holds one Jacobian; at least 2 steps are needed")
    used = stacked[: asked["batch"], : asked["length"]]
    try:
        numbers, said = real_jacobians(torch.from_numpy(np.array(used)), getattr(torch, spec.dtype), spec.device)
    except (MemoryError, RuntimeError) as error:
        size = used.size * np.dtype(spec.dtype).itemsize / 2**30
        raise UsageError(f"'{shown}' needs {size:.1f} GiB of memory; lower --length or --batch") from error
    chain = ArrayChain(numbers)
    note = (f"first {asked['length']} of {held['length']} Jacobians",) if asked["length"] < held["length"] else ()
    loaded = Loaded(shown, note + said, trained=True)
    return Source(word, lambda _size, _seed: chain, 0, loaded, is_chain=True)
