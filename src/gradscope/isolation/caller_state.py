"""Settings and random numbers of the process: what works here neither trips over them nor leaves them changed."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradscope.torch_private import default_device

Precision = tuple[tuple[str, ...], tuple[str, bool] | None]
"""How products of float32 are rounded: by torch's newer settings, and by the older ones where they answer."""


def precision() -> Precision:
    """What the process is told."""
    return tuple(part.fp32_precision for part in _parts()), _older()


def set_precision(wanted: Precision) -> None:
    """Tell it what `precision` read before."""
    parts, older = wanted
    if older is not None:
        _set_older(*older)
    for part, was in zip(_parts(), parts, strict=True):
        if part.fp32_precision != was:
            part.fp32_precision = was


def set_full_precision() -> None:
    """No product of float32 numbers is rounded to fewer digits (TF32, bfloat16).

    cuDNN's recurrent kernels do that unless told otherwise, and scripts ask for it; three digits are too few to tell a
    chain from its model. torch has an older and a newer way to set it, and refuses to answer the older one where both
    were used: the older is set where it answers, so that a user's module may ask it, and the newer where that leaves
    anything open.
    """
    older = _older()
    if older is not None:
        _set_older("highest", False)
    for part in _parts():
        if part.fp32_precision not in (("ieee",) if older is None else ("ieee", "none")):
            part.fp32_precision = "ieee"


def _parts() -> tuple[Any, ...]:
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    return torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn


def _older() -> tuple[str, bool] | None:
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None


