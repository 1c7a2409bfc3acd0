"""A sweep from its plan to the last row: claim, do, write down; whatever is interrupted goes on by the same command."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gradscope.config.axes import FIXED
from gradscope.config.types import TYPES
from gradscope.config.words import parse_model
from gradscope.errors import UsageError
from gradscope.registry import FAMILIES, SWEEP_RUNS, load, unknown
from gradscope.sweeps.plan import Plan
from gradscope.sweeps.run_point import Outcome, Task, perform, prepare
from gradscope.sweeps.store import LEASE, Claim, Result, Store, opened
from gradscope.swept import Axis, at
from gradscope.text import safe_text
from gradscope.workers import ADRIFT, GLANCE, Ending, Job, Take, run_each

LIVES = 500
"""Runs that one process does: what little a run leaves behind is gone before it matters."""
FRESH = 5.0
"""Seconds between looks at what other processes have done."""

Progress = Callable[[str, int, int], None]
Each = Callable[[Take], Iterator[tuple[Any, Ending] | None]]


@dataclass(frozen=True)
class Ways:
    """How runs are done."""

    jobs: int = 1
    """At the same time on this machine."""
    timeout: float = 600.0
    """Seconds after which a run counts as hanging."""
    retries: int = 2
    """How often a run is tried again whose process was killed from outside."""
    retry_failed: bool = False
    """Whether runs that failed before are tried again."""
    scheduler: str | None = None
    """Address or file of a Dask scheduler; None: on this machine."""


def sweep(plan: Plan, path: str | Path, ways: Ways, progress: Progress | None = None) -> dict[str, int]:
    """Do all runs of `plan` whose results are not in the file yet; how many are in each state afterwards.

    Raises:
        UsageError: a plan that cannot be carried out, a file that cannot be used, or a cluster that is not there.
    """
    refuse_wrong_words(plan)
    with opened(path) as store:
        store.define(plan.definition(), _rows(plan))
        if ways.retry_failed:
            store.forget_failed()
        store.renew()
        counts = store.counts()
        if counts.get("waiting", 0) + counts.get("running", 0):
            try:
                with_engine(plan, ways, lambda each: _Shift(store, plan, ways, progress).work(each))
            finally:
                store.give_back()
        return store.counts()


def refuse_wrong_words(plan: Plan) -> None:
    """What a run, a family or a rule does not know is a wrong word of the user's, not a red cell.

    Raises:
        UsageError: the word, and what was expected.
    """
    from gradscope.loading.from_word import source_of
    from gradscope.rules.judge import selected_rules

    if plan.run not in SWEEP_RUNS:
        raise UsageError(unknown("run", plan.run, SWEEP_RUNS))
    for axis in plan.axes:
        _refuse_unknown(plan, axis)
    first, known = tuple(axis.values[0] for axis in plan.axes), set[object]()
    for place, axis in enumerate(plan.axes):
        for value in axis.values:
            texts = (*first[:place], value, *first[place + 1 :])
            spec = plan.spec(texts, plan.seeds[0])
            asked = (spec.models[0], spec.hidden, spec.layers, spec.input_size, spec.select, spec.ignore)
            if asked in known:
                continue
            known.add(asked)
            selected_rules(spec)
            if parse_model(spec.models[0]).is_family:
                source_of(spec.models[0], spec)


def _refuse_unknown(plan: Plan, axis: Axis) -> None:
    """An option that no family has may be a misspelt setting."""
    if axis.kind != "option":
        return
    words = next((other.values for other in plan.axes if other.kind == "model"), plan.base.models)
    for word in words:
        family = load(FAMILIES[parse_model(word).name])
        options = [item.name for item in fields(family.options)]
        if axis.name not in options:
            known = dict.fromkeys([*options, *(name for name in TYPES if name not in FIXED)])
            raise UsageError(f"{unknown('axis', axis.name, known)}; '{safe_text(word)}' has no option of that name")


def with_engine(plan: Plan, ways: Ways, body: Callable[[Each], None]) -> None:
    """Call `body` with what does jobs: the processes of this machine, or a cluster's."""
    if ways.scheduler is not None:
        from gradscope.sweeps.dask_cluster import with_cluster

        with_cluster(ways.scheduler, plan, body)
        return
    prepare()
    body(lambda take: run_each(perform, take, ways.jobs, lives=LIVES))


def _rows(plan: Plan) -> Iterator[tuple[int, int, str, str]]:
    names = [axis.name for axis in plan.axes]
    for run in plan.runs():
        yield run.point, run.seed, run.key, json.dumps(dict(zip(names, run.texts, strict=True)))


class _Shift:
    """One client at work on a store."""

    def __init__(self, store: Store, plan: Plan, ways: Ways, progress: Progress | None) -> None:
        self._store, self._plan, self._ways, self._told = store, plan, ways, progress
        self._deaths = Counter[str]()
        self._renewed = self._looked = time.monotonic()
        self._counts = store.counts()

    def work(self, each: Each) -> None:
        """Claim and do, until nothing is left; runs that others are at are waited for."""
        while True:
            for found in each(self._take):
                if found is not None:
                    self._ended(*found)
                self._tick()
            self._looked = 0.0
            self._tick()
            if not self._counts.get("waiting", 0) + self._counts.get("running", 0):
                return
            self._store.renew()
            time.sleep(GLANCE)

    def _take(self) -> tuple[Claim, Job] | None:
        claim = self._store.claim()
        if claim is None:
            return None
        plan = self._plan
        spec = plan.spec(at(plan.axes, claim.point), claim.seed)
        task = Task(SWEEP_RUNS[plan.run], spec, plan.folder, plan.threads)
        return claim, Job(task, self._ways.timeout)

    def _ended(self, claim: Claim, ending: Ending) -> None:
        if ending.killed == ADRIFT:
            self._store.give_back(claim.key)
            return
        if ending.killed == "SIGKILL" and self._deaths[claim.key] < self._ways.retries:
            # Somebody else may have wanted the memory, or have killed it: the run itself need not be at fault.
            self._deaths[claim.key] += 1
            self._store.give_back(claim.key)
            return
        result = result_of(ending)
        self._store.finish(claim.key, result)
        self._counts[result.state] = self._counts.get(result.state, 0) + 1

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._renewed > LEASE / 3:
            self._store.renew()
            self._renewed = now
        if now - self._looked > FRESH:
            self._counts, self._looked = self._store.counts(), now
        if self._told is not None:
            done, failed = self._counts.get("done", 0), self._counts.get("failed", 0)
            self._told("sweep", done + failed, self._plan.count)


def result_of(ending: Ending) -> Result:
    """What is written down of a run that has ended."""
    outcome: Outcome | None = ending.value
    if outcome is None:
        return Result("failed", reason=safe_text(ending.reason, 400), trace=ending.trace, seconds=ending.seconds)
    return Result(
        state="done",
        status=outcome.status,
        worst=outcome.worst,
        summary=outcome.summary,
        findings=outcome.findings,
        notes=outcome.notes,
        seconds=ending.seconds,
    )
