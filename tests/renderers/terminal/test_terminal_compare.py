from __future__ import annotations

import re
from dataclasses import replace

from gradscope.records import Growth, Verdict
from gradscope.renderers.compare_screen import answer, best_first
from gradscope.renderers.screen import render
from gradscope.renderers.view import View
from gradscope.rules.wording import NARROW_INTERVAL
from renderers.reports import WORDS, attention, catalogue, exploding, healthy, not_finite, paired, report, vanishing

THREE = report(vanishing(), healthy(), attention())


def test_best_first():
    far = replace(vanishing(name="gru"), summary=replace(vanishing().summary, reach=30))
    models = (not_finite(), vanishing(), exploding(), far, attention(), healthy())
    assert [f"{m.name} {m.status}" for m in best_first(models)] == [
        "lstm:forget_bias=5 healthy",
        "attention healthy",
        "rnn:nonlinearity=relu,gain=1.5 exploding",
        "gru vanishing",
        "rnn vanishing",
        "rnn non-finite",
    ]


def test_the_answer_comes_before_the_pictures():
    lines = render(THREE, View()).splitlines()
    assert lines[0] == " Which model still hears 199 steps back?"
    assert lines[1] == " 1x64 · T=200 · 8 sequences · seed 0 · float64 · cpu"
    assert lines[4] == " lstm:forget_bias=5 and attention reach all 199 lags; rnn forgets after 7 steps."
    assert re.fullmatch(r" ✓  lstm:forget_bias=5  ▆+  healthy", lines[7])
    assert re.fullmatch(r" ✗  rnn                 ·+[▁-▆]+  VANISHING GS101", lines[9])


def test_one_row_of_numbers_each():
    text = render(THREE, View(verbose=1))
    assert re.search(r"\n lstm:forget_bias=5 +-0\.0009 +770 +199 +0\.4 % +95\.2 +61\n", text)
    assert re.search(r"\n rnn +-0\.597 +1\.2 +7 +10\^-52 +1\.6 +3\n", text)
    assert re.search(r"doubles in 11 ", render(report(exploding(), vanishing()), View(verbose=1)))


def test_costs_show_growth_with_length_and_what_is_inconclusive():
    text = render(THREE, View(verbose=1))
    assert "\n operations counted at T = 200, 400\n timed at T = 200, 400, 800\n" in text
    assert re.search(r"\n attention +9 9 O\(1\) +17 17 O\(1\) +- +21 43 88 +inconclusive\n", text)
    assert re.search(r"\n rnn +600 1200 O\(n\) +1000 2000 O\(n\) +64 +21 43 88 +T\^1\.0±0\.0\n", text)
    assert "its work grows as T^2" in text.replace("\n", "")
    assert "T^2" not in render(report(vanishing(), healthy()), View(verbose=1))


def test_lengths_of_the_costs_are_told_by_model_where_they_differ():
    first, second, third = THREE.models
    short = {"path_length": Growth((90, 180), (9, 9), "O(1)"), "sequential_steps": Growth((90, 180), (17, 17), "O(1)")}
    models = (first, second, replace(third, summary=replace(third.summary, growth=short)))
    entry = {"length": [64, 128, 256], "seconds": [0.1, 0.2, 0.4], "exponent": 1.0, "spread": None}
    steps = {**THREE.timing.training_step, first.name: entry}
    text = render(replace(THREE, models=models, timing=replace(THREE.timing, training_step=steps)), View(verbose=1))
    assert f"\n operations counted at T = 200, 400 ({third.name}: 90, 180)\n" in text
    assert f"\n timed at T = 200, 400, 800 ({first.name}: 64, 128, 256)\n" in text
    assert re.search(r" T\^1\.0\n", text)


def test_costs_stay_away_when_nothing_was_measured():
    bare = [replace(m, summary=replace(m.summary, growth=None, path_length=None)) for m in (vanishing(), healthy())]
    assert "training step costs" not in render(report(*bare, timed=False), View(verbose=1))
    odd = replace(bare[0], summary=replace(bare[0].summary, growth={"path_length": Growth((9,), (27,), "unclear")}))
    assert "training step costs" in render(report(odd, bare[1], timed=False), View(verbose=1))


def test_advice_is_addressed_to_a_model():
    assert " try for rnn: lstm:forget_bias=5, or an orthogonal W_hh\n" in render(THREE, View())


