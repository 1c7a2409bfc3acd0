"""Models that did not learn where their own family can, trained again with the remedy that measures best."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.detector.catalogue import HIDDEN, RATES, SEEDS, STEPS
from benchmarks.detector.outcome import built
from benchmarks.detector.statistics import Row
from benchmarks.detector.twins import labels
from gradscope.fixes.measure_remedies import MeasuredRemedy, measure_fixes
from gradscope.fixes.train_remedies import MOST, treated_source
from gradscope.loading.from_word import source_of
from gradscope.loading.source import Source
from gradscope.probe.copies import copies_of
from gradscope.probe.learners import Learners
from gradscope.probe.training import Plan, Setting, Training
from gradscope.records import Loaded, RunSpec
from gradscope.registry import TASKS, load


def blocked(rows: Sequence[Row], twins: Sequence[Row] = ()) -> list[Row]:
    """Failures where another initialisation of the same family learned the same task at the same lag, or the twin."""
    known = zip(rows, labels(rows, twins), strict=True)
    return [row for row, label in known if label and row["part"] != "control"]


def fixed(row: Row) -> dict[str, Any]:
    """What `analyze MODEL --task T --lag K --lags KIND --hidden 32 --seeds 2 --fix` lists first, trained.

    The two after it are trained as well, as `--fix --probe` does: `tried`, in the order in which they were listed.
    """
    begun = time.perf_counter()
    spec = RunSpec(
        models=(row["model"],),
        task=row["task"],
        lags=row["kind"],
        needs_lag=row["lag"],
        hidden=HIDDEN,
        seeds=len(SEEDS),
        fix=True,
    )
    source = _source(row["model"], spec)
    listed = [one for one in measure_fixes(source, spec) if not one.treated.of_training]
    tried = [
        {
            "remedy": one.remedy.name,
            "change": one.treated.change,
            "status": one.result.status,
            "another": one.treated.another,
            "learned_at": _learned(one, source, spec, row),
        }
        for one in listed[:MOST]
    ]
    return {"name": row["name"], "tried": tried, "seconds": time.perf_counter() - begun}


def _learned(one: MeasuredRemedy, source: Source, spec: RunSpec, row: Row) -> list[int | None]:
    """When the first setting of each seed learned."""
    task, settings = load(TASKS[row["task"]]), [Setting(rate, seed) for seed in SEEDS for rate in RATES]
    made = treated_source(one, source, spec)
    copies = copies_of([made.make(task.features, setting.seed) for setting in settings], made.name)
    learners = Learners(copies, task, [setting.seed for setting in settings], takes=None, as_ids=False)
    plan = Plan(task, row["lag"], row["kind"], STEPS)
    curves = Training(learners, plan, settings, one_is_enough=True, look=False).run()
    return [
        min((c.learned_at for c in curves if c.setting.seed == seed and c.learned_at is not None), default=None)
        for seed in SEEDS
    ]


def _source(word: str, spec: RunSpec) -> Source:
    """A word of the command line, or a cell of torchrecurrent with fresh weights for every seed."""
    if not word.startswith("torchrecurrent:"):
        return source_of(word, spec)
    return Source(word, lambda size, seed: built(word, seed, size), None, Loaded("built"))
