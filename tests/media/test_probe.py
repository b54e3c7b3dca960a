"""`probe` tells what `read_frames` and `read_samples` will give."""

import struct
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

from ..media_samples import frame_number, make_clip, make_sound, numbered_image, truncate

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


def test_what_a_browser_records_tells_no_rate_and_is_measured(tmp_path: Path) -> None:
    steps = np.random.default_rng(1).choice([31, 32, 33, 34, 35], 59).tolist()
    steps[10] = 900  # the page was slow to start
    times = [Fraction(time, 1000) for time in np.cumsum([0, *steps]).tolist()]
    clip = make_clip(tmp_path / "clip.webm", num_frames=60, times=times, codec="libvpx")
    content = clip.read_bytes()
    place = content.index(b"\x23\xe3\x83\x84")  # the default duration of frames, which is left out:
    clip.write_bytes(content[:place] + b"\xec\x86" + bytes(6) + content[place + 8 :])
    video = probe(clip).video
    assert video is not None
    assert video.rate == pytest.approx(30.3, abs=0.3)  # not the 1000 ticks of the clock
    assert video.variable_rate is None
    assert [frame.time for frame in read_frames(clip)] == times


@pytest.mark.parametrize("rate", [Fraction(240), Fraction(1000)])
def test_a_high_rate_that_is_true_is_believed(tmp_path: Path, rate: Fraction) -> None:
    video = probe(make_clip(tmp_path / "clip.mp4", num_frames=30, rate=rate)).video
    assert video is not None
    assert video.rate == rate


def test_a_single_frame_has_the_rate_of_a_still_image(tmp_path: Path) -> None:
    video = probe(make_clip(tmp_path / "clip.mp4", num_frames=1, rate=Fraction(1, 5))).video
    assert video is not None
    assert video.rate == 25


def test_a_file_in_fragments_whose_index_lists_one_frame_keeps_its_rate(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "clip.mp4",
        num_frames=10,
        rate=NTSC,
        codec="mjpeg",
        pixel_format="yuvj420p",
        options={"movflags": "frag_every_frame"},
    )
    video = probe(clip).video
    assert video is not None
    assert (video.rate, video.num_frames) == (NTSC, 1)


@pytest.mark.parametrize(("orientation", "rotation"), [(1, 0), (6, 90), (3, 180), (8, 270)])
def test_exif_beside_the_frames_of_a_camera(tmp_path: Path, orientation: int, rotation: int) -> None:
    path = tmp_path / "clip.avi"
    tag = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        size = (64, 96) if rotation in (90, 270) else (96, 64)
        (stream.width, stream.height), stream.pix_fmt = size, "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(3):
            image = np.rot90(numbered_image(number), rotation // 90)
            jpeg = cv2.imencode(".jpg", image)[1].tobytes()
            packet = av.Packet(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tag) + 2) + tag + jpeg[2:])
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            container.mux(packet)
    video = probe(path).video
    assert video is not None
    assert (video.width, video.height, video.rotation) == (96, 64, rotation)
    assert [frame_number(frame.image) for frame in read_frames(path)] == [0, 1, 2]


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


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "avif"])
def test_a_still_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"100%03d.{suffix}"  # a name that means a sequence of images to FFmpeg
    cv2.imwrite(str(path), numbered_image(5, 90, 50))
    info = probe(path)
    assert info.is_image
    assert info.video is not None
    assert (info.video.width, info.video.height, info.video.num_frames) == (90, 50, 1)
    assert np.abs(read_image(path).astype(int) - numbered_image(5, 90, 50)).mean() < 3


@pytest.mark.parametrize("size", [(3024, 4032), (6000, 300)])
def test_a_photo_is_reduced_to_what_players_show(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), numbered_image(9, *size))
    video = probe(path).video
    assert video is not None
    blocks = -(-video.width // 16) * -(-video.height // 16)
    assert max(video.width, video.height) <= 4096
    assert 0.9 * 36_864 < blocks <= 36_864 or video.width == 4096
    assert video.width / video.height == pytest.approx(size[0] / size[1], rel=0.01)
    assert frame_number(read_image(path)) == 9


def test_a_damaged_image(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "still.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="cannot be decoded as an image"):
        probe(path)
    assert capfd.readouterr().out == ""


def test_a_heic_photo_is_not_taken_for_one_of_its_tiles(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(
        InputError, match="is a HEIC photo, which cannot be read here; save it as JPEG or PNG"
    ):
        probe(path)


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
