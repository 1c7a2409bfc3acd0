from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from gradscope.errors import UsageError
from gradscope.records import Report, Verdict
from gradscope.registry import FLOW_FORMATS, FORMATS, load
from gradscope.renderers import markdown, report_data, run_screen, screen
from gradscope.renderers.view import View
from gradscope.trained import Probe, Sighting, Training
from renderers.reports import WORDS, attention, catalogue, healthy, not_finite, paired, report, vanishing
from trajectories import eventful

VIEW = View()


def test_json_lays_steps_tokens_and_series_side_by_side():
    data = json.loads(report_data.json_text(report(paired(WORDS)), VIEW))
    assert next(iter(data)) == "schema"
    assert data["schema"] == "gradscope.report/1"
    model = data["models"][0]
    assert list(model["series"])[:3] == ["step", "token", "log10_grad_state"]
    assert model["series"]["step"] == list(range(17))
    assert model["series"]["token"] == list(WORDS)
    assert len(model["series"]["log10_influence"]) == 16
    assert model["layers"][0]["series"]["step"] == list(range(17))
    assert "values" not in model["series"]
    assert model["pairs"][0]["paths"][2] == {"layer": "l0", "path": "gates", "log10_norm": "-inf"}


def test_json_spells_non_finite_numbers_and_nulls():
    text = report_data.json_text(report(not_finite(2)), VIEW)
    data = json.loads(text, parse_constant=lambda word: pytest.fail(f"bare {word}"))
    summary = data["models"][0]["summary"]
    assert (summary["rate"], summary["gradient_share"], summary["reach"]) == ("nan", "-inf", None)
    assert data["models"][0]["series"]["log10_influence"] == ["nan", "nan"]


def test_json_is_one_ascii_object_and_the_same_every_time():
    saved = catalogue()["compare of everything"]
    text = report_data.json_text(saved, VIEW)
    assert text == report_data.json_text(saved, View(width=200, colour=True, steps="all"))
    assert text.isascii()
    assert text.endswith("}\n")
    assert len(json.loads(text)["models"]) == 6


def test_json_writes_whole_numbers_as_floats_where_the_format_has_floats():
    base = vanishing(2)
    verdict = Verdict("GS104", "reach", "warning", "warn", "short", measured=7, threshold=19)
    summary = replace(base.summary, reach=3, rate_ci=(-1, 0), lyapunov=(0, None))
    drawn = replace(base.series, values={"weight_share": (0, 1)})
    text = report_data.json_text(report(replace(base, series=drawn, summary=summary, verdicts=(verdict,))), VIEW)
    for line in (
        '"weight_share": [0.0, 1.0]',
        '"measured": 7.0',
        '"threshold": 19.0',
        '"reach": 3,',
        '"rate_ci": [-1.0, 0.0]',
        '"lyapunov": [0.0, null]',
        '"step": [0, 1, 2]',
    ):
        assert line in text


def test_csv_has_a_row_per_model_and_step():
    rows = list(csv.DictReader(io.StringIO(report_data.csv_text(report(paired(WORDS), attention(WORDS)), VIEW))))
    assert len(rows) == 34
    assert list(rows[0])[:4] == ["model", "step", "lag", "token"]
    assert (rows[0]["model"], rows[0]["step"], rows[0]["lag"], rows[0]["token"]) == ("lstm", "0", "16", "")
    assert (rows[16]["token"], rows[16]["log10_grad_state"], rows[16]["log10_influence"]) == ("hungry", "-0.0", "-0.5")
    assert rows[0]["log10_grad_input"] == ""
    assert (rows[17]["model"], rows[17]["log10_jacobian_norm"]) == ("attention", "")


def test_csv_of_a_probe_has_a_row_per_run_and_look():
    runs = (
        Training(
            0.01,
            0,
            1.0,
            50,
            50,
            None,
            3,
            (0, 25, 50),
            (0.75, 0.5, 0.02),
            (1.5, 2.5, 0.0),
            (Sighting(2, -3.5, 7, -0.1),),
        ),
        Training(0.1, 1, None, None, 25, 25, 0, (0, 25), (0.75, math.nan), (1.0, math.inf)),
    )
    probe = Probe("recall", "name it", 9, "fixed", 50, 0.1, 0.75, "wrong", runs)
    told = report_data.csv_text(report(replace(not_finite(40), name="=rnn", probe=probe)), VIEW)
    rows = list(csv.DictReader(io.StringIO(told)))
    assert [(row["seed"], row["training_step"], row["error"], row["largest_norm"], row["learned"]) for row in rows] == [
        ("0", "0", "0.75", "1.5", "0"),
        ("0", "2", "", "", ""),
        ("0", "25", "0.5", "2.5", "0"),
        ("0", "50", "0.02", "", "1"),
        ("1", "0", "0.75", "1.0", "0"),
        ("1", "25", "nan", "", "0"),
    ]
    assert (rows[1]["log10_share"], rows[1]["reach"]) == ("-3.5", "7")
    assert (rows[0]["model"], rows[0]["clip"], rows[4]["clip"]) == ("'=rnn", "1.0", "")


