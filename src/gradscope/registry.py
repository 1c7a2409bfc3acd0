"""Tables of name -> "module:attr": the one list of what gradscope offers, and how a name becomes an object."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from gradscope.errors import UsageError
from gradscope.text import safe_text

FAMILIES: Mapping[str, str] = {
    "rnn": "gradscope.models.rnn:FAMILY",
    "gru": "gradscope.models.gru:FAMILY",
    "lstm": "gradscope.models.lstm:FAMILY",
    "lru": "gradscope.models.lru:FAMILY",
    "attention": "gradscope.models.attention:FAMILY",
    "transformer": "gradscope.models.transformer:FAMILY",
}

RULES: Mapping[str, str] = {
    "GS101": "gradscope.rules.gs101_vanishing_rate:RULE",
    "GS102": "gradscope.rules.gs102_exact_zero:RULE",
    "GS103": "gradscope.rules.gs103_one_direction:RULE",
    "GS104": "gradscope.rules.gs104_reach:RULE",
    "GS201": "gradscope.rules.gs201_exploding_rate:RULE",
    "GS202": "gradscope.rules.gs202_chaos:RULE",
    "GS301": "gradscope.rules.gs301_non_finite:RULE",
    "GS303": "gradscope.rules.gs303_saturation:RULE",
    "GS401": "gradscope.rules.gs401_gradient_cut:RULE",
}

RENDERERS: Mapping[str, str] = {
    "text": "gradscope.renderers.terminal:render",
    "json": "gradscope.renderers.json:render",
    "csv": "gradscope.renderers.csv:render",
    "markdown": "gradscope.renderers.markdown:render",
}

SUFFIXES: Mapping[str, str] = {".txt": "text", ".json": "json", ".csv": "csv", ".md": "markdown"}


def resolve(table: Mapping[str, str], name: str, what: str) -> Any:
    """The object that `name` stands for in `table`.

    Raises:
        UsageError: `name` is not in the table; the message lists the names and the nearest one.
    """
    if name not in table:
        raise UsageError(unknown(what, name, table))
    return load(table[name])


def load(reference: str) -> Any:
    """Import `module:attr`."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that is not known: `unknown model 'lstn'; did you mean 'lstm'? (one of: ...)`."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} '{safe_text(name)}'{hint} (one of: {', '.join(names)})"
