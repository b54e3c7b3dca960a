"""Small clips with known answers: each picture carries its frame number, each second begins with a beep."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

GRID = 4  # cells a side: the corners tell which way is up, the twelve others are bits of the frame number
CORNERS = {(0, 0): 1, (0, 3): 0, (3, 0): 0, (3, 3): 0}
BITS = [(row, column) for row in range(GRID) for column in range(GRID) if (row, column) not in CORNERS]
BEEP_HZ = 1000
BEEP_SECONDS = 0.05
TICKS_HZ = 90_000  # of variable frame times
DARK, BRIGHT = 40, 200


def numbered_image(number: int, width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    """A grey picture, uint8 BGR height × width × 3, whose cells spell `number` (below 4096) in binary."""
    cells = np.zeros((GRID, GRID), np.uint8)
    for cell, bit in CORNERS.items():
        cells[cell] = bit
    for shift, cell in enumerate(BITS):
        cells[cell] = number >> shift & 1
    grey = np.where(cells == 1, BRIGHT, DARK).astype(np.uint8)
    image = cv2.resize(grey, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.repeat(image[:, :, None], 3, axis=2)


def frame_number(image: NDArray[np.uint8]) -> int:
    """The number that `numbered_image` wrote; fails when the picture is turned, mirrored or damaged."""
    height, width = image.shape[:2]
    rows = ((np.arange(GRID) + 0.5) * height / GRID).astype(int)
    columns = ((np.arange(GRID) + 0.5) * width / GRID).astype(int)
    levels = image[np.ix_(rows, columns)].mean(axis=2)
    assert np.all((np.abs(levels - DARK) < 25) | (np.abs(levels - BRIGHT) < 25)), levels
    cells = levels > (DARK + BRIGHT) / 2
    assert all(cells[cell] == bool(bit) for cell, bit in CORNERS.items()), "the picture is not upright"
    return sum(int(cells[cell]) << shift for shift, cell in enumerate(BITS))


def beeping_samples(seconds: float, sample_rate: int = 48_000) -> NDArray[np.float32]:
    """Mono float32 samples with a beep of 50 ms at each whole second, the first at 0, and silence between."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return np.where(time % 1 < BEEP_SECONDS, 0.5 * np.sin(2 * np.pi * BEEP_HZ * time), 0).astype(np.float32)


def beep_times(samples: NDArray[np.float32], sample_rate: int = 16_000) -> list[float]:
    """Seconds at which the beeps of `beeping_samples` begin."""
    loud = np.abs(samples) > 0.1
    near = (
        np.convolve(loud, np.ones(sample_rate // 100), "same") > 0.5
    )  # a beep's zero crossings are not its end
    starts = np.flatnonzero(np.diff(near.astype(int), prepend=0) > 0)
    return [float(start + np.argmax(loud[start:])) / sample_rate for start in starts]


def make_clip(
    path: Path,
    *,
    num_frames: int = 50,
    rate: Fraction = Fraction(25),
    times: Sequence[Fraction] | None = None,
    width: int = 96,
    height: int = 64,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rotation: int = 0,
    sound_seconds: float | None = None,
    sound_codec: str = "aac",
    sound_rate: int = 48_000,
    sound_layout: str = "mono",
    sound_start: Fraction = Fraction(0),
    sound_hole: tuple[float, float] | None = None,
    sound_first: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """A clip of numbered pictures and beeps.

    `times` (seconds) make the frame rate variable; `rotation` is the turn, in degrees clockwise, that the
    file asks of a player (the stored pictures are turned the other way, so that they come out upright);
    `sound_seconds` of None makes a silent clip, `num_frames` of 0 sound alone and of -1 a picture without frames;
    `sound_start` delays the sound; `sound_hole` (from, to, in seconds of the sound) leaves packets out.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        streams: dict[str, av.VideoStream | av.AudioStream] = {}
        kinds = ["video"] * bool(num_frames) + ["sound"] * (sound_seconds is not None)
        for kind in reversed(kinds) if sound_first else kinds:
            if kind == "video":
                streams[kind] = _add_video(
                    container, codec, rate, times, width, height, pixel_format, rotation
                )
            else:
                streams[kind] = container.add_stream(sound_codec, rate=sound_rate, layout=sound_layout)
        container.start_encoding()  # the header is there even when no packet follows
        packets = []
        if num_frames:
            packets += _video_packets(streams["video"], num_frames, rate, times, width, height, rotation)
        if sound_seconds is not None:
            packets += _sound_packets(streams["sound"], sound_seconds, sound_rate, sound_start, sound_hole)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def make_sound(path: Path, seconds: float, **settings: object) -> Path:
    """A sound file of beeps; the settings are those of `make_clip`."""
    return make_clip(path, num_frames=0, sound_seconds=seconds, **settings)  # type: ignore[arg-type]


def truncate(path: Path, share: float) -> Path:
    """Keep only the first `share` of a file's bytes."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def _add_video(container, codec, rate, times, width, height, pixel_format, rotation):  # type: ignore[no-untyped-def]
    stream = container.add_stream(codec, rate=rate)
    if rotation in (90, 270):
        width, height = height, width
    stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
    stream.codec_context.time_base = Fraction(1, TICKS_HZ) if times else 1 / rate
    if rotation:
        stream.set_display_rotation(-rotation)  # PyAV counts counter-clockwise
    return stream


def _video_packets(stream, num_frames, rate, times, width, height, rotation):  # type: ignore[no-untyped-def]
    for number in range(num_frames):
        image = np.rot90(numbered_image(number, width, height), rotation // 90)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
        time = times[number] if times else number / rate
        time_base = stream.codec_context.time_base
        frame.pts, frame.time_base = round(time / time_base), time_base
        frame.duration = round(1 / rate / time_base)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _sound_packets(stream, seconds, rate, start, hole):  # type: ignore[no-untyped-def]
    samples = beeping_samples(seconds, rate)
    layout, kind = stream.layout, stream.format
    packets = []
    for first in range(0, len(samples), 1024):
        piece = samples[first : first + 1024]
        data = np.repeat(piece, layout.nb_channels)[None]
        frame = av.AudioFrame.from_ndarray(data, format="flt", layout=layout.name)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = first + round(start * rate)
        for converted in av.AudioResampler(format=kind, layout=layout, rate=rate).resample(frame):
            converted.pts, converted.time_base = frame.pts, frame.time_base
            packets += stream.encode(converted)
    packets += stream.encode(None)
    if hole is None:
        return packets
    inside = [float((packet.pts * packet.time_base) - start) for packet in packets]
    return [packet for packet, time in zip(packets, inside, strict=True) if not hole[0] <= time < hole[1]]
