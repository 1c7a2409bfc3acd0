"""Families: what gradscope builds from a word such as `lstm:forget_bias=5`, with seeded weights of its own."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from gradscope.errors import UsageError
from gradscope.memory import MARGIN, available_bytes
from gradscope.models.cell import Cell
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.registry import FAMILIES, resolve, unknown
from gradscope.text import safe_text

BYTES = 8
"""Of a number, drawn in float64 whatever the type of the run."""
Init = Literal["uniform", "normal", "orthogonal", "identity"]


class Draw:
    """A stream of random tensors. Drawn in float64 on the CPU, so dtype and device do not change the numbers."""

    def __init__(self, seed: int, dtype: torch.dtype, device: str) -> None:
        """Start the stream of `seed`; tensors come out in `dtype` on `device`."""
        self.generator = torch.Generator().manual_seed(seed)
        self.free, self.drawn, self.matrices = available_bytes(), 0, 0
        self.dtype, self.device = dtype, device

    def _room(self, *shape: int) -> None:
        """Refuse a tensor before memory is asked for it, what was drawn before counted in.

        Raises:
            UsageError: it does not fit, with the sizes.
        """
        count = math.prod(shape)
        needed = BYTES * (self.drawn + 2 * count)
        self.drawn, self.matrices = self.drawn + count, self.matrices + (len(shape) > 1)
        if self.free is None or needed <= MARGIN * self.free:
            return
        # As many matrices of one size, and as much again for what is computed with them.
        fits = int((MARGIN * self.free / BYTES / 8 / max(2, self.matrices)) ** 0.5)
        sizes = " x ".join(f"{n:,}" for n in shape)
        what = (
            f"{self.matrices} matrices of weights, the last of {sizes}," if self.matrices > 1 else f"weights of {sizes}"
        )
        have = f"need {needed / 2**30:,.1f} GiB and {self.free / 2**30:.1f} GiB are free"
        raise UsageError(f"{what} {have}; a smaller model fits, --hidden {min(fits, *shape)} for one")

    def place(self, values: Tensor) -> Tensor:
        """`values` in the dtype and on the device of this stream."""
        return values.to(self.device, self.dtype)

    def uniform(self, *shape: int, bound: float) -> Tensor:
        """Uniform in [-bound, bound]."""
        self._room(*shape)
        return self.place((2 * torch.rand(*shape, dtype=torch.float64, generator=self.generator) - 1) * bound)

    def normal(self, *shape: int, deviation: float = 1.0) -> Tensor:
        """Normal with the given standard deviation."""
        self._room(*shape)
        return self.place(torch.randn(*shape, dtype=torch.float64, generator=self.generator) * deviation)

    def orthogonal(self, size: int) -> Tensor:
        """Haar-distributed orthogonal matrix (Mezzadri 2007: QR of a Gaussian matrix, signs of diag R fixed)."""
        self._room(size, size)
        q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=self.generator))
        return self.place(q * r.diagonal().sign())

    def identity(self, size: int) -> Tensor:
        """The identity."""
        self._room(size, size)
        return self.place(torch.eye(size, dtype=torch.float64))


def recurrent_matrix(init: Init, gain: float, hidden: int, draw: Draw) -> Tensor:
    """W_hh (hidden, hidden) by the named scheme, times `gain`."""
    if init == "uniform":
        return gain * draw.uniform(hidden, hidden, bound=hidden**-0.5)
    if init == "normal":
        return gain * draw.normal(hidden, hidden, deviation=hidden**-0.5)
    if init == "orthogonal":
        return gain * draw.orthogonal(hidden)
    return gain * draw.identity(hidden)


def input_matrix(init: Init, hidden: int, input_size: int, draw: Draw) -> Tensor:
    """W_ih (hidden, input_size): normal with deviation 1/sqrt(hidden) for `normal`, otherwise as torch.nn."""
    if init == "normal":
        return draw.normal(hidden, input_size, deviation=hidden**-0.5)
    return draw.uniform(hidden, input_size, bound=hidden**-0.5)


Model = Recurrent | WholeModule


@dataclass(frozen=True)
class StackOptions:
    """Options every family has."""

    hidden: int = 64
    """Units per layer."""
    layers: int = 1
    input: int | None = None
    """Features per step; as the sequence gives when absent."""

    def __post_init__(self) -> None:
        """Refuse sizes below one."""
        for name in ("hidden", "layers"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)} cannot be: a model needs at least 1")
        if self.input is not None and self.input < 0:
            raise UsageError(f"input={self.input} cannot be: 0 features (autonomous) is the least")


class Build(Protocol):
    """Make a model: `build(options, name, input_size, draw)`."""

    def __call__(self, options: Any, name: str, input_size: int, draw: Draw) -> Model:
        """Fresh weights come from `draw`."""
        ...


@dataclass(frozen=True)
class Family:
    """A kind of model, its options and how to build one."""

    name: str
    options: type[StackOptions]
    build: Build
    summary: str


def stack(make_cell: Callable[[Any, str, int, Draw], Cell]) -> Build:
    """Build stacks of the layers that `make_cell(options, name, input_size, draw)` makes."""

    def build(options: StackOptions, name: str, input_size: int, draw: Draw) -> Recurrent:
        cells: list[Cell] = []
        for index in range(options.layers):
            width = cells[-1].output_size if cells else input_size
            cells.append(make_cell(options, f"l{index}", width, draw))
        return Recurrent(name, cells)

    return build


@dataclass(frozen=True)
class FamilyModel:
    """A family with its options settled, from which a model is built for any seed and input size."""

    text: str
    family: Family
    options: StackOptions

    def build(self, *, input_size: int, seed: int, dtype: torch.dtype, device: str = "cpu") -> Model:
        """A model with fresh weights; the same seed gives the same weights in every dtype and on every device."""
        return self.family.build(self.options, self.text, input_size, Draw(seed, dtype, device))


def family_model(name: str, given: Mapping[str, str], text: str, defaults: Mapping[str, Any]) -> FamilyModel:
    """Settle the options of family `name`: those `given` as text over `defaults` (both by option name).

    Raises:
        UsageError: unknown family or option, or a value that the option cannot take.
    """
    family: Family = resolve(FAMILIES, name, "model")
    kinds = typing.get_type_hints(family.options)
    names = [field.name for field in dataclasses.fields(family.options)]
    for option in given:
        if option not in names:
            raise UsageError(unknown(f"option of {name}", option, names))
    values = {key: value for key, value in defaults.items() if key in names}
    values |= {option: _convert(name, option, value, kinds[option]) for option, value in given.items()}
    return FamilyModel(text, family, family.options(**values))


def _convert(family: str, option: str, value: str, kind: Any) -> Any:
    """Turn the text of an option into its declared type."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise UsageError(unknown(f"value for {family}:{option}", value, choices))
        return value
    if kind is bool:
        truth = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if value.lower() not in truth:
            raise UsageError(f"{family}:{option}='{safe_text(value)}' is not true or false")
        return truth[value.lower()]
    try:
        return kind(value)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise UsageError(f"{family}:{option}='{safe_text(value)}' is not {wanted}") from None
