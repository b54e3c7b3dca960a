"""Opening a media file and walking its packets: what `probe`, `read` and `write` share, and their errors.

Times here are `Fraction` seconds on the container's own clock.
"""

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
import av.error
import av.filter
import numpy as np
from av.container import InputContainer
from av.stream import Stream
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from lipsmith.errors import InputError
from lipsmith.picture import LUMA_WEIGHTS, PlanarPicture

logging.getLogger("lipsmith.media").addHandler(logging.NullHandler())  # else Python prints warnings itself
logger = logging.getLogger(__name__)

Clip = str | os.PathLike[str]
Frames = av.VideoFrame | av.AudioFrame

# FFmpeg "decodes" a text file as terminal art, and a playlist would open other files: neither is a recording.
_FORMATS_REFUSED = {"tty", "hls", "concat", "dash", "imf", "bin", "idf", "adf", "xbin"}
_IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
# Of AVIF and HEIF (ISO/IEC 23008-12), which begin like an mp4.
_IMAGE_BRANDS = {b"avif", b"mif1", b"mif2", b"heic", b"heix", b"heim", b"heis", b"msf1", b"hevc", b"hevx"}
_MEDIA_SIGNATURES = (b"\x1aE\xdf\xa3", b"RIFF", b"FLV", b"OggS", b"fLaC", b"ID3")
_FULL_RANGE = 2
# FFmpeg's scaler numbers the matrices like H.273.
_RGB, _BT709, _BT601, _BT2020, _BT2020_CONSTANT = 0, 1, 5, 9, 10
# These it cannot undo.
_OTHER_MATRICES = {
    8: "YCgCo",
    11: "Y'D'zD'x",
    13: "constant luminance",
    14: "ICtCp",
    15: "IPT",
    16: "YCgCo-R",
    17: "YCgCo-R",
}

# FFmpeg's quick default truncates: every round trip would darken the picture by two levels. Bilinear chroma
# up and its mean down are each other's inverse to a tenth of a level, at half the time of bicubic.
_ROUNDED = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP | Interpolation.FULL_CHR_H_INT
TO_BGR, FROM_BGR = int(Interpolation.BILINEAR | _ROUNDED), int(Interpolation.AREA | _ROUNDED)

# A clock that jumps back by more than the first, or on by more than the second, is broken or was restarted (files
# joined end to end): what follows is taken to follow at once.
MOST_BACK_SECONDS, MOST_ON_SECONDS = Fraction(1), Fraction(600)
_LEAST_MISSING_SECONDS = Fraction(1)  # declared durations are often off by some frames; a cut file lacks more


