"""Files → frames and samples, one at a time, with exact times."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lipsmith.errors import InputError
from lipsmith.media.container import (
    MOST_BACK_SECONDS,
    MOST_ON_SECONDS,
    Clip,
    decode,
    is_still_image,
    open_input,
    planar_picture,
    require_file,
    require_video_stream,
    require_whole,
    stamp,
    to_bgr,
    whole_frames,
)
from lipsmith.media.images import read_image
from lipsmith.media.probe import apply_turn, display_turn, stream_rate
from lipsmith.media.sound import sound_blocks
from lipsmith.picture import ArrayPicture, Picture
from lipsmith.timebase import SAMPLE_RATE_HZ

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a video: its number, its time in seconds since the first frame, and its pixels.

    `image` is uint8 BGR, height × width × 3, upright, contiguous, and the caller's own to change.
    """

    index: int
    time: Fraction
    image: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TimedPicture:
    """`Frame` with its pixels as they were decoded, where that is possible; not to be written to."""

    index: int
    time: Fraction
    picture: Picture


def read_frames(path: Clip) -> Iterator[Frame]:
    """`read_pictures`, each converted to BGR as a whole."""
    for shown in _read(path, planes=False):
        assert isinstance(shown.picture, ArrayPicture)
        yield Frame(shown.index, shown.time, shown.picture.image)


def read_pictures(path: Clip) -> Iterator[TimedPicture]:
    """The frames of a video, or the one frame of a still image, in constant memory.

    Times are exact, start at 0 and strictly increase: frames without a time stamp, or with one that is not
    after the frame before, are put in between. Rotation flags are applied; a video whose picture size changes
    on the way is scaled to the size of its first frame. Colours are converted with the matrix and range that
    the file names, BT.709 for untagged HD, BT.601 for untagged smaller pictures. The two half pictures of an interlaced
    frame, which were taken one after the other, become one whole picture. Frames of 8 bits, 4:2:0, limited range
    and even sides that need none of this are left as they were decoded.

    Raises:
        InputError: not media, no video stream, no frames, or cut short (with the time where the data ends).
    """
    return _read(path, planes=True)


def _read(path: Clip, *, planes: bool) -> Iterator[TimedPicture]:
    path = require_file(path)
    if is_still_image(path):
        yield TimedPicture(0, Fraction(0), ArrayPicture(read_image(path)))
        return
    with open_input(path) as container:
        stream = require_video_stream(container, path)
        require_whole(container, stream, path)
        stream.thread_type = "AUTO"
        timeline = _Timeline(stream_rate(stream, path))
        size: tuple[int, int] | None = None
        turn = (False, False, False)
        index = -1
        for index, decoded in enumerate(whole_frames(decode(container, stream, path))):
            if size is None:
                size = decoded.width, decoded.height
                # Once only: PyAV's side data and its frame hold each other, and frames would pile up until Python
                # collects garbage.
                turn = display_turn(decoded)
            time = timeline.place(stamp(decoded))
            picture: Picture | None = None
            if planes and not any(turn) and (decoded.width, decoded.height) == size:
                picture = planar_picture(decoded, path=path)
            if picture is None:
                picture = ArrayPicture(apply_turn(to_bgr(decoded, size, path=path), turn))
            yield TimedPicture(index, time, picture)
        if index < 0:
            raise InputError(f"The video stream of {path} has no frames; give a video with a picture.")


def first_frame_time(path: Clip) -> Fraction:
    """When the first frame of a video is shown, in seconds on the container's clock: `origin` of its sound.

    Raises:
        InputError: as `read_frames`.
    """
    path = require_file(path)
    if is_still_image(path):
        return Fraction(0)
    with open_input(path) as container:
        stream = require_video_stream(container, path)
        for frame in decode(container, stream, path):
            return stamp(frame) or Fraction(0)
    raise InputError(f"The video stream of {path} has no frames; give a video with a picture.")


def read_samples(path: Clip, *, origin: Fraction | None = None) -> NDArray[np.float32]:
    """The whole sound of a file, 16 kHz mono float32 in [-1, 1], shape (n,): see `read_sample_blocks`."""
    return np.concatenate(list(read_sample_blocks(path, origin=origin)))


def read_sample_blocks(path: Clip, *, origin: Fraction | None = None) -> Iterator[NDArray[np.float32]]:
    """The sound of a sound file or of a video, 16 kHz mono float32 in [-1, 1], in blocks, in constant memory.

    Args:
        path: Any container, codec, channel layout and sample format.
        origin: Time of sample 0 in seconds on the container's clock (`first_frame_time` lines it up with the
            frames of the same file): padded with silence or trimmed. None: the start of the picture, as the container
            tells it, or, in a file without one, the sound's own first sample.

    Raises:
        InputError: not media, no sound, no samples, or cut short.
    """
    # 16 bits: the mix to mono is then normalised and never clips, and 16 kHz mono wav comes back exactly.
    for block in sound_blocks(path, rate=SAMPLE_RATE_HZ, layout="mono", sample_format="s16", origin=origin):
        yield block[0].astype(np.float32) / np.float32(32768)


class _Timeline:
    """Container clock → strictly increasing seconds from the first frame."""

    def __init__(self, rate: Fraction) -> None:
        self._step = 1 / rate
        self._origin: Fraction | None = None
        self._last: Fraction | None = None

    def place(self, stamp: Fraction | None) -> Fraction:
        if self._last is None or self._origin is None:
            self._origin, self._last = stamp or Fraction(0), Fraction(0)
            return self._last
        time = self._last + self._step if stamp is None else stamp - self._origin
        if not -MOST_BACK_SECONDS <= time - self._last <= MOST_ON_SECONDS:
            logger.warning("the picture's clock jumps at %.2f s", float(self._last))
            self._origin -= self._last + self._step - time
            time = self._last + self._step
        elif time <= self._last:
            # Half a frame on, so that a doubled time stamp does not push every later frame back.
            time = self._last + self._step / 2
        self._last = time
        return time
