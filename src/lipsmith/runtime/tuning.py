"""How a runtime divides its work on this machine: tried on real work once, and remembered.

Nothing here changes a face: a division is only faster or slower. So a stale or damaged memory is no danger.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lipsmith.machine import processor_name, usable_cores, user_cache_folder

FILE_NAME = "divisions.json"

# Faces made before anything is tried: for less work, trying does not pay.
FACES_BEFORE = 160
# Faces by which a candidate is timed, about half a second of a small generator.
FACES_TIMED = 96
# A candidate must be so many times as fast as the first to be preferred: less may be noise.
LEAST_GAIN = 1.05
_MOST_REMEMBERED = 100


@dataclass(frozen=True, slots=True)
class Division:
    """How many faces go through the network together, and how many such batches at once.

    Attributes:
        batch: Most faces of a batch.
        streams: Batches at once; they share the threads.
    """

    batch: int
    streams: int

    def rows_together(self, num_rows: int) -> int:
        """Faces of a batch when a call brings `num_rows`: no stream waits while another has two batches."""
        return max(1, min(self.batch, -(-num_rows // self.streams)))


def candidates(threads: int) -> list[Division]:
    """Divisions that are worth a try with `threads` threads, the one to begin with first.

    A stream a thread, up to four, comes first: threads that share a batch wait for each other after every layer,
    all the more when decoding and encoding take turns with them.
    """
    most = max(1, min(threads, 4))
    streams = [count for count in (most, 2, 1, 8) if count <= max(1, threads)]
    found = [Division(max(1, 8 // count), count) for count in dict.fromkeys(streams)]
    return [Division(4, 1), *found] if most == 1 else found


def available_threads(threads: int | None) -> int:
    """`threads`, or the processors that this process may use."""
    return usable_cores() if threads is None else threads


class Trial:
    """Times the candidates on the work that is there to be done, one after the other, and says which to use.

    Args:
        choices: the first is in use when the trial begins.
    """

    def __init__(self, choices: Sequence[Division]) -> None:
        self._choices = list(choices)
        self._position = -1  # of the candidate that is timed
        self._warm = False
        self._faces = 0
        self._seconds = 0.0
        self.rates: dict[Division, float] = {}
        """Faces a second of those timed so far."""

    @property
    def division(self) -> Division:
        """What to work with next."""
        if self.is_over:
            return self.best
        return self._choices[max(0, self._position)]

    @property
    def is_over(self) -> bool:
        """Whether all candidates were timed."""
        return self._position >= len(self._choices)

    @property
    def best(self) -> Division:
        """The fastest of those timed, if it is clearly faster than the first."""
        first = self._choices[0]
        fastest = max(self.rates, key=lambda division: self.rates[division], default=first)
        return fastest if self.rates.get(fastest, 0) > LEAST_GAIN * self.rates.get(first, 0) else first

    def add(self, num_faces: int, seconds: float) -> None:
        """Tell that `division` made `num_faces` in `seconds`."""
        if self.is_over:
            return
        self._faces += num_faces
        if self._position < 0:
            if self._faces >= FACES_BEFORE:
                self._next()
            return
        if not self._warm:  # caches and clocks are another candidate's
            self._warm, self._faces, self._seconds = True, 0, 0.0
            return
        self._seconds += seconds
        if self._faces >= FACES_TIMED:
            self.rates[self.division] = self._faces / max(self._seconds, 1e-9)
            self._next()

    def _next(self) -> None:
        self._position += 1
        # The first has been at work all the time.
        self._warm, self._faces, self._seconds = self._position == 0, 0, 0.0


def division_key(graph: bytes, threads: int, packages: Sequence[str]) -> str:
    """What a division is remembered under: processor, threads, versions of `packages`, and the network.

    The network is known by the digest of `graph`, its layers and their sizes: what the weights have learned has no
    part in speed, so weights of one kind share what was found.
    """
    versions = [f"{package} {_version(package)}" for package in packages]
    digest = hashlib.sha256(graph).hexdigest()[:16]
    return " · ".join([processor_name(), f"{threads} threads", *versions, digest])


def recall(key: str, choices: Sequence[Division]) -> Division | None:
    """The division remembered under `key`, if it is one of `choices`."""
    entry = _read().get(key)
    if not isinstance(entry, Mapping):
        return None
    return next(
        (c for c in choices if entry.get("batch") == c.batch and entry.get("streams") == c.streams), None
    )


def remember(key: str, trial: Trial) -> None:
    """Keep what `trial` found; where that cannot be written, it is found again next time."""
    best = trial.best
    entry = {
        "batch": best.batch,
        "streams": best.streams,
        "faces_per_second": {f"{d.batch} × {d.streams}": round(rate, 1) for d, rate in trial.rates.items()},
    }
    kept = {name: value for name, value in _read().items() if name != key}
    entries = dict(list(kept.items())[-(_MOST_REMEMBERED - 1) :]) | {key: entry}
    path = _path()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{FILE_NAME}-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(entries, file, indent=1, ensure_ascii=False)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _path() -> Path:
    return user_cache_folder() / FILE_NAME


def _read() -> dict[str, Any]:
    try:
        found = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