def require_file(path: Clip) -> Path:
    """`path` as a `Path`, or `InputError` when there is no readable file with something in it."""
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; give the path of a media file.")
        if not path.exists():
            raise InputError(f"There is no file {path}; check the path.")
        if not path.is_file():  # opening a pipe would wait for somebody to write into it
            raise InputError(f"{path} is not a regular file; save what it gives to a file first.")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes); copy or download it again.")
        with path.open("rb"):
            pass
    except PermissionError as error:
        raise InputError(f"{path} may not be read by this user; change its permissions.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    return path


def is_still_image(path: Path) -> bool:
    """Whether the file's first bytes are those of a still image (JPEG, PNG, WebP, BMP, TIFF, AVIF, HEIC)."""
    with path.open("rb") as file:
        head = file.read(16)
    return (
        head.startswith(_IMAGE_SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in _IMAGE_BRANDS)
    )


@contextmanager
def open_input(path: Path) -> Iterator[InputContainer]:
    """The open container of a file, closed afterwards; `InputError` when it is not media."""
    try:
        # "file:" keeps FFmpeg from reading a name such as "a:b.mp4" as something else than a name, and the
        # list keeps a file from making FFmpeg open network addresses.
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise InputError(_not_media(path)) from error
    with container:
        if _FORMATS_REFUSED & set(container.format.name.split(",")):
            raise InputError(_not_media(path))
        if "mp4" in container.format.name and not _has_whole_index(path):
            raise InputError(_not_media(path))
        yield container


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The first real video stream: cover art of a song is not one.

    Raises:
        InputError: the only video stream is of a codec that this FFmpeg does not know.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    for stream in streams:
        if stream.codec_context is not None:
            return stream
    if streams:
        raise InputError(
            f"The video codec of {container.name.removeprefix('file:')} is unknown; convert it to H.264."
        )
    return None


def require_video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    """The first real video stream, or `InputError`."""
    stream = video_stream(container)
    if stream is None and not container.streams.audio:
        raise InputError(f"{path} has no frames, and no sound either; give a video or an image.")
    if stream is None:
        raise InputError(f"{path} has no frames, only sound; give a video or an image.")
    return stream


def audio_stream(container: InputContainer) -> av.AudioStream | None:
    """The first sound stream.

    Raises:
        InputError: the only sound stream is of a codec that this FFmpeg does not know.
    """
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            return stream
    if container.streams.audio:
        raise InputError(
            f"The sound codec of {container.name.removeprefix('file:')} is unknown; convert it to wav."
        )
    return None


def require_whole(container: InputContainer, stream: av.VideoStream | av.AudioStream, path: Path) -> None:
    """`InputError` when the file's own index says that the stream goes on beyond the end of the file."""
    if "mp4" not in container.format.name:
        return  # elsewhere the index lists only key frames, at positions of another kind
    num_bytes = path.stat().st_size
    entries = stream.index_entries
    if not len(entries) or _fits(entries[len(entries) - 1], num_bytes):
        return
    for entry in entries:
        if not _fits(entry, num_bytes):
            raise InputError(_cut_short(path, entry.timestamp * Fraction(stream.time_base or 1)))


def num_frames(stream: av.VideoStream) -> int | None:
    """Frames that the container's index lists and an edit list does not hide; None without such an index."""
    entries = stream.index_entries
    if not stream.frames or len(entries) != stream.frames:
        return stream.frames or None
    return sum(not entry.is_discard for entry in entries)


def to_bgr(
    frame: av.VideoFrame, size: tuple[int, int] | None = None, *, path: Clip = "the video"
) -> NDArray[np.uint8]:
    """A decoded frame as uint8 BGR, scaled to `size` (width, height) if that differs; the caller's own array.

    The matrix and range are those that the frame names; untagged HD is BT.709, untagged smaller video BT.601.

    Raises:
        InputError: a matrix that cannot be undone; names `path`.
    """
    matrix = _matrix(frame, path)
    width, height = size or (frame.width, frame.height)
    image = frame.to_ndarray(
        format="bgr24",
        width=width,
        height=height,
        src_colorspace=None if matrix == int(frame.colorspace) else matrix,
        interpolation=TO_BGR,
    )
    return np.require(image, np.uint8, ["C", "W"])


def planar_picture(frame: av.VideoFrame, *, path: Clip = "the video") -> PlanarPicture | None:
    """A decoded frame as it is, if it is of the form that `PlanarPicture` describes; errors as of `to_bgr`."""
    matrix = _matrix(frame, path)
    if (
        frame.format.name != "yuv420p"
        or matrix not in LUMA_WEIGHTS
        or int(frame.color_range) == _FULL_RANGE
        or frame.width % 2
        or frame.height % 2
    ):
        return None
    luma, blue, red = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    )
    return PlanarPicture(luma, blue, red, matrix, frame)


def _matrix(frame: av.VideoFrame, path: Clip) -> int:
    """Which matrix a frame means, as FFmpeg's scaler numbers it; tags that mean nothing are taken for none."""
    matrix = int(frame.colorspace)
    if matrix == _RGB or matrix in LUMA_WEIGHTS:
        return matrix
    if matrix == _BT2020_CONSTANT:
        return _BT2020  # close to it
    if matrix in _OTHER_MATRICES:
        raise InputError(
            f"The colours of {path} are stored as {_OTHER_MATRICES[matrix]}, which cannot be read here; convert it to "
            "BT.709."
        )
    return usual_matrix(frame.width, frame.height)


def usual_matrix(width: int, height: int) -> int:
    """The matrix of untagged video of this size, as FFmpeg's scaler numbers it."""
    return _BT709 if is_high_definition(width, height) else _BT601


def is_high_definition(width: int, height: int) -> bool:
    """Whether players take untagged video of this size for BT.709 rather than BT.601."""
    return width >= 1280 or height > 576


