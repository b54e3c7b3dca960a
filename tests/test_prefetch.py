import gc
import subprocess
import sys
import threading
import weakref

import pytest

from lipsmith.prefetch import Prefetch


def test_items_come_in_order():
    with Prefetch(iter(range(100)), 3) as items:
        assert list(items) == list(range(100))


def test_it_works_ahead_by_its_capacity_and_no_further():
    made = []
    two_more = threading.Event()

    def source():
        for number in range(50):
            made.append(number)
            if number == 3:
                two_more.set()
            yield number

    with Prefetch(source(), 3) as items:
        assert two_more.wait(10)  # three in the queue and a fourth waiting to be put
        assert made == [0, 1, 2, 3]
        assert next(items) == 0
        assert [next(items) for _ in range(3)] == [1, 2, 3]


def test_an_exception_that_was_dealt_with_holds_nothing_in_memory():
    class Frame:
        pass

    frames = []

    def source():
        held = Frame()
        frames.append(weakref.ref(held))
        yield 1
        raise KeyError("broken")

    gc.disable()
    try:
        with (
            pytest.raises(KeyError),
            Prefetch(source(), 2) as first,
            Prefetch((item for item in first), 2) as second,
        ):
            list(second)
        assert frames[0]() is None
    finally:
        gc.enable()


def test_an_exception_comes_out_behind_the_items_before_it():
    def source():
        yield 1
        raise KeyError("broken")

    with Prefetch(source(), 5) as items:
        assert next(items) == 1
        with pytest.raises(KeyError, match="broken"):
            next(items)
        with pytest.raises(StopIteration):
            next(items)


def test_leaving_early_closes_the_source_in_its_own_thread():
    closed_in = []

    def source():
        try:
            while True:
                yield 0
        finally:
            closed_in.append(threading.current_thread().name)

    with Prefetch(source(), 2, name="decode") as items:
        next(items)
    assert closed_in == ["decode"]
    assert "decode" not in [thread.name for thread in threading.enumerate()]


def test_a_chain_of_stages_ends_when_its_last_one_fails():
    closed = []

    def first():
        try:
            yield from range(1000)
        finally:
            closed.append("first")

    def second():
        with Prefetch(first(), 2) as items:
            try:
                yield from items
            finally:
                closed.append("second")

    with pytest.raises(KeyboardInterrupt), Prefetch(second(), 2) as items:
        for item in items:
            if item == 5:
                raise KeyboardInterrupt
    assert sorted(closed) == ["first", "second"]


def test_an_exception_in_the_first_stage_reaches_the_last():
    def first():
        yield from range(3)
        raise OSError("disk")

    def second():
        with Prefetch(first(), 2) as items:
            yield from items

    received = []
    with pytest.raises(OSError, match="disk"), Prefetch(second(), 2) as items:
        for item in items:
            received.append(item)
    assert received == [0, 1, 2]


def test_closing_twice_is_allowed_and_then_there_is_nothing_left():
    with Prefetch(iter(range(10)), 2) as items:
        items.close()
        items.close()
        assert list(items) == []


def test_it_works_inside_its_block_only():
    closed = []

    def source():
        try:
            yield 1
        finally:
            closed.append(True)

    running = source()
    next(running)
    items = Prefetch(running, 1)
    with pytest.raises(ValueError, match="`with` block"):
        next(items)
    items.close()
    assert closed == [True]


def test_an_interrupt_while_the_thread_starts_ends_the_thread(monkeypatch):
    closed_in = []

    def source():
        try:
            while True:
                yield 0
        finally:
            closed_in.append(threading.current_thread().name)

    real_start = threading.Thread.start

    def start_and_be_interrupted(self):
        real_start(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt), Prefetch(source(), 2, name="decode"):
        pytest.fail("the body must not run")
    assert closed_in == ["decode"]
    assert "decode" not in [thread.name for thread in threading.enumerate()]


def test_no_room_at_all_is_refused():
    with pytest.raises(ValueError, match="0 items"):
        Prefetch(iter(()), 0)


@pytest.mark.parametrize(("ending", "code"), [("", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1)])
def test_a_script_that_ends_while_a_stage_works_ends_as_it_says(ending, code):
    script = f"""
import itertools
import cv2
import numpy as np
from lipsmith.prefetch import Prefetch

def images():
    with Prefetch((cv2.GaussianBlur(image, (0, 0), 9) for _ in itertools.count()), 1) as blurred:
        with Prefetch((cv2.GaussianBlur(one, (0, 0), 9) for one in blurred), 1) as twice:
            yield from twice

def main():
    made = images()
    next(made)
    kept.append(made)
    {ending}

kept, image = [], np.zeros((600, 600, 3), np.float32)
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "terminate" not in done.stderr
