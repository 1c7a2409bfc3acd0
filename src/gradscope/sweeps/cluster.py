"""The same runs on a Dask cluster: it hands them out, tries again where workers die, and says what came of them."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradscope.errors import UsageError
from gradscope.processes.pool import GLANCE, Take
from gradscope.processes.worker import ADRIFT, Ending, Job
from gradscope.sweeps.plan import Plan
from gradscope.sweeps.shipped import collected, token_of, unpack
from gradscope.text import safe_text

try:
    from distributed import Client, KilledWorker, WorkerPlugin, get_worker
except ImportError:
    raise UsageError("--scheduler needs Dask; pip install 'gradscope-bptt[sweep]' here and on the workers") from None

LIVES = 500
"""Runs that one process does."""
AHEAD = 2
"""Runs that are on their way for each thread of the cluster."""
FRESH = 2.0
"""Seconds between looks at how many threads there are."""
START = 30.0
"""Seconds in which the scheduler must answer, and a worker be there; so long it may be away in the middle, too."""
COMPARED = ("gradscope", "torch")

Each = Callable[[Take], Iterator[tuple[Any, Ending] | None]]


class OtherVersionsError(Exception):
    """A worker would compute with something else than the client."""


class Shipped(WorkerPlugin):  # type: ignore[misc]
    """Lays the user's files where a worker works, also on workers that come later."""

    def __init__(self, files: dict[str, bytes], token: str) -> None:
        self.files, self.name = files, f"gradscope-{token}"

    def setup(self, worker: Any) -> None:
        """Called by Dask on each worker."""
        unpack(self.files, folder_of(worker, self.name))


def folder_of(worker: Any, name: str) -> Path:
    """Where a worker keeps the files of a sweep."""
    return Path(worker.local_directory) / name


def with_cluster(address: str, plan: Plan, body: Callable[[Each], None]) -> None:
    """Call `body` with a function that does jobs on the cluster.

    Args:
        address: `tcp://host:8786`, or the file that a scheduler has written.
        plan: whose files are sent along.
        body: gets what `processes.pool.run_each` is on this machine.

    Raises:
        UsageError: no scheduler or no worker is there, one has other versions, or the scheduler has gone.
    """
    client = connected(address)
    try:
        refuse_other_versions(client, plan.versions)
        files = collected(plan)
        name = f"gradscope-{token_of(files)}"
        client.register_plugin(Shipped(files, token_of(files)), name=name)
        body(lambda take: run_there(client, take, name, plan.versions, address))
    finally:
        client.close(timeout=5)


def connected(address: str) -> Any:
    """A client of the scheduler, with at least one worker.

    Raises:
        UsageError: nobody answers.
    """
    shown = safe_text(address)
    is_file = os.path.isfile(address)
    if not is_file and address.endswith(".json"):
        raise UsageError(f"no file '{shown}'; a scheduler writes it: dask scheduler --scheduler-file {shown}")
    place = {"scheduler_file": address} if is_file else {"address": address}
    try:
        client = Client(**place, timeout=START, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        what = safe_text(error, 120) or type(error).__name__
        raise UsageError(f"no Dask scheduler answers at '{shown}' ({what}); start one: dask scheduler") from None
    try:
        client.wait_for_workers(1, timeout=START)
    except TimeoutError:
        client.close(timeout=5)
        raise UsageError(f"the scheduler at '{shown}' has no workers; start some: dask worker {shown}") from None
    return client


def refuse_other_versions(client: Any, ours: dict[str, str]) -> None:
    """All workers must compute with what the client has.

    Raises:
        UsageError: one does not; the message names it and the difference.
    """
    for worker, theirs in client.run(asking()).items():
        said = difference(theirs, ours)
        if said:
            client.close(timeout=5)
            raise UsageError(f"worker {safe_text(worker)} has {said}; install the same versions there")


def asking() -> Callable[[], dict[str, str]]:
    """A function that says which versions there are, whole in itself: a worker may lack gradscope."""

    def versions() -> dict[str, str]:
        from importlib import metadata

        found = {}
        for name, package in (("gradscope", "gradscope-bptt"), ("torch", "torch")):
            try:
                found[name] = metadata.version(package)
            except metadata.PackageNotFoundError:
                found[name] = "none"
        return found

    return versions


def difference(theirs: dict[str, str], ours: dict[str, str]) -> str:
    """`torch 2.12.0 (here 2.13.0)`; '' where there is none."""
    other = [name for name in COMPARED if theirs.get(name) != ours[name]]
    return ", ".join(f"{name} {safe_text(theirs.get(name))} (here {safe_text(ours[name])})" for name in other)


def run_there(
    client: Any, take: Take, name: str, versions: dict[str, str], address: str
) -> Iterator[tuple[Any, Ending] | None]:
    """What `run_each` is for processes of this machine, on the cluster."""
    ended: queue.Queue[tuple[Any, Any]] = queue.Queue()
    flying: dict[Any, Any] = {}
    looked, room, seen = -FRESH, 1, time.monotonic()
    try:
        while True:
            now = time.monotonic()
            if client.status == "running":
                seen = now
            elif now - seen > START:
                raise UsageError(f"the scheduler at '{safe_text(address)}' is gone; what was finished is kept")
            if now - looked > FRESH and client.status == "running":
                room, looked = AHEAD * _threads(client, room), now
            while client.status == "running" and len(flying) < room and (asked := take()) is not None:
                claim, job = asked
                future = client.submit(do_there, job, name, versions, pure=False, key=_key(claim))
                flying[future] = claim
                future.add_done_callback(lambda done, claim=claim: ended.put((claim, done)))
            if not flying:
                return
            try:
                claim, future = ended.get(timeout=GLANCE)
            except queue.Empty:
                yield None
                continue
            if flying.pop(future, None) is not None:
                yield claim, ending_of(future)
    finally:
        if flying and client.status == "running":
            client.cancel(list(flying))


def do_there(job: Job, name: str, versions: dict[str, str]) -> Ending:
    """On a worker: do the job in a process beside it, where a crash or a hang ends that process alone.

    Raises:
        OtherVersionsError: this worker came later, and is not like the others.
    """
    from gradscope.processes.program import do_here
    from gradscope.sweeps.perform import perform

    said = difference(asking()(), versions)
    if said:
        raise OtherVersionsError(f"worker {get_worker().address} has {said}")
    folder = folder_of(get_worker(), name)
    return do_here(perform, replace(job, task=replace(job.task, folder=str(folder))), LIVES)


def ending_of(future: Any) -> Ending:
    """How a run ended on the cluster.

    Raises:
        UsageError: its worker has other versions.
    """
    if future.status == "finished":
        ending: Ending = future.result()
        return ending
    if future.status != "error":
        return Ending(reason="the cluster lost it", killed=ADRIFT)
    error = future.exception()
    if isinstance(error, OtherVersionsError):
        raise UsageError(f"{safe_text(error)}; install the same versions there")
    if isinstance(error, KilledWorker):
        return Ending(reason="the workers that did it died, one after the other", killed="SIGKILL")
    return Ending(reason=f"{type(error).__name__}: {safe_text(error, 300)}")


def _threads(client: Any, before: int) -> int:
    try:
        return max(1, sum(int(count) for count in client.nthreads().values()))
    except (OSError, TimeoutError):
        return max(1, before // AHEAD)


def _key(claim: Any) -> str:
    return f"gradscope-{claim.key}-{time.time_ns()}"
