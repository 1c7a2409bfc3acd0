"""Where things are written: settings in TOML files, models in source files, modules in a project."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gradscope.config.lines import line_of
from gradscope.config.places import shown_path
from gradscope.gate.discover import Found, recurrent_modules
from gradscope.loading.code.location import definition

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
    )
    for folder in (".hidden", "node_modules", "tests", "odd"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "n.py").write_text("import torch\nclass E(torch.nn.RNN): pass\n")
    (tmp_path / "odd" / "pyvenv.cfg").touch()
    (tmp_path / "broken.py").write_text("class (")
    assert recurrent_modules(tmp_path) == [
        Found("net.py", "A", 3, ("size", "rate")),
        Found("net.py", "B", 6, ()),
    ]
