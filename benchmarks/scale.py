"""Many runs: what the machinery of `gradscope sweep` costs beside the runs themselves.

`python -m benchmarks.scale memory POINTS FOLDER` sweeps POINTS points whose runs do nothing and prints the peak memory
of the client; `... cluster RUNS SECONDS` hands RUNS runs that sleep to 8 Dask workers and prints how busy they were.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure, Work
from benchmarks.measure import ROOT, Effort, in_new_process
from gradscope.config.axes import read_axes
from gradscope.records import RunSpec
from gradscope.registry import SWEEP_RUNS
from gradscope.sweeps.plan import Plan, versions
from gradscope.sweeps.run_point import Outcome, Task, perform, prepare
from gradscope.sweeps.run_sweep import Ways, sweep
from gradscope.workers import Job

WORKERS, BLOCKS, MIB = 8, 4, 2**20
SUMMARY = dict.fromkeys(("rate", "gain", "reach", "needed_lag", "gradient_share", "coverage"), 0.123456789)


def overhead(effort: Effort) -> list[Figure]:
    """1,000 points in blocks, each as a sweep and then bare, so that a disturbance meets both."""
    count = effort.pick(1000, 2 * BLOCKS) // BLOCKS
    prepare()
    ours, bare, spent = [], [], [0.0, 0.0]
    for block in range(BLOCKS):
        with tempfile.TemporaryDirectory() as folder:
            plan = plan_of(range(block * count, (block + 1) * count), hidden=16, length=50)
            begun, used = time.perf_counter(), _processor()
            sweep(plan, Path(folder) / "s.db", Ways(jobs=2))
            ours.append(time.perf_counter() - begun)
            spent[0] += _processor() - used
        used = _processor()
        bare.append(_bare(plan))
        spent[1] += _processor() - used
    size = f"{BLOCKS * count:,} points, rnn H=16 T=50 B=8, 2 local workers, 1 thread each"
    ratios = ", ".join(f"{one / other:.3f}" for one, other in zip(ours, bare, strict=True))
    work = Work("gradscope sweep, its file and all", size, sum(ours), (f"block by block: {ratios}",))
    processor = Work("gradscope sweep, its file and all: processor time", size, spent[0])
    return [
        work.price("the same analyses in two bare processes", sum(bare), 1.15),
        processor.price("processor time of the same, bare", spent[1], 1.15),
    ]


def _processor() -> float:
    """Seconds of processors that this process and those that it waited for have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _bare(plan: Plan) -> float:
    """Seconds that two forked processes take for nothing but the analyses."""
    runs = list(plan.runs())
    context: Any = multiprocessing.get_context("fork")
    halves = [context.Process(target=_analyses, args=(plan, runs[place::2])) for place in range(2)]
    begun = time.perf_counter()
    for half in halves:
        half.start()
    for half in halves:
        half.join()
    return time.perf_counter() - begun


def _analyses(plan: Plan, runs: list[Any]) -> None:
    # Workers lead sessions of their own, between which Linux shares a busy machine.
    os.setsid()
    for run in runs:
        perform(Task(SWEEP_RUNS[plan.run], plan.spec(run.texts, run.seed), plan.folder, plan.threads))


def dispatch(effort: Effort) -> list[Figure]:
    """How busy the workers of a simulated cluster are kept."""
    seconds = effort.pick(1.0, 0.05)
    runs = effort.pick(20 * WORKERS, 2 * WORKERS)
    try:
        import distributed  # noqa: F401
    except ImportError:
        what = "Dask not installed"
        return [Figure("runs on a cluster", f"{WORKERS} workers", "", None, 95, "at least", "%", notes=(what,))]
    told = in_new_process("benchmarks.scale", "cluster", str(runs), str(seconds))
    size = f"{runs} runs that sleep {seconds:g} s, {WORKERS} Dask workers on {os.cpu_count()} cores, processes kept"
    note = f"once all processes are there; between two runs of a worker {told['gap'] * 1000:.0f} ms (median)"
    busy = Figure("runs on a cluster", size, "time that workers are busy", told["busy"], 95, "at least", "%")
    return [Figure(**{**vars(busy), "notes": (note,)})]


