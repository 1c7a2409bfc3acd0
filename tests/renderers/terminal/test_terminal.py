from __future__ import annotations

import re
from dataclasses import replace

import pytest

from gradscope.records import Fix, ModelResult, Summary, Verdict
from gradscope.renderers.screen import render
from gradscope.renderers.styled_text import measure
from gradscope.renderers.view import View
from renderers.reports import (
    WORDS,
    attention,
    catalogue,
    empty,
    exploding,
    healthy,
    not_finite,
    paired,
    report,
    vanishing,
)

CATALOGUE = catalogue()
VIEWS = {
    "plain": View(),
    "ascii": View(ascii=True),
    "narrow": View(width=50),
    "middling": View(width=64),
    "tiny": View(width=20, ascii=True),
    "verbose gates": View(verbose=1, show=("gates",)),
    "quiet": View(quiet=True),
    "colour": View(colour=True),
}


def shown(*models: ModelResult, **view) -> str:
    return render(report(*models), View(**view))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", CATALOGUE)
def test_no_line_is_wider_than_the_screen(name, view):
    text = re.sub(r"\x1b\[[0-9;]*m", "", render(CATALOGUE[name], VIEWS[view]))
    assert text.endswith("\n")
    assert max(measure(line) for line in text.splitlines()) <= VIEWS[view].width
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_verdict_then_meaning_then_picture():
    lines = shown(vanishing()).splitlines()
    assert lines[:5] == [
        " ✗ VANISHING  GS101  rnn · 1x64 · T=200 · 8 sequences · seed 0 · float64 · cpu",
        " ! random input, not your data",
        " It learns only from the newest 7 of 199 lags; step 1 gets 10^-52 of the signal.",
        " Each step back multiplies the gradient by 0.55. Half is lost every 1.2 steps.",
        "",
    ]
    assert lines[5].startswith(" step 1 ◂──")
    assert lines[5].endswith("── step 200")
    assert re.fullmatch(r" ·+▁+▂+▃+▄+▅+▆+", lines[6])
    assert lines[7] == " tall = strong (log, lag 1 = 1); · under 1e-12; 1 column: worst of 2 or 3 steps"
    assert lines[-1] == " why: gradscope explain GS101   every step: --steps all   data: --format json"


def test_table_shows_small_numbers_for_what_they_are():
    text = shown(vanishing())
    assert " step lag   ‖J‖ ‖P‖=σmax     σmin ‖dL/ds‖ ‖dL/dx‖  of dL/dW" in text
    assert re.search(r"\n +0 200 +- +1\.4e-52 +2\.7e-156 +1\.4e-52 +- +-\n", text)
    assert re.search(r"\n +193 +7 .*0\.69 %  ◂ reach ends \(1 %\)\n", text)


def test_summary_numbers_carry_intervals():
    text = shown(vanishing())
    assert "rate            -0.597 ± 0.015 nats/step   reach           7 of 199 lags" in text
    assert "gradient share  10^-52 at lag 199" in text
    assert "‖dL/dW‖         28.8 (looks fine: it cannot see this)" in text
    assert "checked         equals torch.nn.RNN: output 1e-15, gradient 2e-15" in text


def test_other_findings_advice_fixes_and_skips():
    text = shown(vanishing())
    assert (
        " ! GS104  reach 7 of 199 lags\n try: lstm:forget_bias=5, or an orthogonal W_hh\n try: shorten the lag" in text
    )
    assert re.search(r"orthogonal +W_hh orthogonal +- +23 +0\.82 +✗ VANISHING\n", text)
    long = replace(vanishing().fixes[0], name="attention instead", change="lstm:hidden=28,forget_bias=5.66")
    assert " lstm:hidden=28,forget_bias=5.66 " in shown(replace(vanishing(), fixes=(long,)))
    assert " not measured: precision_horizon, GS202 (-v says why)\n" in text
    verbose = shown(vanishing(), verbose=1)
    assert " not measured: GS202: one block is too short for an interval\n" in verbose
    assert " passed: GS201\n" in verbose


def test_beside_measured_remedies_the_others_say_that_they_were_not():
    tip = "Use a gated cell: `gradscope compare rnn lstm`."
    base = vanishing()
    told = replace(base, verdicts=(replace(base.verdicts[0], advice=tip), *base.verdicts[1:]))
    assert f" try: {tip} (not measured)\n" in shown(told, width=100)
    assert f" try: {tip}\n" in shown(replace(told, fixes=()), width=100)


def test_healthy_exploding_and_not_finite_speak_for_themselves():
    assert " All 199 lags can be learned from; step 1 gets 0.4 % of the signal.\n" in shown(healthy())
    assert " The signal grows on its way back: step 1 gets 10^5 times what step 199 gets.\n" in shown(exploding())
    assert " It doubles every 11 steps.\n" in shown(exploding())
    lines = shown(not_finite()).splitlines()
    assert lines[0].startswith(" ✗ NON-FINITE  GS301  rnn")
    assert lines[2] == " Step 37, layer l0, gate.forget: the first nan of the forward pass."
    assert "??????????" in shown(not_finite())
    assert "◂ first nan" in shown(not_finite())


