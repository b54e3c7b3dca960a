"""The sound of a file as one gapless stream of samples at a wanted rate and layout, in blocks."""

import logging
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from lipsmith.errors import InputError
from lipsmith.media.container import (
    MOST_BACK_SECONDS,
    MOST_ON_SECONDS,
    Clip,
    Frames,
    audio_stream,
    decode,
    is_still_image,
    open_input,
    require_file,
    require_whole,
    stamp,
)

logger = logging.getLogger(__name__)

# Time stamps in whole milliseconds jitter by less; a lost packet of any usual codec is at least half of it.
GAP_SECONDS = Fraction(1, 25)
_SILENCE_BLOCK = 1 << 16
# Two channels whose mean has less than this share of their energy cancel each other: one was wired the wrong way
# round. Those of independent noises have half of it left, and what is forgotten by half in this time decides.
_LEAST_LEFT = 1 / 100
_FORGOTTEN_SECONDS = 0.5
# PyAV looks for a frame's planes until a null pointer, which from eight planes on is not there: it crashes.
_MOST_PLANES = 7


def sound_blocks(
    path: Clip, *, rate: int, layout: str, sample_format: str, origin: Fraction | None = None
) -> Generator[NDArray, None, None]:
    """The sound of any media file, resampled, in blocks of shape (channels, samples), in constant memory.

    Args:
        path: A sound file, or a video with sound.
        rate: Samples a second to give.
        layout: FFmpeg's name of the channel layout to give ("mono", "stereo", …).
        sample_format: A packed one of FFmpeg's ("s16", "flt").
        origin: Time, in seconds on the container's clock, of sample 0: silence is put before a sound that
            starts later, and what comes earlier is dropped. None: the start of the file's picture, as the container
            tells it, or, in a file without one, the sound's own.

    Holes in the time stamps are filled with silence, overlaps dropped: sample n is heard at `origin + n / rate`.
    Mono of two channels that cancel each other is the first of them, as their mix would be silence.

    Raises:
        InputError: not media, no sound stream, sound without samples, cut short.
    """
    path = require_file(path)
    if is_still_image(path):
        raise InputError(
            f"{path} is a still image and has no sound; give a sound file, or a video with sound."
        )
    with open_input(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise InputError(f"{path} has no sound; give a sound file, or a video with sound.")
        require_whole(container, stream, path)
        origin = _picture_start(container) if origin is None else origin
        try:
            num_written = 0
            for block in _placed(container, stream, path, rate, layout, sample_format, origin):
                num_written += block.shape[1]
                if block.shape[1]:
                    yield block
        except av.error.FFmpegError as error:
            raise InputError(
                f"The sound of {path} ({stream.codec_context.name}) cannot be resampled: {error}."
            ) from error
        if num_written == 0:
            raise InputError(f"The sound stream of {path} has no samples; give a file with sound in it.")


def _picture_start(container: InputContainer) -> Fraction | None:
    for stream in container.streams.video:
        is_cover = stream.disposition & av.stream.Disposition.attached_pic
        if not is_cover and stream.start_time is not None and stream.time_base:
            return stream.start_time * Fraction(stream.time_base)
    return None


def _placed(
    container: InputContainer,
    stream: av.AudioStream,
    path: Path,
    rate: int,
    layout: str,
    sample_format: str,
    origin: Fraction | None,
) -> Generator[NDArray, None, None]:
    resampler: av.AudioResampler | None = None
    shape = None
    expected = Fraction(0)  # container clock at the end of what the resampler was given
    restarts = Fraction(0)  # sum of the clock's jumps
    written = 0  # samples given, counted from the origin
    skip = 0  # samples of the current run that lie before what is already written

    def resampled(frame: av.AudioFrame | None) -> Iterator[NDArray]:
        nonlocal written, skip
        assert resampler is not None
        for piece in resampler.resample(frame):
            samples = piece.to_ndarray().reshape(piece.samples, -1).T
            dropped = min(skip, samples.shape[1])
            skip -= dropped
            written += samples.shape[1] - dropped
            yield samples[:, dropped:]

    frames = _without_padding(decode(container, stream, path), exact="mp4" in container.format.name)
    if layout == "mono":
        frames = _without_cancelling(frames, path)
    for frame in frames:
        time = stamp(frame)
        time = expected if time is None else time + restarts
        due = expected if resampler is not None else origin
        jumps_on = due is not None and time - due > MOST_ON_SECONDS
        jumps_back = resampler is not None and expected - time > MOST_BACK_SECONDS
        if due is not None and (jumps_on or jumps_back):
            logger.warning("%s: the sound's clock jumps at %.2f s", path, float(due))
            restarts += due - time
            time = due
        this_shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or this_shape != shape or abs(time - expected) > GAP_SECONDS:
            if resampler is not None:
                yield from resampled(None)
                if abs(time - expected) <= GAP_SECONDS:
                    time = expected
                else:
                    logger.info(
                        "%s: a hole of %.3f s in the sound at %.2f s", path, time - expected, expected
                    )
            origin = time if origin is None else origin
            shape, expected = this_shape, time
            resampler = av.AudioResampler(format=sample_format, layout=layout, rate=rate)
            target = round((time - origin) * rate)
            skip = max(written - target, 0)
            while written < target:
                num_silent = min(target - written, _SILENCE_BLOCK)
                written += num_silent
                yield _silence(num_silent, layout, sample_format)
        expected += Fraction(frame.samples, frame.sample_rate)
        frame.pts = None  # the resampler would fill the holes that this loop fills
        yield from resampled(frame)
    if resampler is not None:
        yield from resampled(None)


def _without_padding(frames: Iterator[Frames], exact: bool) -> Iterator[av.AudioFrame]:
    """The frames with samples; the last one shortened to its declared duration where that is `exact`.

    Codecs of fixed frame size fill up their last frame; an mp4 says how much of it is sound.
    """
    last: av.AudioFrame | None = None
    for frame in frames:
        if isinstance(frame, av.AudioFrame) and frame.samples and frame.sample_rate:
            if last is not None:
                yield last
            last = frame
    if last is None:
        return
    num_planes = last.layout.nb_channels if last.format.is_planar else 1
    if exact and last.duration and last.time_base and num_planes <= _MOST_PLANES:
        samples = round(last.duration * last.time_base * last.sample_rate)
        if 0 < samples < last.samples:
            data: NDArray = last.to_ndarray()  # (channels, n), or (1, n · channels) when interleaved
            values = samples * (data.shape[1] // last.samples)
            kept: NDArray[Any] = np.ascontiguousarray(data[:, :values])
            short = av.AudioFrame.from_ndarray(kept, format=last.format.name, layout=last.layout.name)
            short.sample_rate, short.pts, short.time_base = last.sample_rate, last.pts, last.time_base
            last = short
    yield last


def _without_cancelling(frames: Iterator[av.AudioFrame], path: Path) -> Iterator[av.AudioFrame]:
    """The frames; of two channels that cancel each other the first, twice."""
    mixed = energy = 0.0  # of the mean of two channels, and of them, over the time that is remembered
    is_told = False
    for frame in frames:
        if frame.layout.nb_channels != 2:
            yield frame
            continue
        data: NDArray = frame.to_ndarray()
        channels = data if frame.format.is_planar else data.reshape(-1, 2).T
        first, second = channels.astype(np.float32) - (128 if data.dtype == np.uint8 else 0)
        forgotten = 0.5 ** (frame.samples / (frame.sample_rate * _FORGOTTEN_SECONDS))
        both = first + second
        mixed = mixed * forgotten + float(both @ both) / 4
        energy = energy * forgotten + float(first @ first + second @ second) / 2
        if mixed >= energy * _LEAST_LEFT:
            yield frame
            continue
        if not is_told:
            logger.warning("%s: the two channels cancel each other, the first alone is heard", path)
            is_told = True
        twice: NDArray = channels[[0, 0]] if frame.format.is_planar else np.repeat(channels[0], 2)[None]
        alone = av.AudioFrame.from_ndarray(twice, format=frame.format.name, layout=frame.layout.name)
        alone.sample_rate, alone.pts, alone.time_base = frame.sample_rate, frame.pts, frame.time_base
        yield alone


def _silence(num_samples: int, layout: str, sample_format: str) -> NDArray:
    channels = av.AudioLayout(layout).nb_channels
    return np.zeros((channels, num_samples), np.int16 if sample_format == "s16" else np.float32)
