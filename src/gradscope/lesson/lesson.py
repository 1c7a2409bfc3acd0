"""Why attention replaced recurrences, measured on one sentence and told from the first question to the last."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradscope.lesson.readers import (
    BLANK,
    HIDDEN,
    KINDS,
    LEARNED,
    NEAREST,
    SHORTEST,
    SUBJECT,
    TESTED,
    Reader,
    Trained,
    fresh,
    measured,
    shown,
    train,
)
from gradscope.loading.objects import source_from_object
from gradscope.numerics.costs import threads_for
from gradscope.pipeline import diagnose, diagnose_sources
from gradscope.profile import Profile
from gradscope.records import ModelResult, Report, RunSpec
from gradscope.renderers import number_blocks, numbers
from gradscope.renderers.lesson import Chapter, Exhibit, Lesson, Table

COSTED = 100
"""Steps at which operations are counted; training steps are timed at this, two and four times as many."""


def heard(readers: Mapping[str, Reader], length: int, *, trained: bool, detail: bool = False) -> Report:
    """The influence of every word on the verb of the shown sentence, reader by reader.

    Args:
        readers: by name.
        length: steps of the sentence.
        trained: whether they were trained, for the labels.
        detail: also maps over pairs of steps.
    """
    sentence = measured(length)
    spec = RunSpec(models=tuple(readers), dtype="float64", layout="batch-first")

    def loss(output: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(output[:, -1], sentence.plural)

    sources = [
        replace(source, loaded=replace(source.loaded, trained=trained))
        for source in (source_from_object(reader.double(), name, spec) for name, reader in readers.items())
    ]
    report = diagnose_sources(sources, spec, x=sentence.ids, loss=loss, detail=detail)
    words = tuple("was" if word == BLANK else word for word in shown(length))
    return replace(report, models=tuple(_with_words(model, words) for model in report.models))


def _with_words(model: ModelResult, words: tuple[str, ...]) -> ModelResult:
    attention = None if model.attention is None else replace(model.attention, token=words)
    return replace(model, series=replace(model.series, token=words), attention=attention)


def costs(seed: int) -> Report:
    """What a training step of the three kinds takes, on random input."""
    spec = RunSpec(models=KINDS, hidden=HIDDEN, length=COSTED, seed=seed)
    return diagnose(spec, costs=True, detail=False)


def shares(model: ModelResult) -> list[float]:
    """Part of each word, in reading order, in the summed influence of all words before the verb; they sum to 1."""
    back = [value for value in Profile.of(model).values[1:] if value is not None]
    parts = [10.0 ** max(value, -300.0) for value in reversed(back)]
    total = sum(parts)
    return [part / total if total > 0 else 0.0 for part in parts]


def left(model: ModelResult, step: int) -> float | None:
    """log10 of the influence of the word at `step` beside the strongest word before the verb."""
    profile = Profile.of(model)
    found, known = profile.at(step), [value for value in profile.values[1:] if value is not None]
    return None if found is None or not profile.lag_of(step) else found - max(known)


STEPS = {SHORTEST: 300, 20: 300, 100: 200, 500: 40}
"""Length of the sentence -> steps of training."""
SENTENCE = "The cat, which was sitting on the mat and looking quite comfortable, was hungry"
TITLE = "Why attention replaced recurrences: what the second 'was' still hears"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LessonMeasurement:
    """All that was measured at one length."""

    length: int
    before: Report
    after: Report
    trained: Mapping[str, Trained]


def give(seed: int = 0, steps: Mapping[int, int] = STEPS, progress: Progress | None = None) -> Lesson:
    """Train and measure everything, and tell it.

    Args:
        seed: of weights and sentences.
        steps: length of the sentence -> steps of training; the shortest is the sentence itself.
        progress: called as progress(label, done, total).
    """
    begun, told = time.perf_counter(), progress or (lambda label, done, total: None)
    found = []
    with threads_for(1):
        for place, (length, count) in enumerate(steps.items()):
            told(f"reading {length} words", place, len(steps) + 1)
            found.append(_measured(length, count, seed))
        told("counting operations", len(steps), len(steps) + 1)
        costed = costs(seed)
    first = found[0]
    chapters = (_untrained(first), _trained(first), _longer(found), _costs(costed), _limits(first))
    environment = tuple(first.before.environment.items())
    return Lesson(TITLE, _answer(found), chapters, environment, time.perf_counter() - begun)


def _measured(length: int, count: int, seed: int) -> LessonMeasurement:
    before = heard({kind: fresh(kind, seed) for kind in KINDS}, length, trained=False)
    trained = {kind: train(kind, length, count, seed) for kind in KINDS}
    after = heard({kind: one.reader for kind, one in trained.items()}, length, trained=True)
    return LessonMeasurement(length, before, after, trained)


def _answer(found: list[LessonMeasurement]) -> str:
    """Who learned it how far."""
    said = []
    for kind in KINDS:
        lengths = [one.length for one in found if one.trained[kind].learned]
        said.append(f"{kind} learns it up to {max(lengths)} words" if lengths else f"{kind} at no length")
    return f"Within a brief training, {'; '.join(said)} (of {', '.join(str(one.length) for one in found)})."


def _untrained(one: LessonMeasurement) -> Chapter:
    says = (
        f"'{SENTENCE}'. To say 'was' and not 'were', a reader needs the cat, {one.length - SUBJECT} words back. "
        "Three untrained readers: how much does each earlier word move their answer?",
        *(f"{model.name}: {_subject(model)}." for model in one.before.models),
        "A recurrence hears its newest words, whatever they are: each step dims what came before. Attention reads "
        "every word directly; untrained, it hears them much alike, and knows nothing of cats.",
    )
    exhibit = Exhibit("untrained", one.before, ("words", "profile"))
    return Chapter("Untrained: what the wiring lets through", says, _words(one.before, one.length), (exhibit,))


def _words(report: Report, length: int) -> Table:
    """Every word before the verb, with its share by reader."""
    columns = [shares(model) for model in report.models]
    rows = tuple(
        (f"{step:>3} {word}", *(_part(column[step - 1]) for column in columns))
        for step, word in enumerate(shown(length)[:-1], 1)
    )
    heads = ("word", *(model.name for model in report.models))
    return Table(heads, rows, "part of each word in the summed influence of all words before the second 'was'")


def _part(share: float) -> str:
    return numbers.share(math.log10(share) if share > 0 else -math.inf)


def _subject(model: ModelResult) -> str:
    value = left(model, SUBJECT)
    return f"'cat' has {numbers.share(value)} of the influence of the strongest word"


def _trained(one: LessonMeasurement) -> Chapter:
    steps = next(iter(one.trained.values())).steps
    outcomes = [_outcome(kind, one.trained[kind]) for kind in KINDS]
    listened = [_strongest(model, one) for model in one.after.models]
    says = (
        f"The same readers after {steps} steps of training on such sentences, each with a blank for the verb; in half "
        "of them the clause has another subject, so that copying the nearest verb is right in "
        f"{numbers.percent(NEAREST)} of all sentences and not in more.",
        *(f"{outcome} {said}" for outcome, said in zip(outcomes, listened, strict=True)),
    )
    exhibit = Exhibit("trained", one.after, ("words", "attention"))
    return Chapter("After a brief training: what is listened to", says, _words(one.after, one.length), (exhibit,))


def _outcome(kind: str, one: Trained) -> str:
    word = "learned" if one.learned else f"not within {one.steps} steps"
    return (
        f"{kind}: {word}, {numbers.percent(one.accuracy)} of new sentences right "
        f"(chance: 50 %, the nearest verb: {numbers.percent(NEAREST)})."
    )


def _strongest(model: ModelResult, one: LessonMeasurement) -> str:
    parts, words = shares(model), shown(one.length)
    best = max(range(len(parts)), key=lambda place: parts[place])
    cat = numbers.percent(parts[SUBJECT - 1])
    said = f"It listens most to '{words[best]}' (word {best + 1}, {numbers.percent(parts[best])}); 'cat' gets {cat}."
    return " ".join([said, *_looked(model, words)])


def _looked(model: ModelResult, words: list[str]) -> list[str]:
    """Where every head of attention looks most from the verb."""
    heads = model.attention.weights[0] if model.attention and model.attention.weights else ()
    places = [max(range(len(rows[-1])), key=lambda key, row=rows[-1]: row[key]) for rows in heads]  # type: ignore[misc]
    found = [f"'{words[place]}' with {rows[-1][place]:.2f}" for place, rows in zip(places, heads, strict=True)]
    return [f"From the verb, its heads look at {' and at '.join(found)}."] if found else []


def _longer(found: list[LessonMeasurement]) -> Chapter:
    rows = []
    for one in found:
        for before, after in zip(one.before.models, one.after.models, strict=True):
            outcome = one.trained[before.name]
            rows.append(
                (
                    f"{before.name}, {one.length} words",
                    numbers.share(left(before, SUBJECT)),
                    numbers.share(left(after, SUBJECT)),
                    numbers.percent(outcome.accuracy),
                    "learned" if outcome.learned else f"not within {outcome.steps} steps",
                )
            )
    says = (
        "The clause grows; the cat moves further away. What is left of it beside the strongest word, before and after, "
        "and whether the verb is right:",
        "The recurrence multiplies once more for every word, so what is left falls exponentially; in attention the cat "
        "stays one step away.",
    )
    heads = ("reader", "'cat' untrained", "'cat' trained", "right", "outcome")
    note = (
        f"learned: at least {numbers.percent(LEARNED)} of {TESTED} new sentences right, where copying the nearest verb "
        f"is right in {numbers.percent(NEAREST)}; one seed and a brief training: not within N steps is not never"
    )
    exhibits = tuple(
        Exhibit(f"{one.length} words, {label}", report, ("profile",))
        for one in found[1:]
        for label, report in (("untrained", one.before), ("trained", one.after))
    )
    return Chapter("Longer sentences", says, Table(heads, tuple(rows), note), exhibits)


def _costs(report: Report) -> Chapter:
    models = list(report.models)
    rows = tuple(tuple(row) for row in number_blocks.cost_rows(models, report))
    heads = tuple(column.head for column in number_blocks.COST_COLUMNS)
    says = (
        "Path: how many operations lie between the first word and the answer, which is what a gradient has to survive. "
        "In sequence: how many must wait for each other, which is what parallel hardware cannot shorten.",
        "A recurrence carries a state of fixed size and its work grows with the length; attention keeps every word, "
        "looks them all up again, and its work grows as the square of the length: that is its price.",
    )
    exhibit = Exhibit("random input", report, ("costs",))
    return Chapter(
        "Path length, sequential steps, state, time", says, Table(heads, rows, number_blocks.COST_LEGEND), (exhibit,)
    )


def _limits(one: LessonMeasurement) -> Chapter:
    says = (
        "Influence is the norm of a gradient: how far a small change of a word would move the answer. It bounds what "
        "one step of training can use; it is not understanding.",
        "Untrained readers show wiring. A random attention map is not what a model attends to; the trained one is what "
        "this small reader came to use on this made-up task, not what readers of English do.",
        "One seed and a few hundred steps: a longer training, gates biased to stay open, or an orthogonal matrix carry "
        "recurrences further, as `gradscope compare rnn:init=orthogonal lstm:forget_bias=5` shows.",
        f"The task says how far back is needed ({one.length - SUBJECT} words here); the profile says what arrives from "
        "there. Where next to nothing arrives, a brief training does not find it, however clear the rule.",
    )
    return Chapter("What was measured, and what it means", says)