def client(effort: Effort) -> list[Figure]:
    """Memory of the process that hands out the runs."""
    few, many = effort.pick((1_000, 100_000), (20, 200))
    peaks = {}
    for count in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            peaks[count] = in_new_process("benchmarks.scale", "memory", str(count), folder)
    size = f"{many:,} points whose runs do nothing, 2 local workers"
    ratio = peaks[many]["peak"] / peaks[few]["peak"]
    note = f"{peaks[few]['peak']:.0f} MiB and {peaks[many]['peak']:.0f} MiB; {peaks[many]['seconds']:.0f} s"
    sweep_screen = peaks[many]["screen"] - peaks[many]["peak"]
    return [
        Figure("memory of a sweep's client", size, f"itself at {few:,} points", ratio, 1.1, notes=(note,)),
        Figure("rendering its screen", size, "memory beyond that", sweep_screen, unit="MiB"),
    ]


def plan_of(seeds: range, **settings: Any) -> Plan:
    """A sweep of `rnn` over seeds."""
    axes = read_axes([f"seed={seeds[0]}:{seeds[-1]}:1"], ["rnn"], ())
    return Plan("analyze", RunSpec(models=("rnn",), **settings), axes, (0,), 1, str(ROOT))


def nothing(spec: RunSpec) -> Outcome:
    """A run that does nothing."""
    return Outcome("healthy", None, SUMMARY)


def sleep(spec: RunSpec) -> Outcome:
    """A run that takes `seed` milliseconds, and says when."""
    begun = time.time()
    time.sleep(spec.seed / 1000)
    return Outcome("healthy", None, {"begun": begun, "ended": time.time(), "worker": os.getpid()})


def memory_once(points: str, place: str) -> dict[str, float]:
    """Peak memory of a client that sweeps so many points, and of one that shows them, MiB."""
    from dataclasses import replace

    from gradscope.renderers import sweep_screen, sweep_wording
    from gradscope.renderers.view import View
    from gradscope.sweeps.read_sweep import read_sweep

    count, folder = int(points), Path(place)
    SWEEP_RUNS["nothing"] = "benchmarks.scale:nothing"  # type: ignore[index]
    begun = time.perf_counter()
    sweep(replace(plan_of(range(count)), run="nothing"), folder / "s.db", Ways(jobs=2))
    found = {"seconds": time.perf_counter() - begun, "peak": _peak()}
    sweep_screen.render(read_sweep(folder / "s.db", sweep_wording.NEEDED), View())
    return {**found, "screen": _peak()}


def cluster_once(runs: str, seconds: str) -> dict[str, float]:
    """Percent of the time that workers were busy, from the first run of each on, once all their processes are there."""
    from distributed import LocalCluster

    from gradscope.sweeps.dask_cluster import Dispatch, Shipped, connected

    os.environ["PYTHONPATH"] = str(ROOT)
    task = Task("benchmarks.scale:sleep", RunSpec(seed=round(1000 * float(seconds))), "", 1)
    with LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster:
        link = connected(cluster.scheduler_address)
        link.wait_for_workers(WORKERS)
        engine = Dispatch(link, Shipped({}), versions(), cluster.scheduler_address)
        engine.ship()
        while len({one["worker"] for one in _done(engine, [task] * 2 * WORKERS)}) < WORKERS:
            pass
        ended = _done(engine, [task] * int(runs))
        link.close()
    by_worker: dict[int, list[tuple[float, float]]] = {}
    for one in ended:
        by_worker.setdefault(one["worker"], []).append((one["begun"], one["ended"]))
    rows = [sorted(row) for row in by_worker.values()]
    # Until the first worker has nothing left to begin: what comes then is the end, not the dispatch.
    until = min(row[-1][1] for row in rows)
    spans = [[(begun, end) for begun, end in row if end <= until] for row in rows]
    busy = sum(end - begun for row in spans for begun, end in row)
    whole = sum(row[-1][1] - row[0][0] for row in spans if row)
    gaps = [after[0] - before[1] for row in spans for before, after in pairwise(row)]
    return {"busy": 100 * busy / whole, "gap": statistics.median(gaps)}


def _done(engine: Any, waiting: list[Task]) -> list[dict[str, Any]]:
    each = engine.run_each(lambda: (len(waiting), Job(waiting.pop(), 600.0)) if waiting else None)
    return [found[1].value.summary for found in each if found is not None]


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    once = {"memory": memory_once, "cluster": cluster_once}[what]
    sys.stdout.write(json.dumps(once(*rest)))
