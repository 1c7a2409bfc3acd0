"""Remedies trained: does the task get learned with them?

Two of them change the data and the loss and not the model, so that a share would be one of another question: shorter
lags too, and the answer asked for at every step (Lipton et al. 2016). They are trained, never measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gradscope.chain import ArrayChain
from gradscope.errors import UsageError
from gradscope.fixes.measure_remedies import MeasuredRemedy, treat
from gradscope.loading.source import Source
from gradscope.models.family import Model
from gradscope.numerics.analysis import Run
from gradscope.pipeline import Progress, runs_of
from gradscope.probe.run_probe import learned_by
from gradscope.records import Fix, RunSpec
from gradscope.sequences.tasks import kind_of, task_of

MOST = 3
"""How many of the best remedies are trained."""


def proven(source: Source, spec: RunSpec, found: Sequence[MeasuredRemedy], told: Progress) -> tuple[Fix, ...]:
    """The measured remedies, the best of them with what training says, and those that can be nothing but trained.

    What was learned with comes first. A remedy that cannot be trained stays as it was measured.
    """
    records = []
    for place, one in enumerate(found):
        record = one.record()
        if place < MOST and not one.treated.of_training:
            record = _with(record, _learned(treated_source(one, source, spec), spec, told))
        records.append(record)
    return tuple(sorted([*_taught(source, spec, told), *records], key=_proof))


def _taught(source: Source, spec: RunSpec, told: Progress) -> Iterator[Fix]:
    """The model as it is, taught by other samples and by another loss; of a task alone, whose samples can be drawn."""
    task = None if spec.task is None else task_of(spec)
    if task is None:
        return
    if kind_of(spec, task) == "fixed" and "spread" in task.kinds:
        shorter = Fix("shorter lags too", "lags spread in training", None, None, "inconclusive")
        yield _with(shorter, learned_by(source, spec, told, taught="spread"))
    if task.answers == 1:
        asked = Fix("loss at every step", "asked for the answer at each step", None, None, "inconclusive")
        if learned := learned_by(source, spec, told, everywhere=True):
            yield _with(asked, learned)


def _proof(record: Fix) -> tuple[float, int]:
    """What was learned with in most runs first, then the soonest; all else in the order in which it stood."""
    return -(record.learned or 0) / max(record.runs or 1, 1), record.learned_at or 0


def _learned(source: Source, spec: RunSpec, told: Progress) -> list[int | None]:
    try:
        return learned_by(source, spec, told)
    except UsageError:
        return []


def _with(record: Fix, learned: list[int | None]) -> Fix:
    if not learned:
        return record
    found = [step for step in learned if step is not None]
    return replace(record, learned=len(found), learned_at=min(found, default=None), runs=len(learned))


def treated_source(one: MeasuredRemedy, source: Source, spec: RunSpec) -> Source:
    """The remedied model for any seed."""
    first = runs_of(source, spec)[0][0]

    def make(size: int, seed: int) -> Model:
        model = source.make(size, seed)
        assert not isinstance(model, ArrayChain)
        found = treat(one.remedy, Run(model, first.x, first.loss, seed), spec, source.name)
        if found is None:
            raise UsageError(f"{one.remedy.name} does not suit the weights of seed {seed}")
        return found.model

    return replace(source, name=one.remedy.name, make=make)
