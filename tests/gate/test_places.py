"""Where things are written: settings in TOML files, models in source files, modules in a project."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gradscope.config.command import setup_of
from gradscope.config.sources import beside, line_of
from gradscope.config.words import relative, shown_path
from gradscope.gate.measure import Task, measure
from gradscope.gate.starter import Found, recurrent_modules
from gradscope.loading.objects import cut_in, definition
from gradscope.records import Limits, Location, Report, RunSpec, Target
from gradscope.renderers import ci
from gradscope.renderers.ci import github
from gradscope.renderers.view import View

TOML = """\
[project]
name = "x"

[tool.gradscope]
seed = 1
targets.inline = {model = "rnn", seed = 2}

[tool.gradscope.targets."a.b"]
model = "rnn"
thresholds.reach_part = 0.5

[tool . gradscope . targets.'c']
'needs-lag' = 3
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("seed", 5),
        ("targets inline", 6),
        ("targets inline seed", 6),
        ("targets a.b", 8),
        ("targets a.b model", 9),
        ("targets a.b thresholds", 10),
        ("targets c", 12),
        ("targets c needs-lag", 13),
        ("missing", 1),
    ],
)
def test_lines_of_settings(path, line):
    assert line_of(TOML, ("tool", "gradscope", *path.split())) == line


SOURCE = """\
import torch.nn as nn
from elsewhere import Far as near


class Outer(nn.Module):
    class Inner(nn.LSTM):
        pass


made = Outer()


def make(size=3):
    return Outer()
"""


@pytest.mark.parametrize(
    ("attribute", "line"), [("Outer", 5), ("Outer.Inner", 6), ("made", 10), ("make", 13), ("near", 2), ("gone", None)]
)
def test_lines_of_models_in_files(tmp_path, attribute, line):
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    assert definition(f"{path}:{attribute}") == (path, line)


CUT = """\
import torch


def helper(x):
    return x.detach()


class Loop(torch.nn.Module):
    def forward(self, x):
        h = 0
        for t in range(3):
            h = (h + x).detach()
        return h


@torch.no_grad()
def frozen(x):
    return x


class Twice(torch.nn.Module):
    def forward(self, x):
        x = x.detach()
        return x.data


class Plain(torch.nn.Module):
    pass
"""


@pytest.mark.parametrize(("line", "cut"), [(8, 12), (4, 5), (16, 16), (21, None), (27, None), (None, None)])
def test_the_line_of_a_cut_where_there_is_one(tmp_path, line, cut):
    (tmp_path / "net.py").write_text(CUT)
    assert cut_in(tmp_path / "net.py", line) == cut
    (tmp_path / "net.py").write_text(CUT[: CUT.index("class")] + "class Plain:\n    pass\n")
    assert cut_in(tmp_path / "net.py", 8) == 5
    assert cut_in(tmp_path / "gone.py", 8) is None


