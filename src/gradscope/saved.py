"""Saved reports: reading a file of the format `gradscope.report/1`, and the JSON Schema of that format."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gradscope.errors import UsageError
from gradscope.flow_file import is_flow
from gradscope.records import SCHEMA, Report
from gradscope.swept import SCHEMA as SWEEP
from gradscope.text import safe_text

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

NON_FINITE = ["nan", "inf", "-inf"]
OWN_COLUMNS = ("step", "token")


def read_report(path_or_dash: str) -> Report:
    """The report in a file, or on standard input for `-`.

    Raises:
        UsageError: the file cannot be read, is no JSON, no gradscope report, of another schema version, or
            malformed; the message names the path and the first problem.
    """
    return parse_report(*content_of(path_or_dash))


def parse_report(content: bytes, name: str) -> Report:
    """The report in the content of a file called `name`.

    Raises:
        UsageError: see `read_report`.
    """
    if is_flow(content[:400]):
        raise UsageError(f"{name} holds a training run; name its file: gradscope show FILE.jsonl")
    data = _parsed(content, name)
    if not isinstance(data, dict) or "schema" not in data:
        raise UsageError(f"{name} is no gradscope report (it has no 'schema'); write one with --format json")
    if data["schema"] == SWEEP:
        raise UsageError(f"{name} holds a sweep; name its file: gradscope show FILE.json")
    if data["schema"] != SCHEMA:
        found = safe_text(data["schema"], limit=60)
        raise UsageError(
            f"{name} has schema '{found}', this version reads '{SCHEMA}'; write it again with this version"
        )
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(_nested(data))
    except ValidationError as error:
        problem = _first_problem(error)
    raise UsageError(f"{name} is not a well-formed gradscope report: {problem}; write it again with --format json")


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the file format as it is written: flat series, non-finite numbers by name."""
    schema = _adapter().json_schema(mode="validation")
    schema = _with_names_for_non_finite(schema)
    number = {"anyOf": [{"type": "number"}, {"enum": NON_FINITE}, {"type": "null"}]}
    schema["$defs"]["Series"] = {
        "type": "object",
        "title": "Series",
        "description": "Per-step quantities: `step`, `token` and one array per quantity, side by side.",
        "properties": {
            "step": {"type": "array", "items": {"type": "integer"}},
            "token": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        },
        "required": list(OWN_COLUMNS),
        "additionalProperties": {"type": "array", "items": number},
    }
    schema["properties"]["schema"] = {"const": SCHEMA}
    schema["required"] = ["schema", *schema["required"]]
    schema.pop("description", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "gradscope report"}


def content_of(path_or_dash: str) -> tuple[bytes, str]:
    """All bytes of a file, or of standard input for `-`, and how messages name it.

    Raises:
        UsageError: it cannot be read.
    """
    name = "standard input" if path_or_dash == "-" else f"'{safe_text(path_or_dash)}'"
    if path_or_dash == "-" and sys.stdin is None:
        raise UsageError("standard input is closed; name a file, or send one in with < or |")
    try:
        return (sys.stdin.buffer.read() if path_or_dash == "-" else Path(path_or_dash).read_bytes()), name
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise UsageError(f"cannot read {name}: {reason}; give a file written with --format json") from None


def _parsed(content: bytes, name: str) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=_no_constant)
    except RecursionError:
        problem = "nested too deeply"
    except UnicodeDecodeError:
        problem = "not UTF-8 text"
    except ValueError as error:
        problem = safe_text(error)
    raise UsageError(f"{name} is not JSON ({problem}); write a report with --format json") from None


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"bare {word} is not JSON")


@cache
def _adapter() -> TypeAdapter[Report]:
    # pydantic takes longer to import than a screen takes to draw, so it waits until a file is read.
    from pydantic import TypeAdapter

    return TypeAdapter(Report)


def _nested(data: dict[str, Any]) -> dict[str, Any]:
    """The file's flat series as the records hold them; anything unexpected is left for validation to name."""
    models = data.get("models")
    if not isinstance(models, list):
        return data
    return {**data, "models": [_model(model) if isinstance(model, dict) else model for model in models]}


def _model(model: dict[str, Any]) -> dict[str, Any]:
    found = dict(model)
    if "series" in found:
        found["series"] = _series(found["series"])
    if isinstance(found.get("layers"), list):
        found["layers"] = [
            {**layer, "series": _series(layer["series"])} if isinstance(layer, dict) and "series" in layer else layer
            for layer in found["layers"]
        ]
    return found


def _series(series: Any) -> Any:
    if not isinstance(series, dict):
        return series
    own = {name: series[name] for name in OWN_COLUMNS if name in series}
    return {**own, "values": {name: values for name, values in series.items() if name not in OWN_COLUMNS}}


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"] if part != "values")
    return safe_text(f"{place}: {first['msg']}")


def _with_names_for_non_finite(node: Any) -> Any:
    """Every float may also be one of the three names."""
    if isinstance(node, list):
        return [_with_names_for_non_finite(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") == "number":
        rest = {key: value for key, value in node.items() if key != "type"}
        return {"anyOf": [{"type": "number"}, {"enum": NON_FINITE}], **rest}
    return {key: _with_names_for_non_finite(value) for key, value in node.items()}
