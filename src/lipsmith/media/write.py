"""Frames and a sound file → a video that plays everywhere: `VideoWriter`."""

import contextlib
import errno
import os
import secrets
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from lipsmith.errors import OutputError, UsageError
from lipsmith.media.container import (
    FROM_BGR,
    Clip,
    audio_stream,
    is_high_definition,
    open_input,
    require_file,
)
from lipsmith.media.probe import Colour
from lipsmith.media.sound import sound_blocks
from lipsmith.picture import LUMA_WEIGHTS, ArrayPicture, Picture, PlanarPicture

# use_metadata_tags: mp4 else drops every tag that it has no box for. faststart: the index in front, so that a
# browser plays while it loads.
_CONTAINERS: dict[str, dict[str, str]] = {
    ".mp4": {"movflags": "+faststart+use_metadata_tags"},
    ".mov": {"movflags": "+faststart+use_metadata_tags"},
    ".mkv": {},
}
# What encoders call a constant quality, by the end of their names; of the others it is a CRF.
_QUALITY_OPTIONS = {"_nvenc": "cq", "_qsv": "global_quality"}
# x264's names of presets, which --preset takes, in the words of encoders that have others; quick ones come first.
_X264_PRESETS = [
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
]
_PRESETS: dict[str, dict[str, str]] = {
    "_nvenc": dict(zip(_X264_PRESETS, ["p1", "p1", "p2", "p3", "p3", "p4", "p5", "p6", "p7"], strict=True)),
    "_qsv": {"ultrafast": "veryfast", "superfast": "veryfast"},  # the others have the same names
    "libsvtav1": dict(zip(_X264_PRESETS, ["12", "11", "10", "9", "8", "7", "5", "4", "3"], strict=True)),
    "libvpx": dict(zip(_X264_PRESETS, ["5", "5", "5", "4", "4", "3", "2", "1", "0"], strict=True)),
}
_PRESETS["libvpx-vp9"] = _PRESETS["libvpx"]
_PRESET_OPTIONS = {"libvpx": "cpu-used", "libvpx-vp9": "cpu-used"}
_QUALITY = 18
_PRESET = "veryfast"
# Frames that are decoded before they are shown make an mp4 miscount the duration of a video of variable rate.
_B_FRAME_ENCODERS = {"libx264", "libx265", "h264_nvenc", "hevc_nvenc"}
_LEAST_TICKS_HZ = 90_000  # variable frame times are kept to 6 µs
_MOST_TICKS_HZ = 10_000_000
_SOUND_AHEAD_SECONDS = Fraction(1, 2)
_AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_BT709 = Colour(matrix=1, primaries=1, transfer=1)
_BT601 = Colour(matrix=6, primaries=6, transfer=6)
_MATRICES = {1, 4, 5, 6, 7, 9}  # those that can be undone exactly: not RGB, not constant luminance
_LIMITED_RANGE = 1


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """How the picture is compressed.

    `codec` is an FFmpeg encoder ("libx264", "libx265", "h264_nvenc", …), `quality` its constant quality (CRF
    of x264: 0 lossless, 18 hardly distinguishable, 51 worst), `preset` its speed by x264's names or by the
    encoder's own, `extra` further options of it. None: 18 and "veryfast" where the encoder has such a thing, and
    what it does by itself where it has not.
    """

    codec: str = "libx264"
    quality: int | None = None
    preset: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


