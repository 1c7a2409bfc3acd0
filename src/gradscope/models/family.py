"""Families: what gradscope builds from a word such as `lstm:forget_bias=5,hidden=128`."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from gradscope.errors import UsageError
from gradscope.models.cell import Cell
from gradscope.models.direct import Direct
from gradscope.models.initialize import Draw
from gradscope.models.recurrent import Recurrent
from gradscope.registry import FAMILIES, resolve, unknown
from gradscope.text import safe_text

Model = Recurrent | Direct


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
