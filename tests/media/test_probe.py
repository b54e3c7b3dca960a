"""`probe` tells what `read_frames` and `read_samples` will give."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from lipsmith.errors import InputError
from lipsmith.media.images import read_image
from lipsmith.media.probe import AudioStream, probe
from lipsmith.media.read import read_frames

from ..media_samples import make_clip, make_sound, numbered_image, truncate

NTSC = Fraction(30_000, 1001)


def test_a_video_with_sound(tmp_path: Path) -> None:
    info = probe(
        make_clip(tmp_path / "clip.mp4", num_frames=30, rate=NTSC, sound_seconds=1.0, sound_layout="stereo")
    )
    assert info.video is not None
    assert not info.is_image
    assert "mp4" in info.container
    assert (info.video.width, info.video.height, info.video.rate, info.video.num_frames) == (96, 64, NTSC, 30)
    assert (info.video.codec, info.video.pixel_format, info.video.rotation) == ("h264", "yuv420p", 0)
    assert info.video.duration == 30 / NTSC
    assert info.video.variable_rate is False
    assert info.audio == AudioStream(48_000, 2, "aac", Fraction(1))


def test_a_variable_rate(tmp_path: Path) -> None:
    times = [Fraction(ticks, 90_000) for ticks in (0, 3000, 9000, 9100, 30_000)]
    video = probe(make_clip(tmp_path / "clip.mp4", num_frames=5, times=times)).video
    assert video is not None
    assert video.variable_rate is True


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_sizes_are_those_after_rotation(tmp_path: Path, rotation: int) -> None:
    video = probe(make_clip(tmp_path / "clip.mp4", num_frames=2, rotation=rotation)).video
    assert video is not None
    assert (video.width, video.height, video.rotation) == (96, 64, rotation)


def test_a_silent_video_and_a_sound_file(tmp_path: Path) -> None:
    silent = probe(make_clip(tmp_path / "clip.mkv", num_frames=2))
    sound = probe(make_sound(tmp_path / "s.flac", 1.5, sound_codec="flac", sound_layout="5.1"))
    assert silent.video is not None
    assert silent.audio is None
    assert sound.video is None
    assert sound.duration == Fraction(3, 2)
    assert sound.audio == AudioStream(48_000, 6, "flac", Fraction(3, 2))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_a_still_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"100%03d.{suffix}"  # a name that means a sequence of images to FFmpeg
    cv2.imwrite(str(path), numbered_image(5, 90, 50))
    info = probe(path)
    assert info.is_image
    assert info.video is not None
    assert (info.video.width, info.video.height, info.video.num_frames) == (90, 50, 1)
    assert np.abs(read_image(path).astype(int) - numbered_image(5, 90, 50)).mean() < 3


def test_a_damaged_image(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "still.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="cannot be decoded as an image"):
        probe(path)
    assert capfd.readouterr().out == ""


def test_cover_art_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=48_000, layout="mono")
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        image = av.VideoFrame.from_ndarray(numbered_image(1, 32, 32), format="bgr24").reformat(format="rgb24")
        container.mux(cover.encode(image))
        container.mux(cover.encode(None))
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    info = probe(path)
    assert info.video is None
    assert info.audio is not None
    with pytest.raises(InputError, match="has no frames, only sound"):
        next(read_frames(path))


def test_bad_files(tmp_path: Path) -> None:
    words = tmp_path / "words.mp4"
    words.write_text("not a video\n" * 50)
    for path, sentence in (
        (tmp_path / "nothing.mp4", "There is no file"),
        (tmp_path, "is a folder"),
        (words, "is not a video, sound or image"),
        *(
            (truncate(make_clip(tmp_path / f"{share}.mp4"), share), r"its index \(moov\) is missing")
            for share in (0.02, 0.3, 0.7, 0.9, 0.99)
        ),
    ):
        with pytest.raises(InputError, match=sentence):
            probe(path)
