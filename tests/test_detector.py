"""The detector benchmark: its outcomes are those that the rules speak by, and its scores are what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

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

    for name in ("runs.jsonl", "fixed.jsonl", "fresh.jsonl", "twins.jsonl"):
        (tmp_path / name).write_text((FOLDER / name).read_text())
    write(tmp_path / "runs.jsonl")
    for name in ("RESULTS.md", "calibration.json"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), name


def test_the_rules_speak_by_the_counts_of_the_benchmark():
    from benchmarks.detector.page import PILOT_FAIL
    from benchmarks.detector.published import ADDING, SMALL, small_shares

    from gradscope.rules import gs1_learning

    found = json.loads((FOLDER / "calibration.json").read_text())["bands"]
    counted = {
        word: {
            "failed": band.failed,
            "blocked": band.blocked,
            "of": band.of,
            "single": [[count.learned, count.of] for count in band.single],
            "hard": [[count.learned, count.of] for count in band.hard],
        }
        for word, band in gs1_learning.FIXED_LAGS.items()
    }
    assert counted == found
    assert gs1_learning.SHARE_FAILS == PILOT_FAIL
    assert (gs1_learning.PUBLISHED_SPREAD.learned, gs1_learning.PUBLISHED_SPREAD.of) == small_shares()
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

    tried, fresh, twins = read("fixed.jsonl"), read("fresh.jsonl"), read("twins.jsonl")
    blocked = fixed.blocked([*rows, *fresh], twins)
    assert {row["name"] for row in blocked} <= {one["name"] for one in tried}
    assert all(failed(row) and row["part"] != "control" for row in blocked)
    monkeypatch.setattr(fixed, "STEPS", 5)
    (row,) = [row for row in blocked if row["name"] == "rnn:init=normal,gain=0.5 xor fixed 10"]
    again, (once,) = fixed.fixed(row), [one for one in tried if one["name"] == row["name"]]
    listed = [[(one["remedy"], one["change"], one["status"]) for one in run["tried"]] for run in (again, once)]
    assert listed[0] == listed[1]
    assert len(listed[0]) == 3


def test_the_second_study_is_the_beginning_of_its_frozen_list_and_its_twins_are_those_of_what_failed(rows):
    from benchmarks.detector import twins
    from benchmarks.detector.fresh import fresh
    from benchmarks.detector.statistics import failed, group

    found, tried = read("fresh.jsonl"), read("twins.jsonl")
    assert [row["name"] for row in found] == [one.name for one in fresh()[: len(found)]]
    assert all("learned_free" in seed and row["part"] == "held out" for row in found for seed in row["seeds"])
    both = [*rows, *found]
    assert {row["name"] for row in tried} == {one.name for one in twins.wanted(both)}
    for row, label in zip(both, twins.labels(both, tried), strict=True):
        beside = [other for other in (*both, *tried) if group(other) == group(row) and not failed(other)]
        assert label is (False if not failed(row) else True if beside else None)


def test_foreign_cells_of_the_second_study_are_what_their_words_say():
    from benchmarks.detector.outcome import built

    plain, turned, open_ = (
        built(f"torchrecurrent:JANET{more}", 0, 3) for more in ("", ",recurrent=orthogonal", ",keep=4")
    )
    weight = turned.module.state_dict()["cells.0.weight_hh"]
    assert float((weight.T @ weight - torch.eye(32, dtype=weight.dtype)).abs().max()) < 1e-5
    assert plain.module.state_dict()["cells.0.weight_hh"].shape == weight.shape == (64, 32)
    state = open_.module.state_dict()
    assert state["cells.0.bias_ih"][:32].tolist() == [4.0] * 32
    assert state["cells.0.bias_hh"][:32].tolist() == [0.0] * 32


def read(name):
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]
