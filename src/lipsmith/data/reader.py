"""The clips of a training, read when they are asked for, and a count of every one that had to be skipped.

A damaged shard or crop must neither end a training of hours nor keep it looking for ever: what cannot be read is
skipped, counted with its reason, and when more is skipped than read it is an error.
"""

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import overload

from lipsmith.data.clips import Clip, ClipRecord, check_clip, load_clip
from lipsmith.data.storage import Location
from lipsmith.errors import DataError

logger = logging.getLogger(__name__)

LEAST_SKIPS = 10  # fewer than this many never count as "most"
MOST_SENTENCES = 10  # a shard holds hundreds of clips
_MOST_MEMORY = 8 << 30
_MEMORY_SHARE = 4  # of what is free when a reader is made, one part in so many


class Skips:
    """Counts of samples that were read and that were skipped, by reason; safe to share between threads.

    Attributes:
        read: Samples that could be read.
        reasons: Reason → samples skipped for it.
        clips: Id of a clip that was skipped → the sentence that says why.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.read = 0
        self.reasons: dict[str, int] = {}
        self.clips: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Samples skipped."""
        return sum(self.reasons.values())

    def add_read(self) -> None:
        """Count a sample that could be read."""
        with self._lock:
            self.read += 1

    def add(self, record: ClipRecord, reason: str, sentence: str) -> None:
        """Count a skipped sample; raises `DataError` when skipped ones are the majority."""
        with self._lock:
            if record.id not in self.clips and len(self.clips) < MOST_SENTENCES:
                logger.warning("Skipped: %s", sentence)
                if len(self.clips) == MOST_SENTENCES - 1:
                    logger.warning("Further clips that cannot be read are only counted.")
            self.clips[record.id] = sentence
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
            if self.count >= LEAST_SKIPS and self.count > self.read:
                raise DataError(
                    f"Most samples of {self.place} cannot be read: {self.count} skipped, {self.read} read "
                    f"({self.in_words()}). The first: {next(iter(self.clips.values()))}"
                )

    def in_words(self) -> str:
        """Reasons and counts, the most frequent first."""
        ordered = sorted(self.reasons.items(), key=lambda item: -item[1])
        return ", ".join(f"{reason}: {count}" for reason, count in ordered)


class ClipSet(Sequence[Clip]):
    """Clips of a prepared folder or address, in memory as far as there is room.

    The first time that a clip is read in a process, all of it is checked. One that cannot be read counts as a skip each
    time that it is asked for; going through the set passes it over.

    Args:
        location: The prepared folder or address.
        records: Its clips, in the order that numbers refer to.
        memory_bytes: How much of the clips is kept in memory; when None a quarter of what is free, divided among the
            processes that train together on this machine, and at most 8 GiB.
    """

    def __init__(
        self, location: Location, records: Sequence[ClipRecord], *, memory_bytes: int | None = None
    ) -> None:
        self.location = location
        self.records = list(records)
        self.skips = Skips(str(location))
        self._memory_bytes = _free_share() if memory_bytes is None else memory_bytes
        self._kept: OrderedDict[int, Clip] = OrderedDict()
        self._kept_bytes = 0
        self._checked: set[int] = set()
        self._failed: dict[int, tuple[str, str]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, number: int) -> Clip: ...

    @overload
    def __getitem__(self, number: slice) -> list[Clip]: ...

    def __getitem__(self, number: int | slice) -> Clip | list[Clip]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        clip = self.get(range(len(self))[number])
        if clip is None:
            raise DataError(self.skips.clips[self.records[number].id])
        return clip

    def __iter__(self) -> Iterator[Clip]:
        for number in range(len(self)):
            clip = self.get(number)
            if clip is not None:
                yield clip

    def get(self, number: int) -> Clip | None:
        """Clip `number`, or None, counted as a skip, where it cannot be read.

        Raises:
            DataError: More was skipped than read.
        """
        record = self.records[number]
        with self._lock:
            clip, failed = self._kept.get(number), self._failed.get(number)
            if clip is not None:
                self._kept.move_to_end(number)
        if clip is None and failed is None:
            try:
                clip = self._load(number)
            except DataError as error:
                failed = self._failed[number] = _reason(error), str(error)
        if clip is None:
            assert failed is not None
            self.skips.add(record, *failed)
            return None
        self.skips.add_read()
        return clip

    def readable(self) -> "ClipSet":
        """The same without the clips that cannot be read: all are read once, and the count of skips goes on.

        Raises:
            DataError: Most, or all, cannot be read.
        """
        good = [number for number in range(len(self)) if self.get(number) is not None]
        if self.records and not good:
            raise DataError(
                f"None of {len(self)} clips of {self.location} can be read. The first: "
                f"{next(iter(self.skips.clips.values()))}"
            )
        rest = ClipSet(self.location, [self.records[n] for n in good], memory_bytes=self._memory_bytes)
        rest.skips = self.skips
        place = {old: new for new, old in enumerate(good)}
        rest._kept = OrderedDict((place[old], clip) for old, clip in self._kept.items())
        rest._kept_bytes = self._kept_bytes
        rest._checked = set(range(len(good)))
        return rest

    def _load(self, number: int) -> Clip:
        known = number in self._checked
        clip = load_clip(self.records[number], self.location, known=known)
        if not known:
            try:
                check_clip(clip)
            except DataError as error:
                record = clip.record
                raise DataError(
                    f"The prepared clip {record.id} in {record.file} is damaged: {error}."
                ) from error
        size = sum(jpeg.nbytes for jpeg in clip.jpegs) + clip.mel.nbytes
        with self._lock:
            self._checked.add(number)
            if number not in self._kept and size <= self._memory_bytes:
                self._kept[number] = clip
                self._kept_bytes += size
                while self._kept_bytes > self._memory_bytes:
                    _, gone = self._kept.popitem(last=False)
                    self._kept_bytes -= sum(jpeg.nbytes for jpeg in gone.jpegs) + gone.mel.nbytes
        return clip


def _reason(error: DataError) -> str:
    """A reason that many clips can share: missing, damaged or not to be had."""
    words = str(error.__cause__ or error)
    if "no such file" in words or "the server says 404" in words:
        return "missing"
    return "not fetched" if "fetching failed" in words or "the server says" in words else "damaged"


def _free_share() -> int:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 1 << 30
    return min(_MOST_MEMORY, free // _MEMORY_SHARE // _num_processes_here())


def _num_processes_here() -> int:
    """How many processes torchrun or accelerate has started on this machine."""
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(told)) if told.isdecimal() else 1