class VideoWriter:
    """Writes frames, and the sound of a file beside them, into an mp4, mov or mkv; all of it or nothing.

    A context manager. The file grows under a hidden name in the output's own folder and takes its own name
    only when the `with` block ends well; any exception, ^C included, removes it and leaves an older output as
    it was. Memory does not grow with length: picture and sound are interleaved as frames come.

    Frame times are kept exactly at a constant `rate`, and to 6 µs otherwise (mkv: to 1 ms). 4:2:0 video needs
    even sides: to an odd one a last column or row is added that repeats the picture's edge.

    Args:
        path: The output; its suffix chooses the container.
        width: Of the frames, in pixels.
        height: Of the frames, in pixels.
        rate: Frames a second, nominal; the last frame is shown for 1 / rate.
        audio: A sound file, put in from its first sample, or a video whose sound is put in as it goes with its
            picture; at its own rate and channels. None: a silent video.
        duration: Seconds of sound: longer sound is cut there, shorter filled up with silence. None: all of it.
        options: Encoder, quality, speed.
        metadata: Tags of the container, keys of any name.
        finalize: Called with the finished, still hidden file, for instance to sign it. What it returns, if anything,
            is called when the file has its name.
        colour: Colour tags of the source (`VideoStream.colour`), so that colours stay as they are in any player;
            None: BT.709 for HD, BT.601 below. Output is 8 bits, limited range.
        pixel_aspect: Width of a pixel in heights.
        variable_rate: False promises frame times at a constant `rate`; the file is then a little smaller.

    Raises:
        OutputError: folder missing or not writable, full disk, unknown suffix or encoder, no frames.
        UsageError: `options` ask for a quality or a preset, and the encoder has none.
        InputError: `audio` has no usable sound.
    """

    def __init__(
        self,
        path: Clip,
        *,
        width: int,
        height: int,
        rate: Fraction,
        audio: Clip | None = None,
        duration: Fraction | None = None,
        options: EncoderOptions | None = None,
        metadata: Mapping[str, str] | None = None,
        finalize: Callable[[Path], Callable[[], None] | None] | None = None,
        colour: Colour | None = None,
        pixel_aspect: Fraction = Fraction(1),
        variable_rate: bool | None = None,
    ) -> None:
        self.path = require_output(path)
        self._width, self._height = width, height
        self._padding = (height % 2, width % 2)
        self._step = 1 / rate
        self._time_base = _time_base(rate)
        self._last_ticks: int | None = None
        self._finalize = finalize
        self._colour = output_colour(colour, width, height)
        self._sound: _Soundtrack | None = None
        self._closed = False
        self._reformatter = VideoReformatter()  # one for all frames: each builds its tables anew
        # The name stays short enough for any file system, and keeps the suffix that chooses the container.
        hidden = f".{self.path.stem[:40]}.partial-{secrets.token_hex(4)}{self.path.suffix}"
        self._partial = self.path.with_name(hidden)
        self._container: OutputContainer | None = None
        # A signal may come when this is made and no `with` block is entered yet: then nobody is there to close it.
        self._forget = weakref.finalize(self, self._partial.unlink, missing_ok=True)
        try:
            settings = dict(_CONTAINERS[self.path.suffix.lower()])
            if "movflags" in settings:  # of the clock in which durations are kept; a millisecond by default
                settings["movie_timescale"] = str(self._time_base.denominator)
            with self._output_errors():
                self._container = av.open(f"file:{self._partial}", "w", container_options=settings)
                self._container.metadata.update(metadata or {})
                self._stream = self._add_picture(
                    options or EncoderOptions(), rate, variable_rate, pixel_aspect.limit_denominator(10_000)
                )
            if audio is not None:
                self._sound = _Soundtrack(self._container, audio, duration)
            with self._output_errors():
                self._container.start_encoding()
        except BaseException:
            self.abort()
            raise

    def write(self, picture: Picture | NDArray[np.uint8], time: Fraction) -> None:
        """Append a frame, shown from `time` (seconds) on; an array is uint8 BGR, height × width × 3.

        Planes that are what the output holds anyway are encoded as they are.
        """
        if isinstance(picture, np.ndarray):
            self._check(picture)
            picture = ArrayPicture(picture)
        if self._closed or self._container is None:
            raise ValueError(f"{self.path} is closed already")
        ticks = round(time / self._time_base)
        if self._last_ticks is not None and ticks <= self._last_ticks:
            raise ValueError(f"frame times of {self.path} must increase: {float(time):.6f} s is too early")
        self._last_ticks = ticks
        with self._output_errors():
            if self._sound is not None:
                self._sound.write_until(time + _SOUND_AHEAD_SECONDS)
            frame = self._planes(picture) if isinstance(picture, PlanarPicture) else None
            if frame is None:
                frame = self._converted(picture.bgr())
            frame.pts, frame.time_base = ticks, self._time_base
            frame.duration = round(self._step / self._time_base)
            frame.colorspace = self._colour.matrix
            self._container.mux(self._stream.encode(frame))

    def _planes(self, picture: PlanarPicture) -> av.VideoFrame | None:
        """A frame of the planes of `picture`, if the output means the same by them."""
        if not same_matrix(picture.matrix, self._colour.matrix) or self._pixel_format != "yuv420p":
            return None
        if isinstance(picture.source, av.VideoFrame):
            frame = picture.source
        elif picture.height % 4:  # which PyAV takes for the next smaller multiple, and the colours move
            frame = av.VideoFrame(picture.width, picture.height, "yuv420p")
            for plane, values in zip(frame.planes, (picture.luma, picture.blue, picture.red), strict=True):
                rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
                rows[: plane.height, : plane.width] = values
        else:
            frame = av.VideoFrame.from_numpy_buffer(picture.source, format="yuv420p")
        frame.pict_type = av.video.frame.PictureType.NONE  # the source's choice of key frames is not ours
        frame.color_range = _LIMITED_RANGE
        return frame

    def _converted(self, image: NDArray[np.uint8]) -> av.VideoFrame:
        if any(self._padding):
            rows, columns = self._padding
            image = cv2.copyMakeBorder(image, 0, rows, 0, columns, cv2.BORDER_REPLICATE).astype(np.uint8)
        return self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24"),
            format=self._pixel_format,
            dst_colorspace=self._colour.matrix,
            dst_color_range=_LIMITED_RANGE,
            interpolation=FROM_BGR,
        )

    def _check(self, image: NDArray[np.uint8]) -> None:
        if image.shape != (self._height, self._width, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"a frame of {self.path} must be uint8 {self._height}×{self._width}×3, "
                f"not {image.dtype} {'×'.join(map(str, image.shape))}"
            )

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._closed:
            return
        try:
            if self._last_ticks is None:
                raise OutputError(f"No frames were written to {self.path}; there is nothing to keep.")
            with self._output_errors():
                assert self._container is not None
                if self._sound is not None:
                    self._sound.write_until(None)
                self._container.mux(self._stream.encode(None))
                container, self._container = self._container, None
                container.close()
            named = None if self._finalize is None else self._finalize(self._partial)
            with self._output_errors():
                self._partial.replace(self.path)
            self._closed = True
            self._forget.detach()
            if named is not None:
                named()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Throw away what was written; an older file of the same name stays."""
        self._closed = True
        container, self._container = self._container, None
        try:
            if self._sound is not None:
                self._sound.close()
            if container is not None:
                with contextlib.suppress(av.error.FFmpegError):  # the file is going to be removed anyway
                    container.close()
        finally:
            self._forget()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif not self._closed:
            self.abort()

    def _add_picture(
        self, options: EncoderOptions, rate: Fraction, variable_rate: bool | None, pixel_aspect: Fraction
    ) -> av.VideoStream:
        assert self._container is not None
        unavailable = OutputError(
            f"The encoder {options.codec} is not available for {self.path.suffix} here; use libx264."
        )
        wanted_quality = _QUALITY if options.quality is None else options.quality
        wanted_preset = options.preset or _PRESET
        try:
            codec = av.Codec(options.codec, "w")
            if codec.type != "video":
                raise unavailable
            quality = _quality_settings(codec.name, wanted_quality)
            preset = _preset_settings(codec.name, wanted_preset)
            settings = {**quality, **preset, **options.extra}
            if variable_rate is not False and codec.name in _B_FRAME_ENCODERS:
                settings.setdefault("bf", "0")
            if codec.name == "libx265":  # it writes to the terminal by itself
                settings["x265-params"] = ":".join(
                    filter(None, ("log-level=none", settings.get("x265-params")))
                )
            stream = self._container.add_stream(options.codec, rate=rate, options=settings)
        except (ValueError, av.error.FFmpegError) as error:  # unknown names are ValueErrors, too
            raise unavailable from error
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        context.width, context.height = self._width + self._padding[1], self._height + self._padding[0]
        taken = {taken.name for taken in codec.video_formats or ()}
        self._pixel_format = (
            "nv12" if "nv12" in taken and "yuv420p" not in taken else "yuv420p"
        )  # the same pixels
        context.pix_fmt = self._pixel_format
        context.time_base = self._time_base
        context.color_range = _LIMITED_RANGE
        context.colorspace = self._colour.matrix
        context.color_primaries = self._colour.primaries
        context.color_trc = self._colour.transfer
        context.sample_aspect_ratio = pixel_aspect
        try:
            with _own_scheduling():
                context.open()  # here, lest a missing device be taken for a missing permission of the file
        except av.error.FFmpegError as error:
            raise OutputError(
                f"{self.path} cannot be encoded: {options.codec} does not start with preset {wanted_preset} and "
                f"quality {wanted_quality} ({error.strerror}). It may need a device that is not here, or other "
                "options; libx264 with its usual ones always works."
            ) from error
        # What the encoder did not take is left there; FFmpeg says nothing of it.
        for asked, names, what in ((options.quality, quality, "quality"), (options.preset, preset, "preset")):
            if asked is not None and any(name in context.options for name in names):
                raise UsageError(
                    f"The encoder {options.codec} takes no {what}, so that {what} {asked} would change nothing. "
                    f"Leave the {what} away, or use libx264, libx265, libsvtav1 or libvpx-vp9, which take one."
                )
        if unknown := [name for name in options.extra if name in context.options]:
            raise OutputError(
                f"The encoder {options.codec} has no option {unknown[0]!r}; leave it out of `extra`."
            )
        return stream

    @contextlib.contextmanager
    def _output_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # of Python and of FFmpeg, which derives its own from it
            raise OutputError(_why_not(self.path, error)) from error
        except av.error.FFmpegError as error:
            raise OutputError(
                f"{self.path} cannot be encoded: {error.strerror}; try other encoder options."
            ) from error


class _Soundtrack:
    """The sound of a file, encoded to AAC into a container as far as it is asked to."""

    def __init__(self, container: OutputContainer, path: Clip, duration: Fraction | None) -> None:
        with open_input(require_file(path)) as source:
            stream = audio_stream(source)
            # A file without sound gets its sentence from `sound_blocks`, on the first block.
            native_rate = int(stream.codec_context.sample_rate or 48_000) if stream else 48_000
            channels = int(stream.codec_context.channels or 2) if stream else 2
        self._rate = min((rate for rate in _AAC_RATES_HZ if rate >= native_rate), default=48_000)
        self._layout = _AAC_LAYOUTS.get(channels, "stereo")
        self._container = container
        self._stream = container.add_stream("aac", rate=self._rate)
        self._stream.layout = self._layout
        self._stream.bit_rate = (96_000 if self._rate >= 32_000 else 64_000) * min(channels, 8)
        self._blocks = sound_blocks(path, rate=self._rate, layout=self._layout, sample_format="flt")
        self._end = None if duration is None else round(duration * self._rate)  # in samples
        self._num_written = 0
        self._first: NDArray | None = next(self._blocks)  # fails here, before any frame is made, or never

    def write_until(self, time: Fraction | None) -> None:
        """Encode up to about `time` seconds; None: to the end, and finish the stream."""
        target = None if time is None else round(time * self._rate)
        while target is None or self._num_written < target:
            block = self._next_block()
            if block is None:
                break
            self._encode(block)
        if target is None:
            self._container.mux(self._stream.encode(None))
            self.close()

    def close(self) -> None:
        """Close the source file."""
        self._blocks.close()

    def _next_block(self) -> NDArray | None:
        first, self._first = self._first, None
        block = first if first is not None else next(self._blocks, None)
        if self._end is None:
            return block
        missing = self._end - self._num_written
        if missing <= 0:
            return None
        if block is None:
            block = np.zeros(
                (len(av.AudioLayout(self._layout).channels), min(missing, self._rate)), np.float32
            )
        return block[:, :missing]

    def _encode(self, block: NDArray) -> None:
        packed = np.ascontiguousarray(block.T, np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=self._layout)
        frame.sample_rate = self._rate
        frame.pts, frame.time_base = self._num_written, Fraction(1, self._rate)
        self._num_written += block.shape[1]
        self._container.mux(self._stream.encode(frame))


def require_output(path: Clip) -> Path:
    """`path` as a `Path`, or `OutputError` when no video can be written there; nothing is left behind."""
    path = Path(path)
    if path.suffix.lower() not in _CONTAINERS:
        known = ", ".join(_CONTAINERS)
        raise OutputError(f"{path} has no suffix of a known video container; use one of {known}.")
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder; give the name of a file in it.")
        if not path.parent.is_dir():
            raise OutputError(f"There is no folder {path.parent}; create it first.")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(_why_not(path, error)) from error
    return path


def _quality_settings(codec: str, quality: int) -> dict[str, str]:
    """Options of an encoder for a quality of x264's scale."""
    name = next((name for end, name in _QUALITY_OPTIONS.items() if codec.endswith(end)), "crf")
    settings = {name: str(quality)}
    if codec == "libvpx":  # VP8 takes the quality for a wish, and keeps to 256 kbit/s if it is told no rate
        settings |= {"qmin": str(quality), "qmax": str(quality), "b": "100M"}
    return settings