def test_degenerate_and_inconclusive():
    base = vanishing()
    one = replace(base, status="degenerate", summary=replace(base.summary, directions=1))
    cut = replace(base, status="degenerate", summary=replace(base.summary, cut=50))
    unsure = replace(base, status="inconclusive")
    assert "Over 199 lags all states collapse onto one direction" in shown(one)
    assert "The gradient is cut at step 50: nothing before it is learned from (a detach?)." in shown(cut)
    assert "Rate -0.597 nats/step, 95 % interval -0.61 to -0.58: over 199 lags" in shown(unsure)
    assert "  GS" not in shown(unsure).splitlines()[0]


def test_exact_zeros_are_told():
    base = vanishing()
    zeros = replace(base, summary=replace(base.summary, zero_lags=(30, 170)))
    assert "It is exactly zero at 170 lags, first at lag 30." in shown(zeros)


def test_the_rules_own_message_stands_in_for_missing_numbers():
    verdict = Verdict("GS101", "vanishing rate", "error", "fail", "fades by 0.5 a step", gives="vanishing")
    bare = replace(empty(), status="vanishing", verdicts=(verdict,))
    assert shown(bare).splitlines()[:2] == [" ✗ VANISHING  GS101  bare · T=0", " fades by 0.5 a step"]


def test_steps_on_request():
    table = [line for line in shown(vanishing(), steps="all").splitlines() if re.match(r" +\d+ +\d+ +[-0-9]", line)]
    assert len(table) == 201
    assert (
        len([line for line in shown(vanishing(), steps="5:9").splitlines() if re.match(r" +[5-9] +19\d ", line)]) == 5
    )


def test_ten_thousand_steps_stay_one_screen():
    text = shown(healthy(10_000))
    assert len(text.splitlines()) < 40
    assert "1 column: worst of 128 or 129 steps" in text


def test_gates_on_request():
    text = shown(healthy(), show=("gates",))
    assert re.search(r"\n forget  █{60,}\n input   [▄▅]{60,}\n output  ▁{60,}\n", text)
    assert "no gates to show" in shown(vanishing(), show=("gates",))
    assert "gate means" not in shown(healthy())


def test_pairs_say_how_much_by_which_way_and_that_nothing_was_trained():
    text = " ".join(shown(paired(WORDS)).split())
    assert "'hungry' (step 16) depends on 'cat' (step 2): 1.2 % of the summed influence, rank 9 of 16 tokens." in text
    assert "untrained" in text
    assert "l0 cell 5.0e-04 l0 gates 0 l1 all -" in text
    trained = replace(paired(WORDS), loaded=replace(paired(WORDS).loaded, trained=True))
    assert "untrained" not in shown(trained)
    given = " ".join(shown(replace(trained, loaded=replace(trained.loaded, trained=None))).split())
    assert "Its weights are as given: whether they were trained is not known here." in given


def test_attention_weights_by_token():
    text = shown(attention(WORDS))
    assert "attention: where each token looks, mean of 2 heads, first layer (untrained)" in text
    assert "\n   3 ,            ░░██░░\n" in text
    assert "\n   3 ,            ..##..\n" in shown(attention(WORDS), ascii=True)
    long = shown(attention(WORDS * 3))
    assert "only the last 24 of 48 tokens" in long
    assert "where each token looks" not in shown(attention())


def test_fixes_show_a_missing_reach():
    text = shown(replace(vanishing(), fixes=(Fix("clip", "norm clipped to 1", None, None, "inconclusive"),)))
    assert re.search(r"clip +norm clipped to 1 +- +- +-", text)


def test_quiet_is_one_line_per_model():
    assert render(CATALOGUE["compare"], View(quiet=True)).count("\n") == 4
    assert shown(vanishing(), quiet=True).count("\n") == 1


def test_ascii_only_where_asked():
    for saved in CATALOGUE.values():
        assert render(saved, View(ascii=True, verbose=1, show=("gates",))).isascii()


def test_status_is_never_told_by_colour_alone():
    coloured = render(CATALOGUE["compare"], View(colour=True))
    assert "\x1b[1;38;2;0;114;178m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render(CATALOGUE["compare"], View())


def test_every_status_draws_without_a_single_number():
    for status in ("healthy", "vanishing", "exploding", "non-finite", "degenerate", "inconclusive"):
        bare = replace(empty(), status=status, summary=Summary())
        assert "bare" in shown(bare)
        assert "bare" in shown(bare, vanishing())


def test_a_narrow_screen_stacks_the_telling_rows_alone_and_leaves_out_what_is_not_there():
    text = shown(vanishing(10), width=40)
    # Ends, reach, and the extremes of ‖J‖, which goes as sin t.
    assert re.findall(r"\n step: (\d+)\n", text) == ["0", "1", "3", "5", "8", "9", "10"]
    assert ": -\n" not in text
    assert len(re.findall(r"\n step: \d", shown(vanishing(10), width=40, steps="all"))) == 11


def test_a_reach_beyond_the_needed_lag_is_not_a_part_of_it():
    far = replace(healthy(), summary=replace(healthy().summary, reach=199, needed_lag=50))
    assert "199 lags, 50 needed" in shown(far)