def test_answer_names_every_kind_of_trouble():
    models = catalogue()["compare of everything"].models
    assert answer(best_first(models)) == (
        "lstm:forget_bias=5 and attention reach all 199 lags; rnn forgets after 7 steps; "
        "rnn:nonlinearity=relu,gain=1.5 explodes, times 1.06 a step; rnn turns nan at step 37; "
        "bare is undecided."
    )


def test_only_a_rough_measurement_is_called_uncertain():
    (bare,) = [model for model in catalogue()["compare of everything"].models if model.name == "bare"]
    wide = Verdict(
        "GS101", "vanishing rate", "error", "inconclusive", "The interval", f"{NARROW_INTERVAL}more sequences."
    )
    assert answer([replace(bare, verdicts=(wide,))]) == "bare is too uncertain to call."


def test_models_that_read_the_future_have_no_reach():
    first = vanishing()
    blind = replace(
        first,
        name="bert",
        status="healthy",
        summary=replace(first.summary, reach=None),
        skipped={"reach": "reads the future: rnn is bidirectional"},
    )
    assert answer([blind]) == "bert reads the future, where no reach is defined."
    both = replace(blind, name="elmo"), blind
    assert answer(list(both)) == "elmo and bert read the future, where no reach is defined."


def test_notes_of_one_model_are_told_apart_from_those_of_all():
    first, second = THREE.models[:2]
    models = (replace(first, notes=("shared", "own")), replace(second, notes=("shared",)))
    text = render(replace(THREE, models=models), View())
    assert text.count("shared") == 1
    assert f"note: {first.name}: own" in text


def test_heat_map_of_tokens_appears_beside_the_tables():
    text = render(catalogue()["compare text"], View(verbose=1))
    assert "attention: where each token looks" in text
    assert "gru forgets after 7 steps" in text


def test_a_map_that_looks_ahead_is_drawn_whole():
    text = render(catalogue()["compare text"], View(verbose=1))
    model = next(m for m in catalogue()["compare text"].models if m.attention is not None)
    steps = len(model.attention.weights[0][0])
    uniform = ((tuple((1 / steps,) * steps for _ in range(steps)),),)
    ahead = replace(model, attention=replace(model.attention, weights=uniform))
    whole = render(replace(catalogue()["compare text"], models=(ahead, ahead)), View(verbose=1))
    assert max(line.count("█") for line in whole.splitlines()) >= 2 * min(steps, 24)
    assert min(line.count("█") for line in text.splitlines() if line.startswith("   1 ")) < 2 * min(steps, 24)


def test_what_is_seen_in_five_seconds_fits_a_small_terminal():
    names = ("rnn", "gru", "lstm", "lru")
    five = report(*(vanishing(name=name) for name in names), attention())
    text = render(five, View())
    assert len(text.splitlines()) <= 24
    assert all(f" {name} " in text for name in names)
    assert " try for rnn, gru, lstm and lru: lstm:forget_bias=5, or an orthogonal W_hh\n" in text
    assert "numbers and costs: -v" in text
    assert len(render(five, View(verbose=1)).splitlines()) > 40


def test_where_the_past_is_a_row_of_dots_the_newest_steps_are_enlarged_for_all_models_alike():
    long = report(vanishing(10_000), replace(healthy(10_000), name="lstm"), replace(vanishing(10_000), name="gru"))
    for width in (80, 100):
        lines = render(long, View(width=width)).splitlines()
        axes = [line for line in lines if "step 10000" in line]
        assert len(axes) == 2
        newest = int(axes[1].split("step ")[1].split(" ")[0].replace("◂", ""))
        assert 9_000 < newest < 10_000
        strips = [line for line in lines if re.match(r" [✗✓]  (rnn|gru|lstm) ", line)]
        assert len(strips) == 6
        assert re.fullmatch(r" ✗  rnn   ·*[▁-█]?  VANISHING GS101", strips[1])
        assert re.search(r"·+▁.*[▄-█]  VANISHING", strips[4])
        assert sum("the newest steps, enlarged; 1 column: worst of" in line for line in lines) == 1
        assert max(map(len, lines)) <= width
    assert "enlarged" not in render(THREE, View())


def test_random_input_is_said_once():
    for models in ((vanishing(), healthy()), (vanishing(), vanishing(name="gru"))):
        assert render(report(*models), View()).count("random input, not your data") == 1


def test_a_pair_says_of_which_model_it_is():
    lstm = paired(WORDS)
    text = " ".join(render(report(lstm, replace(lstm, name="gru")), View()).split())
    for name in ("lstm", "gru"):
        assert f" {name}: 'hungry' (step 16) depends on 'cat' (step 2): 1.2 % of the summed influence" in text
