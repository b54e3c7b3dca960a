"""A video and speech of any length: given ones in a loop, or a portrait and a voice that need no download."""

import math
import shutil
import wave
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources
from itertools import count, islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.media.probe import probe
from lipsmith.media.read import read_frames, read_samples
from lipsmith.timebase import SAMPLE_RATE_HZ

# The piece that is repeated. It is encoded once; making ten minutes of it then only copies packets.
PIECE_SECONDS = 10
PORTRAIT_RATE_HZ = Fraction(25)


@dataclass(frozen=True)
class Case:
    """A drawn video: its size in pixels, length in seconds, and encoder."""

    width: int
    height: int
    seconds: float
    codec: str = "libx264"


CASES = {
    "square": Case(512, 512, 8),
    "portrait": Case(1080, 1920, 10, "libx265"),
    "long": Case(1280, 720, 60),
}


def make_inputs(
    folder: Path, case: str, video: Path | None, audio: Path | None, seconds: float | None
) -> dict[str, Any]:
    """Write video.mp4 and speech.wav into `folder`, and say what they are.

    A given `video` is taken as it is, and looped only where `seconds` asks for another length.
    """
    target = folder / "video.mp4"
    info = None if video is None else probe(video)
    if info is None:
        drawn = CASES[case]
        seconds = seconds or drawn.seconds
        make_video(target, seconds, size=(drawn.width, drawn.height), codec=drawn.codec)
    elif seconds is None:
        if info.video is None or info.video.duration is None:
            raise SystemExit(f"{video} does not say how long it is; say --seconds.")
        seconds = float(info.video.duration)
        shutil.copyfile(info.path, target)
    else:
        make_video(target, seconds, video)
    make_speech(folder / "speech.wav", seconds, audio)
    picture = probe(target).video
    assert picture is not None
    return {
        "video": "drawn" if video is None else video.name,
        "audio": "demo speech" if audio is None else audio.name,
        "seconds": round(seconds, 2),
        "width": picture.width,
        "height": picture.height,
        "rate": round(float(picture.rate), 3),
        "codec": picture.codec,
        "pixel_format": picture.pixel_format,
        "variable_rate": picture.variable_rate is not False,
    }


def make_video(
    path: Path,
    seconds: float,
    source: Path | None = None,
    *,
    size: tuple[int, int] = (512, 512),
    codec: str = "libx264",
) -> None:
    """Write an MP4 of `seconds`: `source` over and over, or a swaying portrait of `size` (25 frames a second)."""
    piece = path.with_suffix(".piece.mp4")
    if source is None:
        rate = PORTRAIT_RATE_HZ
        images: Iterable[NDArray[np.uint8]] = _portrait(*size)
    else:
        stream = probe(source).video
        if stream is None:
            raise SystemExit(f"{source} has no picture.")
        rate = stream.rate
        images = (frame.image for frame in read_frames(source))
    _encode(piece, islice(images, math.ceil(min(seconds, PIECE_SECONDS) * rate)), rate, codec)
    _repeat(piece, path, seconds)
    piece.unlink()


def make_speech(path: Path, seconds: float, source: Path | None = None) -> None:
    """Write a WAV file of `seconds`: the sound of `source`, or of the demo, over and over."""
    if source is None:
        with resources.as_file(resources.files("lipsmith.assets") / "speech.flac") as speech:
            samples = read_samples(speech)
    else:
        samples = read_samples(source)
    looped = np.resize(samples, round(seconds * SAMPLE_RATE_HZ))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((looped.clip(-1, 1) * 32767).astype("<i2").tobytes())


def _portrait(width: int, height: int) -> Iterable[NDArray[np.uint8]]:
    """The public-domain portrait of scikit-image, swaying by some pixels, without end; BGR.

    As high as the picture; wider ones show a blurred copy of it at the sides, narrower ones its middle.
    """
    from skimage import data

    portrait = np.ascontiguousarray(data.astronaut()[..., ::-1])
    picture = cv2.resize(portrait, (height, height), interpolation=cv2.INTER_CUBIC)
    margin = (width - height) // 2
    if margin > 0:
        wide = cv2.GaussianBlur(cv2.resize(portrait, (width, height)), (0, 0), height / 20)
        wide[:, margin : margin + height] = picture
        picture = wide
    elif margin < 0:
        # The face is left of the portrait's middle.
        left = min(max(round(0.44 * height - width / 2), 0), height - width)
        picture = picture[:, left : left + width]
    for index in count():
        yield np.roll(picture, round(6 * math.sin(index / 12)), axis=1)


def _encode(path: Path, images: Iterable[NDArray[np.uint8]], rate: Fraction, codec: str) -> None:
    # Without B-frames packets are in the order of their frames, so that a loop can be cut anywhere.
    options = {"preset": "veryfast", "crf": "18", "bf": "0", "g": "25"}
    if codec == "libx265":
        options = {"preset": "superfast", "crf": "22", "x265-params": "bframes=0:keyint=25:log-level=none"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        for index, image in enumerate(images):
            rows, columns = (side // 2 * 2 for side in image.shape[:2])
            if index == 0:
                stream.width, stream.height, stream.pix_fmt = columns, rows, "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:rows, :columns]), format="bgr24")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _repeat(piece: Path, path: Path, seconds: float) -> None:
    """Copy the packets of `piece` one after the other, again and again, until there are `seconds`."""
    with av.open(str(path), "w") as target, av.open(str(piece)) as first:
        stream = target.add_stream_from_template(first.streams.video[0])
        start = 0
        while True:
            with av.open(str(piece)) as source:
                video = source.streams.video[0]
                end = start
                for packet in source.demux(video):
                    if packet.pts is None or packet.duration is None:
                        continue
                    shown = start + packet.pts
                    if shown * video.time_base >= seconds:
                        return
                    end = max(end, shown + packet.duration)
                    packet.pts, packet.dts, packet.stream = shown, start + (packet.dts or 0), stream
                    target.mux(packet)
            start = end
