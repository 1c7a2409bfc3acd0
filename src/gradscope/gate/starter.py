"""The commented tables that `gradscope init` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from gradscope.gate.discover import Found
from gradscope.text import safe_text

EXAMPLE = ("example", "lstm:forget_bias=5")
SETTINGS = (
    ("needs-lag", "50", "how many steps back the task must reach"),
    ("length", "200", "steps of the sequence"),
    ("seeds", "5", "weights are drawn so often; fewer are faster, and noisier"),
    ("input", '"batch.npy"', "a real batch (batch, T, features): without it wrong axes may pass"),
    ("min-reach", "40", "lags that keep 1 % of the newest signal"),
    ("rate", "[-0.05, 0.01]", "nats per step back"),
    ("precision-horizon", "{float32 = 50}", "the lag a gradient must survive to in a number type"),
)


def starter(found: Sequence[Found], key: tuple[str, ...]) -> str:
    """Tables `[tool.gradscope.targets.NAME]`, one for each module; an example where there are none.

    Modules that cannot be built without arguments are commented out, with what they ask for.
    """
    top = ".".join(key)
    lines = [
        "# What `gradscope check` measures; `gradscope explain GS101` and so on say what it finds.",
        f"# For all targets, in {'[' + top + ']' if top else 'the head of this file'}: "
        'baseline = "gradscope-baseline.json", max-drop = "10%", timeout = 600.',
    ]
    names: set[str] = set()
    for module in found:
        name = _name(module.name, names)
        lines += ["", *_table((*key, "targets", name), f"{module.file}:{module.name}", module.needs)]
    if not found:
        lines += ["", *_table((*key, "targets", EXAMPLE[0]), EXAMPLE[1], ())]
    return "\n".join(lines) + "\n"


def _table(key: tuple[str, ...], model: str, needs: Sequence[str]) -> list[str]:
    mark = "# " if needs else ""
    lines = []
    if needs:
        asks = safe_text(", ".join(needs), 100)
        values = ", ".join(f"{name} = 8" for name in needs if name.isidentifier()) or "name = 8"
        lines = [
            f"# It asks for {asks}: give args = {{{safe_text(values, 100)}}}, or name a function that makes one, "
            "file.py:make."
        ]
    lines += [f"{mark}[{'.'.join(key)}]", f"{mark}model = {json.dumps(model, ensure_ascii=False)}"]
    pieces = [f"{name} = {value}" for name, value, _ in SETTINGS]
    width = max(map(len, pieces))
    return [*lines, *(f"# {piece:<{width}}  # {why}" for piece, (_, _, why) in zip(pieces, SETTINGS, strict=True))]


def _name(word: str, taken: set[str]) -> str:
    """`my-encoder` of `MyEncoder`, with a number where it is taken."""
    base = re.sub(r"[^A-Za-z0-9_-]", "", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", word).lower()) or "model"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    taken.add(name)
    return name