def test_csv_keeps_non_finite_values():
    rows = list(csv.DictReader(io.StringIO(report_data.csv_text(report(not_finite(40)), VIEW))))
    assert (rows[37]["log10_jacobian_norm"], rows[38]["log10_jacobian_norm"]) == ("inf", "nan")
    assert report_data.csv_text(report(), VIEW) == "model,step,lag,token\n"


def test_markdown_of_one_model():
    text = markdown.render(report(vanishing()), VIEW)
    assert text.startswith("### ✗ VANISHING GS101: <code>rnn</code>\n\n1x64 · T=200")
    assert "\n\nIt learns only from the newest 7 of 199 lags; step 1 gets 10^-52 of the signal. Each step" in text
    assert "\n```text\nstep 1 ◂──" in text
    assert "\n| quantity | value |\n|---|---|\n| rate | -0.597 ± 0.015 nats/step |\n" in text
    assert "\n- ! GS104: reach 7 of 199 lags\n" in text
    assert "\n| orthogonal | W\\_hh orthogonal | 23 | 0.82 | vanishing |\n" in text


def test_markdown_of_several_models():
    text = markdown.render(report(vanishing(), healthy(), attention()), VIEW)
    assert text.startswith("### Which model still hears 199 steps back?\n\nlstm:forget\\_bias=5 and attention reach")
    assert "\n| rnn | -0.597 | 1.2 | 7 | 10^-52 | 1.6 | 3 | ✗ VANISHING GS101 |\n" in text
    assert "\n| attention | 9 9 O(1) | 17 17 O(1) | - | 21 43 88 | inconclusive |\n" in text
    assert text.count("\n#### ") == 3
    assert markdown.render(report(vanishing(), healthy()), View(quiet=True)).count("\n") == 2


def test_drawing_is_quick_and_leaves_tensors_alone():
    script = (
        "import sys; from gradscope.registry import FORMATS, load; from importlib.util import find_spec\n"
        "from gradscope.records import *; from gradscope.renderers.view import View\n"
        "s = Series((0, 1), None, {'log10_influence': (0.0,)})\n"
        "m = ModelResult('rnn', 'recurrent', 'healthy', 1, 1, Loaded('rnn'), Summary(), s)\n"
        "r = Report(RunSpec(), {}, (m,))\n"
        "forms = [form for form in FORMATS.values() if all(map(find_spec, form.needs))]\n"
        "[load(form.renderer)(r, View(colour=c)) for form in forms for c in (False, True)]\n"
        "r._repr_mimebundle_()\n"
        "print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("length", [10, 10_000])
def test_a_screen_takes_no_noticeable_time(length):
    saved = report(healthy(length))
    screen.render(saved, VIEW)
    best = min(_seconds(saved) for _ in range(5))
    assert best < 0.25


def _seconds(saved):
    start = time.perf_counter()
    screen.render(saved, VIEW)
    return time.perf_counter() - start


def test_notebooks_show_the_screen():
    bundle = report(vanishing())._repr_mimebundle_()
    assert bundle["text/plain"] == screen.render(report(vanishing()), VIEW)
    assert bundle["text/html"].startswith('<pre style="font-family: monospace')
    assert "color: #0072B2" in bundle["text/html"]
    assert "‖dL/dW‖" in bundle["text/html"]


@pytest.mark.parametrize(
    ("shown", "renderer"), [(report(vanishing()), screen), (eventful(), run_screen)], ids=["report", "run"]
)
def test_what_was_measured_shows_itself_and_writes_itself(shown, renderer, tmp_path, monkeypatch):
    screen = renderer.render(shown, VIEW)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert str(shown) == repr(shown) == screen.rstrip("\n")
    bundle = shown._repr_mimebundle_()
    assert bundle["text/plain"] == screen
    assert bundle["text/html"].startswith("<pre")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert str(shown).isascii()
    formats = FORMATS if isinstance(shown, Report) else FLOW_FORMATS
    for suffix in (".json", ".csv", ".md", ".txt"):
        shown.save(tmp_path / f"out{suffix}")
        form = next(form for form in formats.values() if form.suffix == suffix)
        assert (tmp_path / f"out{suffix}").read_text(encoding="utf-8") == load(form.renderer)(shown, VIEW)
    with pytest.raises(UsageError, match=r"x\.jsn' has no suffix that names a format; use one of \.txt, "):
        shown.save(tmp_path / "x.jsn")


def test_one_model_of_a_report_is_one_line():
    assert repr(report(vanishing()).models[0]) == "<ModelResult of rnn: vanishing, reach 7, 200 steps>"


def test_notebooks_show_charts_that_need_no_network():
    pytest.importorskip("vl_convert", reason="the extra [report] is not installed")
    found = report(paired(WORDS), attention(WORDS))._repr_mimebundle_()["text/html"]
    pictures = re.findall(r'<img alt="([^"]+)" style="[^"]+" src="data:image/svg\+xml;base64,([^"]+)">', found)
    assert [said.split(".")[0] for said, _ in pictures] == [
        "Influence on the loss by lag",
        "Influence of every earlier token on the newest output",
        "Attention weights",
    ]
    assert all(base64.b64decode(drawn).startswith(b"<svg") for _, drawn in pictures)
    assert "http" not in found
