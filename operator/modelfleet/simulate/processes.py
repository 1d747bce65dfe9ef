"""The same work on many jobs, in processes of their own that share what is large."""

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, TypeVar

Job = TypeVar("Job")
Shared = TypeVar("Shared")
Outcome = TypeVar("Outcome")

Progress = Callable[[int, int], None]
"""Told how many runs are done, and of how many."""


def in_processes(
    work: Callable[[Job, Shared], Outcome],
    jobs: Sequence[Job],
    shared: Shared,
    *,
    processes: int | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Do jobs in parallel; the outcomes are in the order of the jobs.

    Args:
        work: A function of a module: no other travels to another process.
        jobs: One argument of it each.
        shared: The other argument: it travels once a process.
        processes: How many at once; None is one per CPU. 1 does them here.
        progress: Called after each one.
    """
    told = progress or (lambda done, total: None)
    processes = min(processes or os.cpu_count() or 1, len(jobs))
    told(0, len(jobs))
    if processes <= 1:
        return _count((work(job, shared) for job in jobs), len(jobs), told)
    # Spawned, not forked: the caller may have threads, a progress bar for one.
    spawn = get_context("spawn")
    ends, alive = spawn.Pipe(duplex=False)
    with (
        ends,
        alive,
        ProcessPoolExecutor(
            processes, mp_context=spawn, initializer=_begin_worker, initargs=(work, shared, ends)
        ) as pool,
    ):
        try:
            # Ctrl-C reaches every process of the terminal; workers inherit the mask, and the parent alone answers it.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                outcomes = pool.map(_work, jobs)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return _count(outcomes, len(jobs), told)
        except BaseException:
            # Runs under way may take a minute, and nobody wants them any more.
            alive.close()
            raise


def _count(outcomes: Iterable[Outcome], total: int, told: Progress) -> list[Outcome]:
    done = []
    for outcome in outcomes:
        done.append(outcome)
        told(len(done), total)
    return done


_worker: dict[str, Any] = {}
"""A worker process keeps here what all its jobs share."""


def _begin_worker(work: Callable[[Any, Any], Any], shared: object, ends: Connection) -> None:
    _worker.update(work=work, shared=shared)
    Thread(target=_end_with, args=(ends,), daemon=True).start()


def _end_with(ends: Connection) -> None:
    """End this worker when the other end of the pipe is closed: the parent gave up, or was killed."""
    ends.poll(None)
    os._exit(1)


def _work(job: object) -> Any:
    return _worker["work"](job, _worker["shared"])
