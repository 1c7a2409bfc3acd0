"""Model words: `lstm:forget_bias=5`, a file of weights, or `module:attr`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from gradscope.errors import UsageError
from gradscope.registry import FAMILIES, unknown
from gradscope.text import safe_text

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".npy", ".pt2")
FILE_SUFFIXES = (*TORCH_SUFFIXES, ".h5", ".hdf5", ".keras", ".onnx", ".msgpack")
MODEL_SUFFIXES = (*FILE_SUFFIXES, ".py", ".jsonl")


@dataclass(frozen=True)
class ModelWord:
    """A model as the user wrote it: a family with options, or the user's own thing (`options` is empty then)."""

    name: str
    """The family, or the whole word for anything else."""
    options: dict[str, str] = field(default_factory=dict)
    text: str = ""

    @property
    def is_family(self) -> bool:
        """Whether gradscope builds this model itself."""
        return self.name in FAMILIES


def parse_model(word: str) -> ModelWord:
    """Split `lstm:forget_bias=5,hidden=128`; leave files, folders and `module:attr` whole for loading.

    Raises:
        UsageError: neither a family nor the shape of a user's model, or an option without `=`.
    """
    name, _, rest = word.partition(":")
    if name in FAMILIES:
        return ModelWord(name, _options(name, rest), word)
    if _is_users(word):
        return ModelWord(word, {}, word)
    raise UsageError(unknown("model", name, FAMILIES) + "; or a file of weights, or module:attr")


def model_file(word: str) -> tuple[str, str | None] | None:
    """The file that a word names and the key behind it, as in `weights.pt:encoder.lstm`; None for anything else.

    A file of Python is none: what stands behind its colon is an attribute.
    """
    places = [place for place, char in enumerate(word) if char == ":"]
    for file, key in [(word, ""), *((word[:place], word[place + 1 :]) for place in places)]:
        named = file.lower().endswith(FILE_SUFFIXES) or (os.path.isfile(file) and not file.endswith(".py"))
        if named:
            return file, key or None
    return None


def _options(family: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in text.split(",") if text else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        key = key.replace("-", "_")
        if not (key and equals and value):
            raise UsageError(
                f"model option '{safe_text(part)}' of {family} has no value; write {family}:name=value,name=value "
                f"(your own {family}.py is ./{family}.py:attr)"
            )
        if key in options:
            raise UsageError(f"model option '{safe_text(key)}' of {family} is given twice; keep one")
        options[key] = value
    return options


def _is_users(word: str) -> bool:
    if "/" in word or os.sep in word or word.endswith(MODEL_SUFFIXES) or model_file(word) is not None:
        return True
    file, colon, attribute = word.rpartition(":")
    dotted = all(part.isidentifier() for part in (*file.split("."), *attribute.split(".")))
    return (bool(colon) and (file.endswith(".py") or dotted)) or (bool(word) and os.path.exists(word))
