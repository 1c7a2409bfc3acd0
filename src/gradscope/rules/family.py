"""Which family a result belongs to, and the command that tries the same model with one option changed."""

from __future__ import annotations

import re

from gradscope.records import BUILT, ModelResult
from gradscope.registry import FAMILIES

_NAME = re.compile(r"[a-z]+(:[a-z_]+=[\w.+-]+(,[a-z_]+=[\w.+-]+)*)?")


def is_built(result: ModelResult) -> bool:
    """Whether the model is a family that was named by its word, which a command can name again."""
    return result.loaded.source == BUILT and _word(result) in FAMILIES


def family(result: ModelResult) -> str:
    """The family word of a result; its kind (`module`, `chain`, ...) where it is none that gradscope knows.

    Layers of torch.nn are recognised by the class that they were checked against (`torch.nn.LSTM`), those inside a
    module by their own; never by what somebody calls a class of their own.
    """
    if is_built(result):
        return _word(result)
    check = result.loaded.equality_check
    library, _, name = check.against.rpartition(".") if check else ("", "", "")
    kinds = {name} if library == "torch.nn" else {one.removesuffix("Cell") for one in result.loaded.parts.values()}
    word = kinds.pop().lower() if len(kinds) == 1 else ""
    return word if word in FAMILIES else result.kind


def places(result: ModelResult) -> str:
    """`self.rnn`, `self.encoder[0] and self.decoder`: where its layers lie in the user's module; empty for others."""
    names = [re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", f"self.{name}") for name in result.loaded.parts if name]
    listed = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    return " and ".join(names) if len(names) < 3 else listed


def _word(result: ModelResult) -> str:
    """The first word of a name, `rnn` of `rnn:hidden=8#2`, the second model of that name in one run."""
    return named(result).partition(":")[0]


def named(result: ModelResult) -> str:
    """The model as its user named it: without the number that tells equal names apart."""
    return re.sub(r"#\d+$", "", result.name)


def options(name: str) -> dict[str, str]:
    """The options in a model's name: `lstm:hidden=32` gives {"hidden": "32"}; a name of another form gives {}."""
    if not _NAME.fullmatch(name) or ":" not in name:
        return {}
    return dict(part.split("=", 1) for part in name.partition(":")[2].split(","))


def variant(result: ModelResult, **changed: str) -> str:
    """The result's own model with options changed, `lstm:hidden=32,forget_bias=5.7`; the bare family if loaded."""
    word = family(result)
    kept = options(named(result)) if is_built(result) else {}
    settled = ",".join(f"{key}={value}" for key, value in (kept | changed).items())
    return f"{word}:{settled}" if settled else word
