"""The lesson: its sentences, its training, its words, and its page."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
import torch

from gradscope.cli.commands import COMMANDS
from gradscope.lesson import readers
from gradscope.lesson.lesson import give, heard, left, shares
from gradscope.lesson.readers import KINDS, fresh, train
from gradscope.registry import LESSONS, load
from gradscope.renderers.view import View


@pytest.fixture(scope="module")
def lesson():
    return give(steps={15: 12, 20: 2})


@pytest.mark.parametrize("length", [15, 16, 17, 18, 19, 20, 100])
def test_sentences_have_their_length_and_one_right_answer(length):
    batch = readers.drawn(60, length, Random(3))
    assert batch.ids.shape == (60, length)
    singular = {noun[0] for noun in readers.NOUNS}
    kinds = set()
    for ids, plural in zip(batch.ids.tolist(), batch.plural.tolist(), strict=True):
        words = [readers.WORDS[place] for place in ids]
        assert (words[readers.SUBJECT - 1] in singular) == (plural == 0)
        assert words[-2:] == [",", readers.BLANK]
        others = words[5] in {form for noun in readers.NOUNS for form in noun}
        verb = words[6] if others else words[4]
        kinds.add((others, readers.VERBS.index(verb) == plural))
    assert kinds == {(False, True), (True, True), (True, False)}


def test_the_nearest_verb_is_right_as_often_as_the_lesson_says():
    source, right = Random(0), 0
    for _ in range(4000):
        words, plural = readers._sentence(20, source.randrange)
        nearest = [word for word in words if word in readers.VERBS][-1]
        right += nearest == readers.VERBS[plural]
    assert right / 4000 == pytest.approx(readers.NEAREST, abs=0.02)


def test_the_shown_sentence_is_the_one_everybody_knows():
    assert " ".join(readers.shown(15)[:-1]) == (
        "The cat , which was sitting on the mat and looking quite comfortable ,"
    )
    assert len(readers.shown(500)) == 500


def test_untrained_recurrences_hear_the_newest_words_and_attention_all():
    report = heard({kind: fresh(kind, 0) for kind in KINDS}, 15, trained=False)
    rnn, lstm, attention = report.models
    assert [model.name for model in report.models] == list(KINDS)
    assert rnn.series.token == (*readers.shown(15)[:-1], "was")
    assert left(rnn, 2) < -3 < left(attention, 2)
    assert left(rnn, 2) < left(lstm, 2) < left(attention, 2)
    assert sum(shares(attention)) == pytest.approx(1)
    assert len(shares(lstm)) == 14
    assert max(shares(rnn)) == shares(rnn)[-1]
    assert {model.loaded.trained for model in report.models} == {False}


def test_the_influence_is_the_gradient_that_autograd_finds():
    reader = fresh("lstm", 0).double()
    batch = readers.measured(15)
    embedded = reader.embed(batch.ids).detach().requires_grad_()
    output = reader.head(reader.body(embedded)[0])
    torch.nn.functional.cross_entropy(output[:, -1], batch.plural).backward()
    exact = embedded.grad[0].norm(dim=1).log10()
    found = heard({"lstm": reader}, 15, trained=False).models[0].series.values["log10_influence"]
    assert found == pytest.approx(exact.flip(0).tolist(), abs=1e-9)


def test_attention_learns_the_agreement_briefly():
    trained = train("attention", 15, 250, 0)
    assert trained.learned
    (model,) = heard({"attention": trained.reader}, 15, trained=True).models
    heads = torch.tensor(model.attention.weights[0])
    assert heads[:, -1].max() > 0.5
    assert shares(model)[readers.SUBJECT - 1] > shares(model)[0]
    assert model.loaded.trained is True


def test_training_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train("rnn", 15, 1, 0)
    assert torch.equal(torch.rand(3), expected)


def test_the_screen_tells_both_and_labels_each(lesson):
    text = load(LESSONS["text"])(lesson, View())
    assert "1. Untrained: what the wiring lets through" in text
    assert "2. After a brief training: what is listened to" in text
    assert text.count("    2 cat") == 2
    assert text.count("attention, 20 words") == 1
    assert "A random attention map is not what a model" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert load(LESSONS["text"])(lesson, View(ascii=True, width=60)).isascii()


def test_outcomes_are_censored_and_never_cannot(lesson):
    text = " ".join(load(LESSONS["text"])(lesson, View()).split())
    assert "not within 12 steps" in text
    assert "cannot learn" not in text
    assert "(chance: 50 %, the nearest verb: 75 %)" in text


def test_counts_show_what_attention_changes(lesson):
    rows = {row[0]: row for row in lesson.chapters[3].table.rows}
    assert rows["attention"][1].endswith("O(1)")
    assert rows["rnn"][1].endswith("O(n)")
    assert rows["lstm"][2].endswith("O(n)")


def test_the_page_opens_in_a_browser_and_shows_every_chapter(lesson, tmp_path):
    pytest.importorskip("vl_convert", reason="the extra [report] is not installed")
    from browser import launched, opened

    path = tmp_path / "lesson.html"
    path.write_text(load(LESSONS["html"])(lesson, View()), encoding="utf-8")
    assert path.stat().st_size < 3_000_000
    for browser in launched():
        with opened(browser, path, 1000) as found:
            assert found.said == []
            assert found.asked == [path.as_uri()]
            assert found.page.locator("section.chapter").count() == 5
            assert found.page.locator(".drawn svg").count() == len(found.page.locator(".drawn").all()) >= 7
            assert found.page.locator(".label", has_text="untrained").count() >= 2


def test_a_lesson_is_a_page_or_a_text_and_nothing_else(tmp_path):
    from gradscope.errors import UsageError

    command = load(COMMANDS["lesson"])
    with pytest.raises(UsageError, match=r"a lesson is written as \.html or \.txt"):
        command([str(tmp_path / "lesson.csv")])


def test_seconds_are_told(lesson):
    assert math.isfinite(lesson.seconds)
    assert "measured in 7 s" in load(LESSONS["text"])(replace(lesson, seconds=7.0), View())
