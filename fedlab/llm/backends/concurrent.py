"""Several texts at once, handed over in the calling thread as each arrives; the first that fails stops the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

Worker = TypeVar("Worker")
Result = TypeVar("Result")


def at_once(
    workers: Sequence[Worker],
    work: Callable[[Worker, int], Result],
    n: int,
    arrived: Callable[[int, Result], object],
    stop: Event | None = None,
) -> None:
    """Do work(worker, i) for i < n, each worker one at a time.

    Args:
        workers: Those at work, at least one; one that can do several texts at once stands here several times.
        work: Task of a thread.
        n: Number of tasks.
        arrived: Listener, called as arrived(i, result) in the calling thread.
        stop: Event that is set as soon as nobody waits any more, so that whoever waits in `work` may leave.
    """
    stop = Event() if stop is None else stop
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)
    errors: list[BaseException] = []

    def one(index: int) -> Result:
        worker = free.get()
        try:
            if stop.is_set():  # seen here, not by the caller, who may be late
                raise CancelledError
            return work(worker, index)
        except BaseException as error:
            errors.append(error)
            stop.set()
            raise
        finally:
            free.put(worker)

    handed: set[int] = set()

    def hand_over(future: Future[Result]) -> None:
        index = futures[future]
        if index not in handed and not future.cancelled() and future.exception() is None:
            handed.add(index)
            arrived(index, future.result())

    pool = ThreadPoolExecutor(len(workers), thread_name_prefix="fedlab-llm")
    futures = {pool.submit(one, index): index for index in range(n)}
    try:
        for future in as_completed(futures):
            hand_over(future)
    finally:  # after an interrupt too: the texts that were being written were paid for, and are handed over
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        for future in futures:
            hand_over(future)
    if errors:
        raise errors[0]