def _set_older(matmul: str, cudnn: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn


DEVICES = ("cpu", "cuda", "xpu", "mps")


@dataclass(frozen=True)
class Setting:
    """One setting of the process."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


def _autocast() -> tuple[str, ...]:
    return tuple(device for device in DEVICES if torch.is_autocast_enabled(device))


def _set_autocast(wanted: tuple[str, ...]) -> None:
    for device in {*wanted} ^ {*_autocast()}:
        torch.set_autocast_enabled(device, device in wanted)


def _folder() -> str | None:
    with contextlib.suppress(OSError):  # it was removed
        return os.getcwd()
    return None


def _set_folder(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _cudnn() -> tuple[bool, ...]:
    cudnn: Any = torch.backends.cudnn
    return cudnn.enabled, cudnn.benchmark, cudnn.deterministic


def _set_cudnn(flags: tuple[bool, ...]) -> None:
    cudnn: Any = torch.backends.cudnn
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = flags


def _flushes_denormals() -> bool:
    return bool(torch.tensor(2.0**-1070, dtype=torch.float64, device="cpu").mul(2.0).eq(0.0))


def _set_warnings(filters: list[Any]) -> None:
    held: Any = warnings.filters
    held[:] = filters
    with warnings.catch_warnings():  # leaving it makes Python read the list anew
        pass


SETTINGS: Mapping[str, Setting] = {
    "gradient mode": Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "autocast": Setting(_autocast, _set_autocast),
    "default number type": Setting(torch.get_default_dtype, torch.set_default_dtype),
    "default device": Setting(default_device, torch.set_default_device),
    "number of threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": Setting(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "denormal numbers": Setting(_flushes_denormals, torch.set_flush_denormal),
    "anomaly detection": Setting(_anomaly, lambda flags: torch.set_anomaly_enabled(*flags)),
    "cuDNN": Setting(_cudnn, _set_cudnn),
    "float32 precision": Setting(precision, set_precision),
    "fused attention": Setting(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    "working folder": Setting(_folder, _set_folder),
    "floating-point errors of numpy": Setting(np.geterr, lambda flags: np.seterr(**flags)),
    "warnings": Setting(lambda: list(warnings.filters), _set_warnings),
}
"""All that is put back; what is needed in between is set by `isolated`."""


@contextmanager
def kept_settings(changed: list[str] | None = None) -> Iterator[None]:
    """Put every setting back afterwards; the names of those that were changed are added to `changed`."""
    before = {name: setting.read() for name, setting in SETTINGS.items()}
    try:
        yield
    finally:
        for name, setting in SETTINGS.items():
            if setting.read() != before[name]:
                setting.write(before[name])
                if changed is not None:
                    changed.append(name)


def generators() -> dict[str, Any]:
    """States of all generators of random numbers that are in use: of Python, numpy, torch and its devices."""
    found = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.default_generator.get_state()}
    return found | {name: device.read() for name, device in _device_generators().items()}


def set_generators(states: Mapping[str, Any]) -> None:
    """Go on from these states."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.default_generator.set_state(states["cpu"])
    for name, device in _device_generators().items():
        if name in states:
            device.write(states[name])


def _device_generators() -> dict[str, Setting]:
    found = {}
    if torch.cuda.is_initialized():
        found["cuda"] = Setting(torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all)
    if torch.xpu.is_initialized():
        found["xpu"] = Setting(torch.xpu.get_rng_state_all, torch.xpu.set_rng_state_all)
    if torch.backends.mps.is_available():
        found["mps"] = Setting(torch.mps.get_rng_state, torch.mps.set_rng_state)
    return found


def seed_generators(seed: int) -> None:
    """Seed all generators in use; torch.manual_seed would also leave an order for devices that nobody uses yet."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    for name in _device_generators():
        {"cuda": torch.cuda.manual_seed_all, "xpu": torch.xpu.manual_seed_all, "mps": torch.mps.manual_seed}[name](seed)


@contextmanager
def own_random_numbers(seed: int | None = None, states: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Put all generators back afterwards; meanwhile they are seeded or go on from `states`, where that is asked for."""
    before = generators()
    try:
        if seed is not None:
            seed_generators(seed)
        if states is not None:
            set_generators(states)
        yield
    finally:
        set_generators(before)


class _ToStandardError:
    """Standard output for code that is not ours: what it prints goes beside the report, never into it."""

    def __init__(self, replaced: Any) -> None:
        self.replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


@contextmanager
def prints_aside() -> Iterator[None]:
    """What is printed goes to standard error."""
    before = sys.stdout
    if before is not None and sys.stderr is not None and not isinstance(before, _ToStandardError):
        sys.stdout = _ToStandardError(before)
    try:
        yield
    finally:
        sys.stdout = before


@contextmanager
def standard_output() -> Iterator[None]:
    """The caller's own standard output again, for a while."""
    before = sys.stdout
    sys.stdout = getattr(before, "replaced", before)
    try:
        yield
    finally:
        sys.stdout = before


_ONE_AT_A_TIME = threading.RLock()
"""Settings belong to the process, not to a thread: two threads would put each other's back."""
if hasattr(os, "register_at_fork"):
    # Whatever thread held it, it is not in the child.
    os.register_at_fork(after_in_child=lambda: _ONE_AT_A_TIME._at_fork_reinit())  # type: ignore[attr-defined]

session: ContextVar[dict[Any, Any] | None] = ContextVar("session", default=None)
"""What lives as long as the outermost `isolated`."""


@contextmanager
def isolated() -> Iterator[None]:
    """Work as in a process of its own; settings, random numbers and modules of the caller's are as before afterwards.

    Gradients are on, whatever the caller is in the middle of (`no_grad`, `inference_mode`, `autocast`, a default
    device, anomaly detection), float32 is not rounded to fewer digits, and what the user's code prints goes to
    standard error. Threads that ask for it at the same time wait for each other.
    """
    with ExitStack() as stack:
        stack.enter_context(_ONE_AT_A_TIME)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(kept_settings())
        stack.enter_context(own_random_numbers())
        stack.enter_context(prints_aside())
        torch.set_grad_enabled(True)
        _set_autocast(())
        torch.set_anomaly_enabled(False)
        set_full_precision()
        if default_device() is not None:
            torch.set_default_device(None)
        if torch.get_default_device().type != "cpu":  # the caller is inside `with torch.device(...)`
            stack.enter_context(torch.device("cpu"))
        if session.get() is None:
            token = session.set({})
            stack.callback(session.reset, token)
        yield


@contextmanager
def untouched() -> Iterator[None]:
    """A look at somebody's training: no gradients, and no trace in random numbers or threads; cheap, for every step."""
    threads = torch.get_num_threads()
    try:
        with own_random_numbers(), torch.no_grad():
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
