"""Several texts at once, told in the calling thread as each arrives; the first that fails stops the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

from fedlab.llm.language_model import Arrived, Completion, Progress

Worker = TypeVar("Worker")


def at_once(
    workers: Sequence[Worker],
    work: Callable[[Worker, int], Completion],
    n: int,
    progress: Progress | None,
    arrived: Arrived | None,
    stop: Event | None = None,
) -> list[Completion]:
    """Return work(worker, i) for i < n in their order, each worker at one text at a time.

    Parameters
    ----------
    workers
        At least one; one that can do several texts at once stands here several times.
    work
        Runs in a thread.
    progress, arrived
        See `LanguageModel.complete`.
    stop
        Set as soon as nobody waits for the texts any more, so that whoever waits in `work` may leave.
    """
    stop = Event() if stop is None else stop
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)
    failed: list[BaseException] = []

    def one(index: int) -> Completion:
        worker = free.get()
        try:
            if stop.is_set():  # seen here, not by the caller, who may be late
                raise CancelledError
            return work(worker, index)
        except BaseException as error:
            failed.append(error)
            stop.set()
            raise
        finally:
            free.put(worker)

    done: dict[int, Completion] = {}

    def tell(future: Future[Completion]) -> None:
        index = futures[future]
        if index in done or future.cancelled() or future.exception() is not None:
            return
        done[index] = future.result()
        if arrived is not None:
            arrived(index, done[index])
        if progress is not None:
            progress(len(done), n)

    pool = ThreadPoolExecutor(len(workers), thread_name_prefix="fedlab-llm")
    futures = {pool.submit(one, index): index for index in range(n)}
    try:
        for future in as_completed(futures):
            tell(future)
    except BaseException:  # an interrupt: the texts that are being written were paid for, and are told too
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        for future in futures:
            tell(future)
        raise
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    if failed:
        raise failed[0]
    return [done[index] for index in range(n)]
