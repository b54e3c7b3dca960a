"""What is in a media file: `probe`."""

from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from lipsmith.errors import InputError
from lipsmith.media.container import (
    Clip,
    audio_stream,
    decode,
    is_still_image,
    num_frames,
    open_input,
    packets_of,
    require_file,
    require_whole,
    video_stream,
)
from lipsmith.media.images import read_image

DEFAULT_RATE_HZ = Fraction(25)  # for a still image, and where a container tells none
# None, 90, 180 and 270 degrees clockwise, as `display_turn` has it.
_QUARTER_TURNS = ((False, False, False), (True, True, False), (False, True, True), (True, False, True))
_UNSPECIFIED = 2  # of the three colour tables of H.273
_MOST_TOLD_HZ, _MOST_HZ = 121, 1000  # believed as it is told, and at all
_MEASURED_PACKETS = 300
_RATE_TOLERANCE = Fraction(1, 200)  # a last frame shown a little shorter moves the average by less


@dataclass(frozen=True, slots=True)
class Colour:
    """How pixel values are meant: code points of ITU-T H.273 (2 = unspecified), and whether black is 0."""

    matrix: int = _UNSPECIFIED
    primaries: int = _UNSPECIFIED
    transfer: int = _UNSPECIFIED
    full_range: bool = False


