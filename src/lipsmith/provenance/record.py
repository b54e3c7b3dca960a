"""`SyncRecord`: what was done to one video, as every mark tells it."""

import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from lipsmith import __version__

# IPTC's name for "a recording of which a trained model replaced a part"; C2PA takes its values from this list.
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"

SOFTWARE_NAME = "Lipsmith"


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class SyncRecord:
    """One run of lip-sync: which model changed how many frames of which video, to which speech.

    `source_video` and `source_audio` are file names without folders: they stand in a file that will be
    passed on. `model_sha256` is the hash of the generator's weights in hex. `created` has a time zone.
    """

    model: str
    model_sha256: str
    source_video: str
    source_audio: str
    num_frames_changed: int
    num_frames_unchanged: int
    lipsmith_version: str = __version__
    created: datetime = field(default_factory=_now)

    def __post_init__(self) -> None:
        if self.created.tzinfo is None:
            raise ValueError("SyncRecord.created needs a time zone: datetime.now(UTC)")
        for name in ("model", "source_video", "source_audio"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields; `created` in UTC as ISO 8601 ending in Z."""
        return {**asdict(self), "created": iso_time(self.created)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "SyncRecord":
        """The inverse of `to_dict`; fields that a later version added are left out. Raises ValueError."""
        if not isinstance(fields, Mapping):  # anybody may write anything into a file
            raise ValueError("not a sync record: it has no fields")
        known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        for name, value in known.items():
            if not isinstance(value, int if name.startswith("num_") else str):
                raise ValueError(f"not a sync record: {name} is {value!r}")
        try:
            return cls(**{**known, "created": datetime.fromisoformat(known["created"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a sync record: {error}") from error


def iso_time(time: datetime) -> str:
    """A moment in UTC as ISO 8601 ending in Z."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def printable(name: str) -> str:
    """`name` as one line of valid Unicode: a file name may hold bytes that are no text, or codes for a terminal."""
    return "".join(letter if _is_shown(letter) else "�" for letter in name)


def _is_shown(letter: str) -> bool:
    # Spaces of any width, as macOS has them in the names of recordings; joiners, as Persian, Hindi and emoji need them.
    return letter.isprintable() or unicodedata.category(letter) == "Zs" or letter in "\u200c\u200d"
