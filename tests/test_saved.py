from __future__ import annotations

import io
import json
import math
import os
import sys
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from gradscope.cli.show import show
from gradscope.errors import UsageError
from gradscope.flow_file import lines_of
from gradscope.records import RunSpec
from gradscope.registry import FLOW_FORMATS, FORMATS, SWEEP_FORMATS, load
from gradscope.renderers.report_data import json_text
from gradscope.renderers.view import View
from gradscope.saved import json_schema, read_report
from gradscope.swept import Axis, Sweep, SweepRun
from renderers.reports import WORDS, attention, catalogue, not_finite, paired, report, vanishing
from trajectories import point, run

CATALOGUE = catalogue()
VIEWS = [View(), View(ascii=True, verbose=1, show=("gates",), steps="all")]


@pytest.fixture
def saved(tmp_path):
    """Writes a report, or any text, to a file and returns the path."""

    def write(content):
        path = tmp_path / "report.json"
        path.write_text(content if isinstance(content, str) else json_text(content, View()), encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_format_is_byte_equal_after_a_round_trip(name, saved):
    back = read_report(saved(CATALOGUE[name]))
    for reference in (form.renderer for form in FORMATS.values() if not form.needs):
        for view in VIEWS if len(CATALOGUE[name].models) < 3 else VIEWS[:1]:
            assert load(reference)(back, view) == load(reference)(CATALOGUE[name], view)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"schema":"gradscope.flow/1","head":{}}\n{"point":{}}\n', "holds a training run; name its file"),
        ('{\n  "schema": "gradscope.sweep/1",\n  "run": "analyze"\n}\n', "holds a sweep; name its file"),
    ],
)
def test_standard_input_that_holds_something_else_of_ours(content, told, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    with pytest.raises(UsageError, match=f"standard input {told}: gradscope show FILE"):
        read_report("-")


SWEPT = Sweep(
    run="analyze",
    spec=RunSpec(models=("rnn",)),
    axes=(Axis("hidden", ("4",), "setting"),),
    seeds=(0,),
    versions={},
    fields=("reach",),
    runs=(SweepRun(0, 0, "done", "healthy", None, (7.0,), "", 0.1),),
    threads=1,
)
TRAINED = run(point(0, 70), point(10, 20))
KINDS = {
    "report": (json_text(report(vanishing()), View()), "VANISHING"),
    "training run": (lines_of(TRAINED), "GS501"),
    "training run as one object": (load(FLOW_FORMATS["json"].renderer)(TRAINED, View()), "GS501"),
    "sweep": (load(SWEEP_FORMATS["json"].renderer)(SWEPT, View()), "1 of 1 point "),
}


@pytest.mark.parametrize("way", ["-", "pipe", "file"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_is_shown_from_a_file_from_standard_input_and_from_a_pipe(
    kind, way, tmp_path, monkeypatch, capfdbinary
):
    content, told = KINDS[kind][0].encode(), KINDS[kind][1].encode()
    path = str(tmp_path / "saved")
    if way == "-":
        path = "-"
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    elif way == "pipe":
        os.mkfifo(path)
        Thread(target=Path(path).write_bytes, args=(content,)).start()
    else:
        Path(path).write_bytes(content)
    assert show(path) == 0
    assert told in capfdbinary.readouterr().out


def test_the_records_themselves_come_back(saved):
    original = report(paired(WORDS), attention(WORDS))
    assert read_report(saved(original)) == original


def test_non_finite_numbers_come_back(saved):
    back = read_report(saved(report(not_finite(40)))).models[0]
    assert math.isnan(back.summary.rate)
    assert back.summary.gradient_share == -math.inf
    assert back.series.values["log10_jacobian_norm"][36] == math.inf
    assert back.series.values["log10_influence"] != (None,) * 40
    assert back.summary.reach is None


def test_standard_input(monkeypatch):
    content = json_text(report(vanishing(10)), View()).encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert read_report("-") == report(vanishing(10))


def test_a_byte_order_mark_and_unknown_keys_do_no_harm(saved):
    text = json_text(report(vanishing(10)), View())
    data = {**json.loads(text), "later": 1}
    assert read_report(saved("\ufeff" + json.dumps(data))) == report(vanishing(10))


def changed(**changes):
    return json.dumps({**json.loads(json_text(report(vanishing(3)), View())), **changes})


def changed_model(**changes):
    model = json.loads(json_text(report(vanishing(3)), View()))["models"][0]
    return changed(models=[{**model, **changes}])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", r"is not JSON \(Expecting value"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"schema": NaN}', "bare NaN"),
        ("[]", "no gradscope report"),
        ("{}", "no gradscope report"),
        ('"schema"', "no gradscope report"),
        (
            changed(schema="gradscope.report/9"),
            "has schema 'gradscope.report/9', this version reads 'gradscope.report/1'",
        ),
        (changed(schema=["\x1b[2J"]), "has schema"),
        (changed(models=3), r"models: Input should be a valid tuple"),
        (changed(models=[3]), r"models\.0: "),
        (changed(run=None), r"run: "),
        ('{"schema": "gradscope.report/1"}', r"run: Field required"),
        (changed_model(status="fine"), r"models\.0\.status: Input should be 'healthy'"),
        (changed_model(series=[]), r"models\.0\.series: "),
        (changed_model(series={"step": [0], "log10_influence": ["much"]}), r"models\.0\.series\.log10_influence\.0"),
        (changed_model(series={"step": [0], "\x1b[2J": 3}), r"models\.0\.series\.\\x1b\[2J: "),
        (changed_model(layers=[{"name": "l0"}]), r"models\.0\.layers\.0\.series: Field required"),
        (changed_model(layers=7), r"models\.0\.layers: "),
        (changed_model(summary={"reach": "far"}), r"models\.0\.summary\.reach: "),
    ],
)
def test_malformed_files_are_one_line_with_path_and_first_problem(content, problem, saved):
    path = saved(content)
    with pytest.raises(UsageError, match=problem) as caught:
        read_report(path)
    message = str(caught.value)
    assert message.startswith(f"'{path}' ")
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 600


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*No such file"):
        read_report(str(tmp_path / "missing.json"))
    with pytest.raises(UsageError, match=r"cannot read .*directory"):
        read_report(str(tmp_path))
    with pytest.raises(UsageError, match=r"cannot read 'a\\x00b'"):
        read_report("a\0b")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_report(str(tmp_path / "binary"))


def problems(value, schema, root, place="$"):
    """The ways `value` breaks `schema`: the part of JSON Schema that the report's schema makes use of."""
    if "$ref" in schema:
        return problems(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, place)
    if "anyOf" in schema:
        tried = [problems(value, option, root, place) for option in schema["anyOf"]]
        return [] if [] in tried else min(tried, key=len)
    found = []
    if "const" in schema and value != schema["const"]:
        found.append(f"{place} is not {schema['const']}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place} is none of {schema['enum']}")
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    kind = schema.get("type")
    if kind == "null":
        return [*found, *([] if value is None else [f"{place} is not null"])]
    if kind is not None and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [*found, f"{place} is no {kind}"]
    if isinstance(value, dict):
        found += [f"{place} lacks {name}" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties", {}))
            found += problems(item, {} if inner is True else inner, root, f"{place}.{name}")
    if isinstance(value, list):
        prefix = schema.get("prefixItems", [])
        for i, item in enumerate(value):
            found += problems(item, prefix[i] if i < len(prefix) else schema.get("items", {}), root, f"{place}[{i}]")
    return found


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "ten thousand steps"])
def test_what_is_written_fits_the_schema(name):
    schema = json_schema()
    assert problems(json.loads(json_text(CATALOGUE[name], View())), schema, schema) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (changed(schema="gradscope.report/2"), "$.schema is not gradscope.report/1"),
        (changed(models=3), "$.models is no array"),
        (changed_model(name=None), "$.models[0].name is no string"),
        (changed_model(series={"step": [0]}), "$.models[0].series lacks token"),
    ],
)
def test_the_schema_refuses_what_is_not_the_format(content, problem):
    schema = json_schema()
    assert problem in problems(json.loads(content), schema, schema)


def test_the_schema_is_plain_json_and_knows_the_three_names():
    schema = json_schema()
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"]["schema"] == {"const": "gradscope.report/1"}
    assert schema["$defs"]["Series"]["additionalProperties"]["items"]["anyOf"][1] == {"enum": ["nan", "inf", "-inf"]}
    assert schema["required"] == ["schema", "run", "environment", "models"]