def decode(
    container: InputContainer, stream: av.VideoStream | av.AudioStream, path: Path
) -> Iterator[Frames]:
    """Decoded frames of one stream, in the order of presentation, one at a time.

    A damaged packet costs its own frame and is logged, as in every player: times tell what is missing.

    Raises:
        InputError: the file ends long before its declared duration, or nothing in the stream can be decoded.
    """
    kind: Literal["picture", "sound"] = "picture" if stream.type == "video" else "sound"
    timed = [s for s in container.streams if s.time_base]  # all, as any of them may be the one that ends last
    num_frames = num_damaged = 0
    end = Fraction(0)
    # An AVI numbers its packets in the order of decoding and says nothing of the order of presentation, which FFmpeg
    # then gets wrong. The n-th frame shown is due when the n-th packet is.
    unordered = kind == "picture" and container.format.name == "avi"
    due: deque[int] = deque()
    try:
        for packet in packets_of(container, timed):
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream.index != stream.index:  # (`stream_index` is 0 in all last packets)
                continue
            if unordered and packet.dts is not None and packet.size:
                due.append(packet.dts)
            try:
                frames = cast("list[Frames]", packet.decode())
            except av.error.FFmpegError as error:
                num_damaged += 1
                logger.warning("%s: a damaged packet of the %s at %.2f s: %s", path, kind, float(end), error)
                continue
            for frame in frames:
                num_frames += 1
                if unordered:
                    frame.pts = due.popleft() if due else None
                yield frame
    except av.error.FFmpegError as error:
        raise InputError(_cut_short(path, end)) from error
    if num_frames == 0:
        if num_damaged:
            raise InputError(
                f"The {kind} of {path} ({stream.codec_context.name}) cannot be decoded; the file is damaged."
            )
        return
    _require_declared_end(container, end, path)


def packets_of(container: InputContainer, streams: list[Stream]) -> Iterator[av.Packet]:
    """The packets of some streams as they come; in the end an empty one of each, for which decoders give their rest."""
    last = max(stream.index for stream in streams)
    for packet in container.demux(streams):
        yield packet
        # PyAV would go on to streams that appeared on the way, as in recordings of television: it does not know them.
        if not packet.size and packet.dts is None and packet.pts is None and packet.stream.index == last:
            return


def whole_frames(frames: Iterable[Frames]) -> Iterator[av.VideoFrame]:
    """Video frames, those that are interlaced made of one field: the output, which is not, would show combs.

    From the first interlaced one on, frames come one late; others than interlaced ones stay as they are.
    """
    graph: av.filter.Graph | None = None
    form = None
    for frame in frames:
        assert isinstance(frame, av.VideoFrame)
        if graph is not None and form != (frame.width, frame.height, frame.format.name):
            graph.push(None)
            yield from _filtered(graph)
            graph = None
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if graph is None:
            form = frame.width, frame.height, frame.format.name
            graph = _deinterlacer(frame)
        graph.push(frame)
        yield from _filtered(graph)
    if graph is not None:
        graph.push(None)
        yield from _filtered(graph)


def _deinterlacer(frame: av.VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, av.time_base),
    )
    halves = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    source.link_to(halves)
    halves.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _filtered(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, av.VideoFrame)
        yield frame


def stamp(frame: Frames) -> Fraction | None:
    """When a decoded frame is due, in seconds on the container's clock; None where the file does not say."""
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


def _require_declared_end(container: InputContainer, end: Fraction, path: Path) -> None:
    if not any(name in container.format.name for name in ("matroska", "mp4")) or not container.duration:
        return  # others estimate their duration from the size of the file
    # A Matroska file counts its duration from 0, or at times from its first stamp, as others do.
    start = 0 if "matroska" in container.format.name else container.start_time or 0
    declared = Fraction(container.duration + start, av.time_base)
    if end < declared - max(_LEAST_MISSING_SECONDS, declared / 50):
        raise InputError(_cut_short(path, end))


def _fits(entry: "av.index.IndexEntry", num_bytes: int) -> bool:
    return entry.pos + entry.size <= num_bytes


def _cut_short(path: Path, time: Fraction) -> str:
    return f"{path} is cut short: its data ends at {max(float(time), 0):.2f} s. Copy or download it again."


def _has_whole_index(path: Path) -> bool:
    """Whether the `moov` box of an mp4 (ISO/IEC 14496-12) ends within the file."""
    num_bytes = path.stat().st_size
    position = 0
    with path.open("rb") as file:
        while position + 8 <= num_bytes:
            file.seek(position)
            head = file.read(16)
            size = int.from_bytes(head[:4], "big")
            if size == 1:  # the size is too large for 32 bits and follows the name
                size = int.from_bytes(head[8:16], "big")
            elif size == 0:  # to the end of the file
                size = num_bytes - position
            if head[4:8] == b"moov":
                return position + size <= num_bytes
            if size < 8:
                break
            position += size
    return True  # not found by this walk: FFmpeg found it by its own


def _name(container: InputContainer) -> str:
    return container.name.removeprefix("file:")


def _not_media(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return f"{path} is cut short: its index (moov) is missing or incomplete. Copy or download it again."
    if head.startswith(_MEDIA_SIGNATURES):
        return f"{path} is damaged, or holds no data: FFmpeg cannot read it. Copy or download it again."
    return f"{path} is not a video, sound or image that FFmpeg can read; check that it is what its name says."
