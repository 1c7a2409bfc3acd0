"""The detector benchmark: its outcomes are those that the rules speak by, and its scores are what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "detector"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="a source distribution has no benchmarks")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def rows():
    return [json.loads(line) for line in (FOLDER / "runs.jsonl").read_text().splitlines()]


def test_the_page_and_the_calibration_are_made_from_the_outcomes(tmp_path):
    from benchmarks.detector.page import write

    for name in ("runs.jsonl", "fixed.jsonl"):
        (tmp_path / name).write_text((FOLDER / name).read_text())
    write(tmp_path / "runs.jsonl")
    for name in ("RESULTS.md", "calibration.json"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), name


def test_the_rules_speak_by_the_counts_of_the_benchmark():
    from benchmarks.detector.page import FINE, GROWTH, PILOT_FAIL
    from benchmarks.detector.published import ADDING, SMALL, small_shares

    from gradscope.rules import calibration

    found = json.loads((FOLDER / "calibration.json").read_text())["bands"]
    assert {word: [band.failed, band.of] for word, band in calibration.FIXED.items()} == found
    assert (calibration.SHARE_FAILS, calibration.SHARE_LEARNS) == (PILOT_FAIL, FINE)
    assert calibration.GROWTH == GROWTH
    learned, of = small_shares()
    assert (calibration.PUBLISHED_SPREAD.of - calibration.PUBLISHED_SPREAD.failed, calibration.PUBLISHED_SPREAD.of) == (
        learned,
        of,
    )
    assert SMALL == PILOT_FAIL
    assert len(ADDING) == 27


def test_every_outcome_is_of_the_frozen_catalogue(rows):
    from benchmarks.detector.catalogue import combinations

    known = {one.name: one.record() for one in combinations()}
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        assert {key: row[key] for key in known[row["name"]]} == known[row["name"]]
        assert len(row["seeds"]) == 2


def test_a_combination_is_trained_and_recorded(monkeypatch):
    from benchmarks.detector import outcome
    from benchmarks.detector.catalogue import Combination

    monkeypatch.setattr(outcome, "STEPS", 50)
    monkeypatch.setattr(outcome, "HIDDEN", 8)
    found = outcome.outcome(Combination("gru", "gru:update_bias=2", "recall", "fixed", 5))
    assert found["part"] == "held out"
    assert found["steps"] <= 50
    assert all(-3 < seed["share"] < 0 for seed in found["seeds"])
    json.dumps(found, allow_nan=False)


def test_scores_are_those_of_their_definitions():
    from benchmarks.detector.score import Curve, auc, calibration_error, fitted, wilson

    assert auc([3, 2, 1], [True, False, False]) == 1
    assert auc([1, 1], [True, False]) == 0.5
    assert math.isnan(auc([1], [True]))
    # Wilson's interval of 8 in 10, by hand: centre (0.8 + 1.92073 / 10) / 1.384146.
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.49016, abs=1e-5), pytest.approx(0.94331, abs=1e-5))
    assert calibration_error([0.1, 0.1, 0.9, 0.9], [False, False, True, True]) == pytest.approx(0.1)
    shares = [-0.2 * k for k in range(60)]
    fails = [(k * 7) % 10 < 10 / (1 + math.exp(-(-4 + 0.2 * k))) for k in range(60)]
    curve = fitted(shares, fails)
    assert curve.slope < 0
    assert Curve(0.0, -1.0).at(0) == 0.5
    gradient = sum((curve.at(s) - f) for s, f in zip(shares, fails, strict=True))
    assert gradient == pytest.approx(0, abs=1e-6)


def test_every_blocked_model_was_trained_again_and_a_remedy_is_what_the_command_lists_first(rows, monkeypatch):
    from benchmarks.detector import fixed
    from benchmarks.detector.statistics import failed

    tried = [json.loads(line) for line in (FOLDER / "fixed.jsonl").read_text().splitlines()]
    blocked = fixed.blocked(rows)
    assert sorted(one["name"] for one in tried) == sorted(row["name"] for row in blocked)
    assert all(failed(row) and row["part"] != "control" for row in blocked)
    monkeypatch.setattr(fixed, "STEPS", 5)
    (row,) = [row for row in blocked if row["name"] == "rnn:init=normal,gain=0.5 xor fixed 10"]
    again, (once,) = fixed.fixed(row), [one for one in tried if one["name"] == row["name"]]
    assert (again["remedy"], again["change"], again["status"]) == (once["remedy"], once["change"], once["status"])
