"""Targets that are sweeps: how many of their points must be healthy."""

from __future__ import annotations

import json

import pytest

from cli.conftest import run_all
from gradscope.config.targets import Project
from gradscope.errors import UsageError
from gradscope.gate.over import runs_of
from sweeps.conftest import ENDS

SIZES = "batch = 4\ninput-size = 2\n"
TARGETS = """
[targets.biases]
model = "lstm:hidden=8"
length = 24
over = ["forget_bias=0:6:2"]
min-healthy = 0.75

[targets.strict]
model = "lstm:hidden=8"
over = ["forget_bias=0,4", "length=12,24"]
min-reach = 9

[targets.ends]
model = "ends.py:make"
length = 12
over = ["args.how=crash,hang"]
timeout = 5
min-healthy = "0%"
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("over")
    (folder / "gradscope.toml").write_text(SIZES + TARGETS)
    (folder / "ends.py").write_text(ENDS)
    lines = ["check -v -o r.json -o r.xml", "check biases --baseline b.json --update-baseline", "config"]
    return folder, run_all([line.split() for line in lines], folder)


def test_enough_healthy_points_pass_and_too_few_fail(checked):
    folder, (done, alone, config) = checked
    assert done.code == 1, done.err
    said = " ".join(done.out.split())
    assert "2 of 4 points are healthy, short of min_healthy = 1; forget_bias=0, length=12: vanishing" in said
    assert "GS902" in said
    models = json.loads((folder / "r.json").read_text())["models"]
    found = {model["name"]: (model["status"], [v["status"] for v in model["verdicts"]]) for model in models}
    assert found == {
        "biases": ("healthy", ["pass"]),
        "strict": ("vanishing", ["fail", "fail"]),
        "ends": ("healthy", ["pass"]),
    }
    messages = [verdict["message"] for model in models for verdict in model["verdicts"]]
    assert messages[0] == ("3 of 4 points are healthy, which keeps min_healthy = 0.75; forget_bias=0: vanishing.")
    assert messages[2].startswith("At forget_bias=0, length=12: The reach is ")
    assert "args.how=crash: not measured (its process was killed by SIGSEGV)" in messages[3]
    assert "args.how=hang: not measured (it took longer than 5 s and was stopped)" in messages[3]
    assert (alone.code, config.code) == (0, 0)
    assert 'over = ["forget_bias=0:6:2"]' in config.out
    assert "min_healthy = 0.75" in config.out
    assert '"biases"' not in (folder / "b.json").read_text()


def asked(folder, lines):
    (folder / "gradscope.toml").write_text(f'[targets.t]\nmodel = "lstm"\n{lines}\n')
    return Project(folder, {}, {}, {}).asked([])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("min-healthy = 0.9", 'min-healthy (gradscope.toml:3) is about a sweep; add over = ["forget_bias=0:6:1"]'),
        ("over = 3", "over is '3' (gradscope.toml:3); expected axes"),
        ('over = ["lenght=5:1"]', "'5:1' is no range"),
        ('over = ["length=1,9"]', "length is 1 (gradscope.toml:3); it must be at least 2"),
        ('over = ["length=9"]\nmin-healthy = 1.5', "min_healthy is '1.5' (gradscope.toml:4)"),
    ],
)
def test_wrong_sweeps_are_refused_with_their_place(tmp_path, lines, said):
    with pytest.raises(UsageError) as found:
        asked(tmp_path, lines)
    assert said in str(found.value)


def test_a_sweep_is_a_run_for_each_point(tmp_path):
    (one,) = asked(tmp_path, 'over = "length=10:30:10"')
    assert [(point, run.spec.length) for point, run in runs_of(one.target)] == [
        ("length=10", 10),
        ("length=20", 20),
        ("length=30", 30),
    ]
    (plain,) = asked(tmp_path, "length = 9")
    assert runs_of(plain.target) == [("", plain.target)]
