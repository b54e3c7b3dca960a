"""Stages that overlap: an iterator that works ahead in a thread of its own, by a bounded number of items.

Each stage of a pipeline is a generator; wrapping it in `Prefetch` lets it run beside its consumer. Decoding,
inference, resampling and encoding leave Python's lock, so threads are enough.
"""

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Generic, Self, TypeVar

Item = TypeVar("Item")

_START_SECONDS = 5.0  # no thread that is going to run at all takes so long to begin
_END_SECONDS = 5.0  # nor so long over one item, unless it waits for something that does not come


class Prefetch(AbstractContextManager, Iterator[Item], Generic[Item]):
    """Iterates over `source` in a thread, at most `capacity` items ahead, inside a `with` block.

    Items come in order. An exception in `source`, of any kind, comes out of `next` in its place. Leaving the block
    (or `close`) stops the thread where it is, waits for it, and closes `source` in that thread if it is a
    generator, so that files it holds open are closed and a chain of such stages ends from the last to the first.
    """

    def __init__(self, source: Iterable[Item], capacity: int, name: str = "prefetch") -> None:
        if capacity < 1:
            raise ValueError(f"a stage cannot work ahead by {capacity} items")
        self._source = source
        self._capacity = capacity
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._finished = False  # nothing more will be put into _items
        self._stopped = False  # nobody will take anything out
        self._error: BaseException | None = None
        # A daemon, so that a second ^C during `close` still ends the process.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._launched = False
        self._began = threading.Event()

    def __enter__(self) -> Self:
        self._launched = True
        _launched.add(self)
        try:
            self._thread.start()
        except BaseException:  # an interrupt, which leaves the thread running: nobody else would end it
            self.close()
            raise
        return self

    def __next__(self) -> Item:
        if not self._launched:
            raise ValueError("a stage works inside its `with` block only")
        with self._changed:
            while not self._items and not self._finished and not self._stopped:
                self._changed.wait()
            if self._items and not self._stopped:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                # Its traceback holds this call: both would hold all that the source held until garbage is collected.
                del error
        raise StopIteration

    def close(self) -> None:
        """Stop working ahead and wait until the thread has ended; may be called more than once."""
        self._stop()
        # An interrupt may have come before the thread was there at all: then there is nothing to wait for.
        if self._launched and self._began.wait(_START_SECONDS):
            self._thread.join()
        elif not self._launched:
            close_iterator(self._source)

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _run(self) -> None:
        self._began.set()
        try:
            try:
                for item in self._source:
                    if not self._put(item):
                        break
                    del item  # or it would be in memory beside the next one
            finally:
                close_iterator(self._source)
        except BaseException as error:  # whatever it is, it belongs to the consumer
            with self._changed:
                self._error = error
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        """Wait for room and add `item`; False if nobody wants it any more."""
        with self._changed:
            while len(self._items) >= self._capacity and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True


_launched: "weakref.WeakSet[Prefetch[Any]]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End the threads of stages that nobody closed, such as those of an iterator that a script did not exhaust.

    Python stops the threads that still run when it ends; in the middle of compiled code that aborts the process.
    """
    at_work = [stage for stage in _launched if stage._thread.is_alive()]
    for stage in at_work:
        stage._stop()
    end = time.monotonic() + _END_SECONDS
    for stage in at_work:
        stage._thread.join(max(0.0, end - time.monotonic()))


def close_iterator(source: object) -> None:
    """Close what an iterator holds open, if it is a generator or a `Prefetch`."""
    close = getattr(source, "close", None)
    if close is not None:
        close()
