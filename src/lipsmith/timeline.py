"""Which frame of the source is shown when, so that the picture lasts as long as the sound.

A longer picture ends with the sound. For a shorter one the length policy decides:

* `loop`: from the beginning again;
* `bounce`: backwards to the first frame, forwards again, and so on, so that nothing jumps;
* `hold`: the last frame stays (its mouth goes on speaking);
* `cut`: the output ends with the picture, and the sound with it;
* `auto`: `hold` for a moment's difference, as many files have it; else `bounce` where going backwards is
  affordable, else `loop`.
"""

from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal, Protocol, TypeVar, get_args, overload

import numpy as np
from numpy.typing import NDArray

from lipsmith.prefetch import close_iterator

LengthPolicy = Literal["auto", "loop", "bounce", "hold", "cut"]
LENGTH_POLICIES: tuple[str, ...] = get_args(LengthPolicy)

# Going backwards is affordable while a frame is decoded this many times at most, on average.
_MOST_DECODES = 4
_MOMENT_SECONDS = Fraction(1, 5)
_LARGEST_DENOMINATOR = 2**40


@dataclass(frozen=True, slots=True)
class Step:
    """Show frame `index` of the source at `time` seconds of the output."""

    index: int
    time: Fraction


class FrameTimes(Sequence[Fraction]):
    """Times in seconds, 16 bytes each instead of the hundred of a `Fraction`.

    Exact, unless a denominator exceeds 2^40: then to a picosecond.
    """

    def __init__(self, times: Iterable[Fraction] = ()) -> None:
        self._numerators, self._denominators = array("q"), array("q")
        for time in times:
            self.append(time)

    @classmethod
    def of_arrays(cls, numerators: NDArray[np.int64], denominators: NDArray[np.int64]) -> "FrameTimes":
        """The inverse of `to_arrays`.

        Raises:
            ValueError: these are no times from 0 on that strictly increase.
        """
        times = cls()
        if numerators.shape != denominators.shape or numerators.ndim != 1 or (denominators < 1).any():
            raise ValueError("numerators and denominators do not belong together")
        times._numerators = array("q", numerators.tolist())
        times._denominators = array("q", denominators.tolist())
        if len(times) and (times[0] != 0 or any(one >= other for one, other in pairwise(times))):
            raise ValueError("times must begin at 0 and increase")
        return times

    def to_arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numerators and denominators."""
        return np.array(self._numerators, np.int64), np.array(self._denominators, np.int64)

    def append(self, time: Fraction) -> None:
        """Add a time after the last one."""
        time = time.limit_denominator(_LARGEST_DENOMINATOR)
        self._numerators.append(time.numerator)
        self._denominators.append(time.denominator)

    def __len__(self) -> int:
        return len(self._numerators)

    @overload
    def __getitem__(self, index: int) -> Fraction: ...

    @overload
    def __getitem__(self, index: slice) -> "FrameTimes": ...

    def __getitem__(self, index: int | slice) -> "Fraction | FrameTimes":
        if isinstance(index, slice):
            return FrameTimes(self[place] for place in range(*index.indices(len(self))))
        return Fraction(self._numerators[index], self._denominators[index])


class _Indexed(Protocol):
    @property
    def index(self) -> int: ...


IndexedFrame = TypeVar("IndexedFrame", bound=_Indexed)


def picture_steps(
    times: Sequence[Fraction],
    frame_seconds: Fraction,
    duration: Fraction,
    policy: str,
    until: Fraction | None = None,
) -> Iterator[Step]:
    """The steps of an output of `duration` seconds; their times start at 0 and strictly increase.

    The last frame is shown for at least half of `frame_seconds` before the end, so that a sound longer by a
    rounding error adds no frame: the picture ends within half a frame of `duration`. A frame that the source shows for
    longer than a moment, as when a camera stalls, is shown anew each `frame_seconds`: its mouth goes on speaking.

    `times` are the source's frame times from 0; `frame_seconds` is how long a frame is usually shown, and `until` how
    far the source goes if its last frame is shown for longer. `policy` is one of `LENGTH_POLICIES` but `auto` (see
    `choose_policy`).
    """
    if not times:
        return
    end = duration - frame_seconds / 2
    stop = max(times[-1] + frame_seconds, until or Fraction(0))
    for number, (index, start, over) in enumerate(_showings(times, frame_seconds, stop, policy)):
        if start >= end and number > 0:
            return
        yield Step(index, start)
        if over - start > _MOMENT_SECONDS:
            time = start + frame_seconds
            while time < min(over - frame_seconds / 2, end):
                yield Step(index, time)
                time += frame_seconds


def _showings(
    times: Sequence[Fraction], frame_seconds: Fraction, stop: Fraction, policy: str
) -> Iterator[tuple[int, Fraction, Fraction]]:
    """Frames of the source, each with the time at which it is first shown and that at which the next one is."""

    def once(start: Fraction) -> Iterator[tuple[int, Fraction, Fraction]]:
        shown = start
        for index in range(len(times)):
            over = start + (times[index + 1] if index + 1 < len(times) else stop)
            yield index, shown, over
            shown = over

    yield from once(Fraction(0))
    last, time = len(times) - 1, stop
    if policy == "cut":
        return
    if policy == "hold" or last == 0:
        while True:
            yield last, time, time + frame_seconds
            time += frame_seconds
    elif policy == "loop":
        while True:
            yield from once(time)
            time += stop
    elif policy == "bounce":
        index, direction = last, -1
        while True:
            index += direction
            if index in (0, last):
                direction = -direction
            over = time + abs(times[index + direction] - times[index])
            yield index, time, over
            time = over
    else:
        raise ValueError(f"no length policy {policy!r}")


def choose_policy(policy: str, num_frames: int, num_kept: int, missing_seconds: Fraction) -> str:
    """`policy` itself, or what `auto` means.

    The picture has `num_frames` frames, of which `num_kept` fit in memory at once, and is `missing_seconds`
    shorter than the sound (0 or less: it is not).
    """
    if policy != "auto":
        return policy
    if missing_seconds <= _MOMENT_SECONDS:
        return "hold"
    # Backwards, the frames before each stretch of `num_kept` are decoded again: half of all of them on average.
    return "bounce" if num_frames <= 2 * _MOST_DECODES * num_kept else "loop"


def frames_in_order(
    read: Callable[[], Iterator[IndexedFrame]],
    steps: Iterable[Step],
    num_kept: int = 1,
    kept: Iterable[IndexedFrame] = (),
) -> Generator[tuple[IndexedFrame, Step], None, None]:
    """The frames that `steps` ask for, read as often as needed with at most `num_kept` frames in memory.

    `read` opens the source at its first frame, whose index is 0. Going forwards costs one decode a frame;
    going back beyond what is kept starts again at the beginning. `kept` are the source's last frames, if somebody has
    read it to its end before.
    """
    kept = deque(kept, maxlen=num_kept)
    source: Iterator[IndexedFrame] = iter(())
    try:
        for step in steps:
            if not kept or step.index < kept[0].index:
                close_iterator(source)
                kept.clear()
                source = read()
            while not kept or kept[-1].index < step.index:
                frame = next(source, None)
                if frame is None:
                    return  # shorter than at the first reading: what was read is all there is
                kept.append(frame)
            yield kept[step.index - kept[0].index], step
    finally:
        close_iterator(source)