def _preset_settings(codec: str, preset: str) -> dict[str, str]:
    """Options of an encoder for a preset by x264's names, or by its own."""
    names = next((names for end, names in _PRESETS.items() if codec.endswith(end)), {})
    return {_PRESET_OPTIONS.get(codec, "preset"): names.get(preset, preset)}


def require_encoder(path: Clip, options: EncoderOptions, *, width: int, height: int, rate: Fraction) -> None:
    """`OutputError` or `UsageError` when no video of this size can be encoded to `path` with `options`.

    Nothing is left behind.
    """
    VideoWriter(path, width=width, height=height, rate=rate, options=options).abort()


def output_colour(colour: Colour | None, width: int, height: int) -> Colour:
    """The tags of an output of this size: those of the source where it has any that 8-bit 4:2:0 can carry."""
    usual = _BT709 if is_high_definition(width, height) else _BT601
    if colour is None or colour.matrix not in _MATRICES:
        return usual
    usual = _BT601 if colour.matrix in (5, 6) else _BT709
    return Colour(
        matrix=colour.matrix,
        primaries=colour.primaries if colour.primaries not in (0, 2) else usual.primaries,
        transfer=colour.transfer if colour.transfer not in (0, 2) else usual.transfer,
    )


def same_matrix(one: int, other: int) -> bool:
    """Whether two code points of H.273 mean the same sums: BT.601 has two."""
    return LUMA_WEIGHTS.get(one) == LUMA_WEIGHTS.get(other, ())


def _time_base(rate: Fraction) -> Fraction:
    """The tick: a whole number of them is a frame at a constant rate, and none is longer than 1/90000 s."""
    if rate.numerator > _MOST_TICKS_HZ:
        return Fraction(1, _LEAST_TICKS_HZ)  # an average of variable times, which no tick divides
    return Fraction(1, rate.numerator * -(-_LEAST_TICKS_HZ // rate.numerator))


def _why_not(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{path} cannot be written: the disk is full. Free some space, or write to another disk."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} cannot be written: no permission in the folder {path.parent}. Choose another folder."
    if error.errno == errno.ENAMETOOLONG:
        return f"{path} cannot be written: the name is too long. Choose a shorter one."
    return f"{path} cannot be written: {os.strerror(error.errno) if error.errno else error}."


@contextlib.contextmanager
def _own_scheduling() -> Iterator[None]:
    """The calling thread is scheduled afterwards as before: SVT-AV1, run by root, makes it a real-time one.

    Such a thread, and all that it starts, would leave no processor to anybody else.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)
