"""The phase diagram of README.md is what its command prints, and its edge lies where theory puts it."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import pytest

from sweeps.conftest import asked, gradscope

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge")
    shown = re.search(r"```console\n\$ gradscope (sweep .*?[^\\])\n(.*?)```", README, re.DOTALL)
    done = gradscope(*shlex.split(shown[1].replace("\\\n", " ")), cwd=folder, COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    query = "SELECT settings, status, summary FROM points JOIN runs USING (key) ORDER BY place"
    rows = [
        (json.loads(settings), status, json.loads(summary))
        for settings, status, summary in asked(folder / "sweep.db", query)
    ]
    return done.stdout, shown[2], rows


def without_rounding(text):
    """An exponent that is zero but for rounding is printed otherwise, and more or less wide, by other processors."""
    return re.sub(r" +", " ", re.sub(r"\S+e-1\d", "rounding", text.strip()))


def test_the_diagram_is_what_the_command_prints(swept):
    printed, promised, _ = swept
    assert without_rounding(printed) == without_rounding(promised)


def test_the_leading_exponent_is_the_logarithm_of_the_gain_and_zero_at_the_edge(swept):
    _, _, rows = swept
    assert len(rows) == 28
    for settings, _, summary in rows:
        assert summary["lyapunov"][0] == pytest.approx(math.log(float(settings["gain"])), abs=1e-13)


def test_what_is_not_healthy_vanishes_below_the_edge_and_explodes_above(swept):
    _, _, rows = swept
    widths = dict.fromkeys(("50", "100", "200", "400"), 0)
    for settings, status, _ in rows:
        side = float(settings["gain"]) - 1
        assert status in ("healthy", "vanishing" if side < 0 else "exploding" if side > 0 else "healthy")
        widths[settings["length"]] += status == "healthy"
    assert list(widths.values()) == sorted(widths.values(), reverse=True)
    assert widths["400"] == 1
