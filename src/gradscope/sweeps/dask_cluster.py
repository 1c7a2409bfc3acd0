"""Runs on a Dask cluster: versions compared, the user's files sent, runs handed out again where workers die."""

from __future__ import annotations

import logging
import os
import queue
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from gradscope.errors import UsageError
from gradscope.sweeps.plan import Plan
from gradscope.sweeps.shipped import collected, token_of, unpack
from gradscope.text import safe_text
from gradscope.workers import ADRIFT, GLANCE, Ending, Job, Take

COMPARED = ("gradscope", "torch")


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


@cache
def own_versions() -> dict[str, str]:
    """Of this process."""
    return asking()()


def difference(theirs: dict[str, str], ours: dict[str, str]) -> str:
    """`torch 2.12.0 (here 2.13.0)`; '' where there is none."""
    other = [name for name in COMPARED if theirs.get(name) != ours[name]]
    return ", ".join(f"{name} {safe_text(theirs.get(name))} (here {safe_text(ours[name])})" for name in other)


try:
    from distributed import Client, KilledWorker, WorkerPlugin, get_worker
except ImportError:
    raise UsageError("--scheduler needs Dask; pip install 'gradscope-bptt[sweep]' here and on the workers") from None

LIVES = 500
"""Runs that one process does."""
AHEAD = 4
"""Runs that are on their way for each thread of the cluster."""
FRESH = 2.0
"""Seconds between looks at how many threads there are."""
START = 30.0
"""Seconds in which the scheduler must answer, and a worker be there."""
AWAY = 30.0
"""Seconds that the scheduler may be away in the middle."""

Each = Callable[[Take], Iterator[tuple[Any, Ending] | None]]


class OtherVersionsError(Exception):
    """A worker would compute with something else than the client."""


class NoFilesError(Exception):
    """A worker has not been given the user's files."""


class Shipped(WorkerPlugin):  # type: ignore[misc]
    """Lays the user's files where a worker works, also on workers that come later."""

    def __init__(self, files: dict[str, bytes]) -> None:
        """Take the content of files by path."""
        self.files, self.name = files, f"gradscope-{token_of(files)}"

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
        dispatch = Dispatch(client, Shipped(collected(plan)), plan.versions, address)
        dispatch.ship()
        body(dispatch.run_each)
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
    # What it would say of a scheduler that is gone is said once, by this program.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
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


class Dispatch:
    """What `run_each` is for processes of this machine, on the cluster."""

    def __init__(self, client: Any, shipped: Shipped, versions: dict[str, str], address: str) -> None:
        self._client, self._shipped, self._versions, self._address = client, shipped, versions, address
        self._ended: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._flying: dict[Any, Any] = {}
        self._room, self._looked, self._seen = 1, -FRESH, time.monotonic()

    def ship(self) -> None:
        """Lay the files where workers work, now and later."""
        self._client.register_plugin(self._shipped, name=self._shipped.name)

    def run_each(self, take: Take) -> Iterator[tuple[Any, Ending] | None]:
        """Do what `take` gives until it gives nothing and nothing is on its way; (name, ending) as they come.

        Raises:
            UsageError: the scheduler is gone, or a worker has other versions.
        """
        try:
            while True:
                if self._is_there():
                    self._send(take)
                    if not self._flying:
                        return
                try:
                    claim, future = self._ended.get(timeout=GLANCE)
                except queue.Empty:
                    yield None
                    continue
                if self._flying.pop(future, None) is not None:
                    yield claim, self._ending(future)
        finally:
            if self._flying and self._client.status == "running":
                self._client.cancel(list(self._flying))
            self._flying.clear()

    def _is_there(self) -> bool:
        """Whether the scheduler answers; for a while it may be away."""
        if self._client.status == "running":
            self._seen = time.monotonic()
            return True
        if self._client.status == "closed" or time.monotonic() - self._seen > AWAY:
            shown = safe_text(self._address)
            raise UsageError(f"the scheduler at '{shown}' is gone; what was finished is kept, the same command goes on")
        return False

    def _send(self, take: Take) -> None:
        if time.monotonic() - self._looked > FRESH:
            with suppress(OSError, TimeoutError):
                self._room = AHEAD * max(1, sum(self._client.nthreads().values()))
            self._looked = time.monotonic()
        while len(self._flying) < self._room and (asked := take()) is not None:
            claim, job = asked
            key = f"gradscope-{uuid.uuid4().hex}"
            future = self._client.submit(do_there, job, self._shipped.name, self._versions, pure=False, key=key)
            self._flying[future] = claim
            future.add_done_callback(lambda done, claim=claim: self._ended.put((claim, done)))

    def _ending(self, future: Any) -> Ending:
        """How a run ended."""
        if future.status == "finished":
            ending: Ending = future.result()
            return ending
        adrift = Ending(reason="the cluster lost it", killed=ADRIFT)
        if future.status != "error":
            return adrift
        error = future.exception()
        if isinstance(error, NoFilesError):
            # The scheduler is another than it was, and has told its workers nothing.
            self.ship()
            return adrift
        if isinstance(error, OtherVersionsError):
            raise UsageError(f"{safe_text(error)}; install the same versions there")
        if isinstance(error, KilledWorker):
            return Ending(reason="the workers that did it died, one after the other", killed="SIGKILL")
        return Ending(reason=f"{type(error).__name__}: {safe_text(error, 300)}")


def do_there(job: Job, name: str, versions: dict[str, str]) -> Ending:
    """On a worker: do the job in a process beside it, where a crash or a hang ends that process alone.

    Raises:
        OtherVersionsError: this worker came later, and is not like the others.
        NoFilesError: its scheduler has told it nothing.
    """
    from gradscope.sweeps.run_point import perform
    from gradscope.workers import do_here

    said = difference(own_versions(), versions)
    if said:
        raise OtherVersionsError(f"worker {get_worker().address} has {said}")
    folder = folder_of(get_worker(), name)
    if not folder.is_dir():
        raise NoFilesError(f"worker {get_worker().address} has no {folder}")
    return do_here(perform, replace(job, task=replace(job.task, folder=str(folder))), LIVES)
