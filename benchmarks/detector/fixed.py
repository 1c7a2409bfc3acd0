"""Models that did not learn where their own family can, trained again with the remedy that measures best."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.detector.catalogue import HIDDEN, RATES, SEEDS, STEPS
from benchmarks.detector.statistics import Row, failed
from gradscope.fixes.prove import treated_source
from gradscope.fixes.run import measure_fixes
from gradscope.loading.word import source_of
from gradscope.probe.copies import copies_of
from gradscope.probe.learners import Learners
from gradscope.probe.train import Plan, Setting, Training
from gradscope.records import RunSpec
from gradscope.registry import TASKS, load


def blocked(rows: Sequence[Row]) -> list[Row]:
    """Failures beside which another initialisation of the same family learns the same task at the same lag."""
    able = {_place(row) for row in rows if not failed(row)}
    return [row for row in rows if failed(row) and _place(row) in able and row["part"] != "control"]


def _place(row: Row) -> tuple[Any, ...]:
    family = row["model"].partition(":")[0]
    return (family, row["task"], row["kind"], row["lag"])


def fixed(row: Row) -> dict[str, Any]:
    """The first remedy of `analyze MODEL --task T --lag K --lags KIND --hidden 32 --seeds 2 --fix`, trained."""
    begun, task = time.perf_counter(), load(TASKS[row["task"]])
    spec = RunSpec(
        models=(row["model"],),
        task=row["task"],
        lags=row["kind"],
        needs_lag=row["lag"],
        hidden=HIDDEN,
        seeds=len(SEEDS),
        fix=True,
    )
    source = source_of(row["model"], spec)
    best = measure_fixes(source, spec)[0]
    settings = [Setting(rate, seed) for seed in SEEDS for rate in RATES]
    made = treated_source(best, source, spec)
    copies = copies_of([made.make(task.features, one.seed) for one in settings], made.name)
    learners = Learners(copies, task, [one.seed for one in settings], takes=None, as_ids=False)
    plan = Plan(task, row["lag"], row["kind"], STEPS)
    curves = Training(learners, plan, settings, one_is_enough=True, look=False).run()
    learned = [
        min((c.learned_at for c in curves if c.setting.seed == seed and c.learned_at is not None), default=None)
        for seed in SEEDS
    ]
    return {
        "name": row["name"],
        "remedy": best.remedy.name,
        "change": best.treated.change,
        "status": best.result.status,
        "learned_at": learned,
        "seconds": time.perf_counter() - begun,
    }