def test_a_cut_is_annotated_at_its_own_line(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.cell = torch.nn.GRUCell(3, 4)\n\n    def forward(self, x):\n"
        "        h, out = x.new_zeros(len(x), 4), []\n"
        "        for t in range(x.shape[1]):\n            h = self.cell(x[:, t], h if t != 5 else h.detach())\n"
        "            out.append(h)\n        return torch.stack(out, 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    spec = RunSpec(models=("net.py:Net",), length=12)
    result = measure(Task(Target("net", spec, Limits(), None), str(tmp_path), True, 1)).result
    (found,) = [verdict for verdict in result.verdicts if verdict.code == "GS401"]
    assert (found.status, found.location, result.loaded.location) == (
        "fail",
        Location("net.py", 12),
        Location("net.py", 4),
    )
    report = Report(spec, {}, (result,))
    assert ",file=net.py,line=12::" in github(report, View())
    (at,) = [one for one in json.loads(ci.sarif(report, View()))["runs"][0]["results"] if one["ruleId"] == "GS401"]
    assert at["locations"][0]["physicalLocation"]["region"] == {"startLine": 12}


def test_lines_of_models_in_modules_are_where_they_are_defined(tmp_path, monkeypatch):
    (tmp_path / "inner_net.py").write_text("class Net:\n    pass\n")
    (tmp_path / "outer_net.py").write_text("from inner_net import Net\n\nnet = Net()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert definition("outer_net:Net") is None
    __import__("outer_net")
    try:
        assert definition("outer_net:Net") == (tmp_path / "inner_net.py", 1)
        assert definition("outer_net:net") == (tmp_path / "outer_net.py", 3)
    finally:
        del sys.modules["outer_net"], sys.modules["inner_net"]


@pytest.mark.parametrize("setting", ["models", "loss", "task"])
def test_gradscopes_own_words_are_no_paths_whatever_lies_beside_them(tmp_path, monkeypatch, setting):
    own = {"models": "rnn:gain=1", "loss": "mse", "task": "recall"}[setting]
    sub = tmp_path / "sub"
    for name in ("rnn", "mse", "recall", "sub", "mine.py"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(sub)
    assert beside(setting, own, tmp_path, sub) == own
    assert beside(setting, "mine.py:f", tmp_path, sub) == "../mine.py:f"
    assert setup_of(replace(RunSpec(), models=("rnn",), loss="mse"), tmp_path)["model"] == "rnn"


def test_a_path_on_another_drive_stays_whole(monkeypatch):
    def other_drive(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", other_drive)
    assert relative("/data/x.csv", "/project") == "/data/x.csv"
    assert shown_path(Path("/repo/m.py"), Path("/repo"), {}) == "/repo/m.py"


@pytest.mark.parametrize("word", ["rnn", "lstm:forget_bias=5", "gone.py:Net", "gone.module:Net", "gone.pt"])
def test_what_has_no_source_has_no_place(word):
    assert definition(word) is None


def test_paths_count_from_the_repository_where_ci_names_it():
    cwd = Path("/repo/sub")
    assert shown_path(Path("m.py"), cwd, {}) == "m.py"
    assert shown_path(Path("m.py"), cwd, {"GITHUB_WORKSPACE": "/repo"}) == "sub/m.py"
    assert shown_path(Path("m.py"), cwd, {"GITHUB_WORKSPACE": "/other"}) == "m.py"


def test_modules_are_found_without_running_anything(tmp_path):
    (tmp_path / "net.py").write_text(
        "raise SystemExit\nimport torch\n"
        "class A(torch.nn.Module):\n    def __init__(self, size, depth=1, *, rate):\n        torch.nn.GRU(1, 1)\n"
        "class B(torch.nn.LSTM):\n    pass\n"
        "class C(torch.nn.Module):\n    def __init__(self):\n        self.l = torch.nn.Linear(1, 1)\n"
        "class D:\n    def f(self):\n        return torch.nn.RNN(1, 1)\n"
        "class E(A):\n    pass\n"
        "class F(B, Module):\n    def forward(self, x):\n        return torch.nn.GRU(1, 1)(x)\n"
        "class G(MyModule):\n    rnn = torch.nn.GRU(1, 1)\n"
        "class H(torch.nn.Module):\n    rnn = torch.nn.GRU(1, 1)\n"
    )
    for folder in (".hidden", "node_modules", "tests", "odd"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "n.py").write_text("import torch\nclass E(torch.nn.RNN): pass\n")
    (tmp_path / "odd" / "pyvenv.cfg").touch()
    (tmp_path / "broken.py").write_text("class (")
    assert recurrent_modules(tmp_path) == [
        Found("net.py", "A", 3, ("size", "rate")),
        Found("net.py", "B", 6, ("input_size", "hidden_size")),
        Found("net.py", "F", 16, ("input_size", "hidden_size")),
        Found("net.py", "G", 19, ("what MyModule asks for",)),
        Found("net.py", "H", 21, ()),
    ]
