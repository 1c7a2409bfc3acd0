"""Model words (`lstm:forget_bias=5`, a file of weights, `module:attr`), and how settings and messages name paths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gradscope.errors import UsageError
from gradscope.registry import FAMILIES, TASKS, unknown
from gradscope.text import safe_text

LOSSES = ("final", "every", "ce", "mse")
PATHS = ("models", "input", "target", "loss", "task", "vocab", "weights", "import_path", "state")
"""Settings that may name files."""


def names_path(setting: str, value: str) -> bool:
    """Whether a setting's value is for a file; `rnn`, `mse` and `recall` are gradscope's own, whatever lies there."""
    own = {"models": FAMILIES, "loss": LOSSES, "task": TASKS}.get(setting, ())
    return setting in PATHS and bool(value) and value.partition(":")[0] not in own


def is_file_of_numbers(name: str | None) -> bool:
    """Whether an input is a file whose steps have features of their own; a text has tokens."""
    return name is not None and not name.lower().endswith(".txt")


def relative(path: str | Path, start: str | Path) -> str:
    """`path` as seen from the folder `start`, with forward slashes; whole where no way leads there (another drive)."""
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:
        return Path(os.path.abspath(path)).as_posix()


def shown_path(path: Path, cwd: Path, environ: Mapping[str, str]) -> str:
    """`path` as a CI service expects it: from the repository where it says so, else from the working folder."""
    absolute = Path(os.path.abspath(cwd / path))
    workspace = environ.get("GITHUB_WORKSPACE")
    base = Path(os.path.abspath(workspace)) if workspace else cwd
    if not absolute.is_relative_to(base):
        base = cwd
    return relative(absolute, base)


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
