"""Where a face was found, kept beside the video it was found in, so that the next speech for it needs no search.

The file holds one person's box for each frame and what it was found with. It is believed only if the video's bytes and
all that decides about boxes are the same; whatever else is there is named, and made anew.
"""

import hashlib
import io
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from lipsmith.timeline import FrameTimes

SUFFIX = ".lipsmith-track"
# The method by which boxes are found: to be raised when `lipsmith.faces` finds others in the same video.
METHOD = 3
_DIGEST_BYTES = hashlib.sha256().digest_size  # of all that comes after it


@dataclass(frozen=True, slots=True)
class KeptTrack:
    """One person's face in a video, from its first frame on.

    Attributes:
        times: Of the frames.
        boxes: (n, 4) float64: left, top, right, bottom in pixels; NaN where there is no face.
        shot_starts: First frame of each shot.
        frame_bytes: What one decoded frame takes.
        has_others: Whether other faces are in the video.
        until: Seconds of the video that were looked at; None: all of it.
    """

    times: FrameTimes
    boxes: NDArray[np.float64]
    shot_starts: list[int]
    frame_bytes: int
    has_others: bool
    until: Fraction | None


class UnusableTrackError(Exception):
    """Why a kept track cannot be used; its words end a sentence that begins with the file."""


def track_path(video: Path) -> Path:
    """Where the track of `video` is kept."""
    return video.with_name(video.name + SUFFIX)


def track_key(video: Path, settings: Mapping[str, Any]) -> str:
    """What a track is known by: the video's bytes, the method, and what it was asked for (in types of JSON)."""
    with video.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    asked = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(f"{METHOD}\n{content}\n{asked}".encode()).hexdigest()


def read_track(path: Path, key: str) -> KeptTrack | None:
    """The track at `path`, or None where there is no file.

    Raises:
        UnusableTrackError: it is damaged, or of another video or other settings.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnusableTrackError(f"cannot be read ({error.strerror or error})") from error
    digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        raise UnusableTrackError("is damaged")
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            if header["key"] != key:
                raise UnusableTrackError("is of another version of the video, or of other settings")
            numerators, denominators, boxes, shot_starts = (
                arrays[name] for name in ("numerators", "denominators", "boxes", "shot_starts")
            )
        times = FrameTimes.of_arrays(numerators, denominators)
        if (
            boxes.shape != (len(times), 4)
            or boxes.dtype != np.float64
            or shot_starts.ndim != 1
            or not len(times)
        ):
            raise UnusableTrackError("is damaged")
        return KeptTrack(
            times,
            boxes,
            [int(start) for start in shot_starts],
            int(header["frame_bytes"]),
            bool(header["has_others"]),
            None if header["until"] is None else Fraction(header["until"]),
        )
    except (ValueError, KeyError, TypeError, BadZipFile) as error:  # whole, and yet no track
        raise UnusableTrackError("is damaged") from error


def write_track(path: Path, key: str, track: KeptTrack) -> None:
    """Keep `track` at `path`, all of it or nothing.

    Raises:
        OSError: it cannot be written there.
    """
    header = {
        "key": key,
        "frame_bytes": track.frame_bytes,
        "has_others": track.has_others,
        "until": None if track.until is None else str(track.until),
    }
    numerators, denominators = track.times.to_arrays()
    hidden = path.with_name(f".{path.name[:40]}.partial-{secrets.token_hex(4)}")
    packed = io.BytesIO()
    np.savez(
        packed,
        header=np.frombuffer(json.dumps(header).encode(), np.uint8),
        numerators=numerators,
        denominators=denominators,
        boxes=track.boxes,
        shot_starts=np.array(track.shot_starts, np.int64),
    )
    try:
        hidden.write_bytes(hashlib.sha256(packed.getvalue()).digest() + packed.getvalue())
        hidden.replace(path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