@dataclass(frozen=True)
class VideoStream:
    """The picture of a file, as `read_frames` gives it.

    `width` and `height` are pixels after rotation; `rotation` is the turn (degrees clockwise: 0, 90, 180,
    270) that the file asks of a player and that `read_frames` applies. `rate` is frames a second: the exact
    nominal rate where the file keeps to it, else the average. `num_frames` and `duration` (seconds) are what
    the container declares, None where it does not; `variable_rate` is None where only a full pass could tell.
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    num_frames: int | None
    duration: Fraction | None
    rotation: int
    codec: str
    pixel_format: str
    variable_rate: bool | None
    pixel_aspect: Fraction = Fraction(1)
    colour: Colour = field(default_factory=Colour)


@dataclass(frozen=True)
class AudioStream:
    """The sound of a file: samples a second, channels, codec and declared duration in seconds, if any."""

    sample_rate: int
    channels: int
    codec: str
    duration: Fraction | None


@dataclass(frozen=True)
class MediaInfo:
    """What `probe` found: container (FFmpeg's name), declared duration in seconds, picture and sound."""

    path: Path
    container: str
    duration: Fraction | None
    video: VideoStream | None
    audio: AudioStream | None
    is_image: bool


def probe(path: Clip) -> MediaInfo:
    """Look into a media file: its header and its first frame.

    Raises:
        InputError: no such file, a folder, an empty file, not media, cut short, or without picture and sound.
    """
    path = require_file(path)
    if is_still_image(path):
        return _probe_image(path)
    with open_input(path) as container:
        picture, sound = video_stream(container), audio_stream(container)
        if picture is None and sound is None:
            raise InputError(f"{path} has neither picture nor sound; give a video, sound or image file.")
        for stream in (picture, sound):
            if stream is not None:
                require_whole(container, stream, path)
        return MediaInfo(
            path=path,
            container=container.format.name,
            duration=Fraction(container.duration, av.time_base) if container.duration else None,
            audio=None if sound is None else _describe_sound(sound),
            video=None if picture is None else _describe_picture(container, picture, path),
            is_image=False,
        )


def display_turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """(transpose, flip left-right, flip top-bottom), in this order, that show a frame as the file asks.

    The display matrix of ISO/IEC 14496-12 maps (x, y) to (a·x + c·y, b·x + d·y), 16.16 fixed point; phones
    store quarter turns and mirrored front cameras in it. Other angles are taken as the nearest of these eight.
    """
    try:
        side_data = cast("memoryview | None", frame.side_data.get("DISPLAYMATRIX"))
    except ValueError:  # something else beside the frame is of a kind that PyAV does not know, such as EXIF
        return _QUARTER_TURNS[round(-frame.rotation / 90) % 4]
    if side_data is None:
        return False, False, False
    a, b, _, c, d = (int(value) for value in np.frombuffer(side_data, np.int32)[:5])
    transpose = abs(b) + abs(c) > abs(a) + abs(d)
    return (True, c < 0, b < 0) if transpose else (False, a < 0, d < 0)


def apply_turn(image: NDArray[np.uint8], turn: tuple[bool, bool, bool]) -> NDArray[np.uint8]:
    """An image (H×W×3) turned as `display_turn` says; contiguous, the same array if that is no turn."""
    transpose, flip_x, flip_y = turn
    turned = image.transpose(1, 0, 2) if transpose else image
    return np.ascontiguousarray(turned[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def stream_rate(stream: av.VideoStream, path: Path) -> Fraction:
    """Frames a second: the nominal rate where the average agrees with it, else the average.

    Where a file tells none, or gives the ticks of its clock for one, as what browsers record does, its first seconds
    are measured. A single frame is shown like a still image.
    """
    average, nominal = stream.average_rate, stream.guessed_rate
    rate = average
    if average and nominal and abs(nominal - average) <= average * _RATE_TOLERANCE:
        rate = nominal
    # An index that lists one frame is that of a still, or only the beginning of a file in fragments.
    if rate and 0 < rate <= _MOST_TOLD_HZ and stream.frames != 1:
        return Fraction(rate)
    measured = _measured_rate(path, stream.index)
    return Fraction(rate) if rate and abs(rate - measured) <= measured * _RATE_TOLERANCE else measured


def _measured_rate(path: Path, stream_index: int) -> Fraction:
    """Frames a second by the stamps of the first packets, those left out that come after a pause."""
    stamps: list[int] = []
    with open_input(path) as container:
        stream = container.streams[stream_index]
        tick = Fraction(stream.time_base or 1)
        with suppress(av.error.FFmpegError):  # whoever reads the pictures will say so
            for packet in islice(packets_of(container, [stream]), _MEASURED_PACKETS):
                if packet.pts is not None:
                    stamps.append(packet.pts)
    steps = np.diff(np.unique(stamps))
    if not len(steps):
        return DEFAULT_RATE_HZ
    median = np.median(steps)
    steps = steps[(steps > median / 2) & (steps < median * 2)]
    rate = len(steps) / (int(steps.sum()) * tick)
    return rate if rate <= _MOST_HZ else DEFAULT_RATE_HZ


def frame_colour(frame: av.VideoFrame) -> Colour:
    """The colour tags of a decoded frame."""
    return Colour(
        matrix=int(frame.colorspace),
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        full_range=int(frame.color_range) == 2 or frame.format.name.startswith("yuvj"),
    )


def _describe_sound(stream: av.AudioStream) -> AudioStream:
    context = stream.codec_context
    duration = stream.duration * Fraction(stream.time_base) if stream.duration and stream.time_base else None
    return AudioStream(int(context.sample_rate or 0), int(context.channels or 0), context.name, duration)


def _describe_picture(container: InputContainer, stream: av.VideoStream, path: Path) -> VideoStream:
    variable = _variable_rate(stream)
    frame = next(decode(container, stream, path), None)
    if not isinstance(frame, av.VideoFrame):
        raise InputError(f"The video stream of {path} has no frames; give a video with a picture.")
    transpose, flip_x, flip_y = display_turn(frame)
    rotation = (90 if flip_x else 270) if transpose else (180 if flip_x and flip_y else 0)
    aspect = Fraction(stream.sample_aspect_ratio or 1) or Fraction(1)
    width, height = (frame.height, frame.width) if transpose else (frame.width, frame.height)
    time_base = Fraction(stream.time_base or Fraction(1, av.time_base))
    return VideoStream(
        width=width,
        height=height,
        rate=stream_rate(stream, path),
        time_base=time_base,
        num_frames=num_frames(stream),
        duration=stream.duration * time_base if stream.duration else None,
        rotation=rotation,
        codec=stream.codec_context.name,
        pixel_format=frame.format.name,
        variable_rate=variable,
        pixel_aspect=1 / aspect if transpose else aspect,
        colour=frame_colour(frame),
    )


def _variable_rate(stream: av.VideoStream) -> bool | None:
    entries = stream.index_entries
    if (
        stream.frames and len(entries) == stream.frames and len(entries) > 2
    ):  # mp4: the index lists every frame
        stamps = np.sort(np.fromiter((entry.timestamp for entry in entries), np.int64, len(entries)))
        steps = np.diff(stamps)[:-1]  # the last frame but one may be shown until a shortened end
        return bool(len(steps)) and bool(steps.max() - steps.min() > max(1, round(steps.mean() / 50)))
    average, nominal = stream.average_rate, stream.guessed_rate
    if average and nominal and abs(nominal - average) > average * _RATE_TOLERANCE:
        return True
    return None


def _probe_image(path: Path) -> MediaInfo:
    height, width = read_image(path).shape[:2]
    video = VideoStream(
        width=width,
        height=height,
        rate=DEFAULT_RATE_HZ,
        time_base=1 / DEFAULT_RATE_HZ,
        num_frames=1,
        duration=None,
        rotation=0,
        codec="image",
        pixel_format="bgr24",
        variable_rate=False,
        colour=Colour(full_range=True),
    )
    return MediaInfo(path, "image", None, video, None, is_image=True)
