"""Many pieces of work at once, in processes of this machine or on a Ray cluster: results as they finish."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cv2

from lipsmith.errors import OutputError, RuntimeUnavailableError
from lipsmith.machine import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_ON_WINDOWS = 61  # processes that one can wait for there; Python refuses more


def spread_work(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    jobs: int | None = None,
    ray: str | None = None,
    name_of: Callable[[Item], str] = str,
) -> Generator[Result, None, None]:
    """What `function` gives for each of `items`, in the order in which they finish; few are handed out at a time.

    Args:
        function: of a module, or a `functools.partial` of one, so that it can be sent to other processes. An exception
            in it ends the work.
        items: what can be sent, too.
        jobs: processes; as many as there are cores when None; 1 works in this one.
        ray: address of a Ray cluster (`auto`, `local` or host:port) to work on instead. Its machines must see files at
            the same paths.
        name_of: what an item is called in an error's message.

    Raises:
        OutputError: a process was ended from outside.
        RuntimeUnavailableError: Ray was asked for and is not installed, or cannot be reached.
    """
    if ray is not None:
        return _on_ray(function, items, ray)
    jobs = jobs or usable_cores()
    if os.name == "nt":
        jobs = min(jobs, _MOST_ON_WINDOWS)
    if jobs == 1:
        return (function(item) for item in items)
    return _in_processes(function, items, jobs, name_of)


def _in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], jobs: int, name_of: Callable[[Item], str]
) -> Generator[Result, None, None]:
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:
        waiting = iter(items)
        running: dict[Future[Result], Item] = {}
        try:
            while True:
                while len(running) < 2 * jobs:
                    try:
                        item = next(waiting)
                    except StopIteration:
                        break
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                complete, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in complete:
                    result = future.result()
                    del running[future]
                    yield result
        except BrokenProcessPool as error:
            names = ", ".join(name_of(item) for item in list(running.values())[:jobs])
            raise OutputError(
                f"A process was ended from outside, perhaps for want of memory, at one of: {names}. Run the same "
                "command again, with fewer --jobs."
            ) from error
        except BaseException:
            # What they were at is done anew. Cancelling the futures instead would wait for a video each, and where the
            # processes are ending too, Python's own thread dies of it with a traceback.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def _start_worker() -> None:
    cv2.setNumThreads(1)
    # Ctrl-C reaches all processes: the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A worker whose parent was killed would wait for work for ever.
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _on_ray(
    function: Callable[[Item], Result], items: Iterable[Item], address: str
) -> Generator[Result, None, None]:
    try:
        import ray
    except ImportError as error:
        raise RuntimeUnavailableError("--ray needs Ray: pip install 'lipsmith[ray]'.") from error
    try:
        ray.init(
            address=None if address == "local" else address, ignore_reinit_error=True, log_to_driver=False
        )
    except (OSError, ValueError, RuntimeError) as error:  # a ConnectionError is an OSError
        reason = " ".join(str(error).split())
        raise RuntimeUnavailableError(
            f"The Ray cluster {address!r} cannot be reached: {reason}. Is it running? --ray local needs none."
        ) from error
    try:
        call = ray.remote(_call)  # Ray takes functions, and a partial is none
        most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = iter(items)
        running: list[Any] = []
        while True:
            while len(running) < most:
                try:
                    running.append(call.remote(function, next(waiting)))
                except StopIteration:
                    break
            if not running:
                return
            complete, running = ray.wait(running)
            try:
                results = ray.get(complete)
            except ray.exceptions.RayTaskError as error:
                # What was raised there, without the traceback that Ray makes its words of.
                if isinstance(error.cause, Exception):
                    raise error.cause from error
                raise
            yield from results
    finally:
        ray.shutdown()


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)
