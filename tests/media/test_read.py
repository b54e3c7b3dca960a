"""Frames and samples come back with the numbers, times and colours that went in."""

import gc
import os
import weakref
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from lipsmith.errors import InputError
from lipsmith.media.container import planar_picture, to_bgr, whole_frames
from lipsmith.media.probe import probe
from lipsmith.media.read import (
    _Timeline,
    first_frame_time,
    read_frames,
    read_pictures,
    read_sample_blocks,
    read_samples,
)
from lipsmith.picture import PlanarPicture

from ..media_samples import (
    beep_times,
    beeping_samples,
    frame_number,
    make_clip,
    make_sound,
    numbered_image,
    truncate,
)

NTSC = Fraction(30_000, 1001)
VARIABLE = [Fraction(ticks, 90_000) for ticks in (0, 3000, 9000, 9100, 30_000, 90_000, 93_003)]


def numbers_and_times(path: Path) -> tuple[list[int], list[Fraction]]:
    frames = list(read_frames(path))
    assert [frame.index for frame in frames] == list(range(len(frames)))
    return [frame_number(frame.image) for frame in frames], [frame.time for frame in frames]


@pytest.mark.parametrize("rate", [Fraction(25), NTSC, Fraction(24_000, 1001), Fraction(10), Fraction(60)])
def test_a_constant_rate_gives_every_frame_at_its_exact_time(tmp_path: Path, rate: Fraction) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_frames=31, rate=rate)
    numbers, times = numbers_and_times(clip)
    assert numbers == list(range(31))
    assert times == [i / rate for i in range(31)]


def test_variable_times_are_kept(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_frames=len(VARIABLE), times=VARIABLE)
    assert numbers_and_times(clip) == (list(range(len(VARIABLE))), VARIABLE)


def test_matroska_times_are_those_of_its_millisecond_clock(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", num_frames=4, rate=NTSC)
    assert numbers_and_times(clip)[1] == [Fraction(ms, 1000) for ms in (0, 33, 67, 100)]


@pytest.mark.parametrize(
    ("name", "codec", "sound_codec"),
    [
        ("x.avi", "libx264", "pcm_s16le"),  # frames without time stamps of their own, reordered
        ("x.avi", "mpeg4", "pcm_s16le"),
        ("x.ts", "libx264", "aac"),
        ("x.webm", "libvpx-vp9", "libopus"),
        ("x.mpg", "mpeg2video", "mp2"),
        ("x.flv", "libx264", "aac"),
        ("x.3gp", "mpeg4", "aac"),
        ("x.mov", "prores_ks", "pcm_s16le"),
        ("x.mkv", "ffv1", "flac"),
    ],
)
def test_containers_and_codecs(tmp_path: Path, name: str, codec: str, sound_codec: str) -> None:
    formats = {"prores_ks": "yuv422p10le", "ffv1": "bgr0"}
    clip = make_clip(
        tmp_path / name,
        num_frames=40,
        codec=codec,
        pixel_format=formats.get(codec, "yuv420p"),
        sound_seconds=1.6,
        sound_codec=sound_codec,
    )
    numbers, times = numbers_and_times(clip)
    assert numbers == list(range(40))
    assert times == [Fraction(i, 25) for i in range(40)]
    samples = read_samples(clip, origin=first_frame_time(clip))
    assert beep_times(samples) == pytest.approx([0, 1], abs=0.003)


@pytest.mark.parametrize("sound_first", [False, True])
def test_the_last_frames_are_not_lost_in_the_decoder(tmp_path: Path, sound_first: bool) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_frames=40, sound_seconds=1.6, sound_first=sound_first)
    assert numbers_and_times(clip)[0] == list(range(40))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_flags_are_applied(tmp_path: Path, rotation: int) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_frames=3, rotation=rotation)
    assert next(read_frames(clip)).image.shape == (64, 96, 3)
    assert numbers_and_times(clip)[0] == [0, 1, 2]


@pytest.mark.parametrize(
    ("matrix", "transform"),
    [
        # A phone held upright: the stored row runs down the picture's right side (x' = -y, y' = x).
        ((0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30), lambda image: np.rot90(image, -1)),
        # A mirrored front camera.
        ((-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30), lambda image: image[:, ::-1]),
    ],
)
def test_display_matrices_mean_what_the_standard_says(tmp_path: Path, matrix, transform) -> None:
    plain = make_clip(tmp_path / "plain.mp4", num_frames=1)
    flagged = tmp_path / "flagged.mp4"
    with av.open(str(plain)) as source, av.open(str(flagged), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_matrix(matrix)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    expected = transform(next(read_frames(plain)).image)
    np.testing.assert_array_equal(next(read_frames(flagged)).image, expected)


@pytest.mark.parametrize(
    ("pixel_format", "width", "height"),
    [
        ("yuv420p10le", 96, 64),
        ("yuv422p", 96, 64),
        ("yuv444p", 97, 65),
        ("gray", 96, 64),
        ("yuvj420p", 96, 64),
    ],
)
def test_pixel_formats_and_odd_sizes(tmp_path: Path, pixel_format: str, width: int, height: int) -> None:
    clip = make_clip(
        tmp_path / "clip.mkv", num_frames=5, width=width, height=height, pixel_format=pixel_format
    )
    image = next(read_frames(clip)).image
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert numbers_and_times(clip)[0] == list(range(5))


@pytest.mark.parametrize(
    ("matrix", "full_range", "size", "expected_bgr"),
    [
        # Y, Cb, Cr = 100, 90, 180 by the equations of BT.601 and BT.709, limited and full range.
        (6, False, (64, 64), (21, 70, 181)),
        (1, False, (64, 64), (18, 78, 191)),
        (6, True, (64, 64), (33, 76, 173)),
        (2, False, (64, 64), (21, 70, 181)),  # untagged, small: BT.601
        (2, False, (1280, 64), (18, 78, 191)),  # untagged, wide: BT.709
    ],
)
def test_colours_follow_the_tags(tmp_path: Path, matrix, full_range, size, expected_bgr) -> None:
    path = tmp_path / "clip.mkv"
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full_range else 1
        planes = np.empty((3, height, width), np.uint8)
        planes[0], planes[1], planes[2] = 100, 90, 180
        frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
        frame.colorspace, frame.color_range = matrix, 2 if full_range else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    image = next(read_frames(path)).image
    assert np.abs(image.reshape(-1, 3).astype(int) - expected_bgr).max() <= 1


def make_interlaced(path: Path, num_frames: int) -> Path:
    """A bar that moves by four pixels from one half picture to the next."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=25, options={"x264-params": "interlaced=1", "crf": "10"}
        )
        stream.width, stream.height, stream.pix_fmt = 192, 96, "yuv420p"
        for number in range(num_frames):
            image = np.full((96, 192, 3), 40, np.uint8)
            for half in (0, 1):
                left = 4 * (2 * number + half)
                image[half::2, left : left + 24] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def test_interlaced_frames_become_whole_ones(tmp_path: Path) -> None:
    def combs(image: np.ndarray) -> float:
        rows = image[..., 1].astype(int)
        return float(np.abs(2 * rows[1:-1:2] - rows[:-2:2] - rows[2::2]).mean())

    clip = make_interlaced(tmp_path / "clip.mp4", 12)
    with av.open(str(clip)) as container:
        decoded = list(container.decode(video=0))
    assert combs(to_bgr(decoded[5])) > 10
    frames = list(read_frames(clip))
    assert [frame.time for frame in frames] == [Fraction(number, 25) for number in range(12)]
    for number, frame in enumerate(frames):
        assert combs(frame.image) < 1
        bar = np.flatnonzero(frame.image[48, :, 1] > 120)
        assert abs(bar[0] - 8 * number) <= 5
    assert isinstance(next(read_pictures(clip)).picture, PlanarPicture)
    # Stretches without interlaced frames are left alone, and the size may change on the way.
    with av.open(str(make_clip(tmp_path / "other.mp4", num_frames=3))) as container:
        others = list(container.decode(video=0))
    mixed = list(whole_frames([others[0], *decoded[:3], others[1], others[2]]))
    assert [mixed[0], *mixed[-2:]] == others
    assert [frame.width for frame in mixed] == [96, 192, 192, 192, 96, 96]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le"])
@pytest.mark.parametrize(("tag", "meant"), [(3, 5), (19, 5), (12, 5), (10, 9)])
def test_matrix_tags_without_a_meaning_are_taken_for_none(pixel_format: str, tag: int, meant: int) -> None:
    frames = []
    for matrix in (tag, meant):
        image = av.VideoFrame.from_ndarray(np.full((64, 96, 3), (40, 90, 200), np.uint8), format="bgr24")
        frames.append(image.reformat(format=pixel_format, dst_colorspace=meant))
        frames[-1].colorspace = matrix
    np.testing.assert_array_equal(to_bgr(frames[0]), to_bgr(frames[1]))
    planar = planar_picture(frames[0])
    assert (planar is not None) == (pixel_format == "yuv420p")
    assert planar is None or planar.matrix == meant


def test_a_matrix_that_cannot_be_undone_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.colorspace = 14
        frame = av.VideoFrame(96, 64, "yuv420p")
        frame.colorspace = 14
        container.mux([*stream.encode(frame), *stream.encode(None)])
    for read in (read_frames, read_pictures):
        with pytest.raises(InputError, match=r"clip\.mkv are stored as ICtCp, which cannot be read here"):
            list(read(path))


def test_a_still_image_is_one_frame(tmp_path: Path) -> None:
    import cv2

    from ..media_samples import numbered_image

    path = tmp_path / "still.png"
    cv2.imwrite(str(path), numbered_image(77))
    frames = list(read_frames(path))
    assert [(frame.index, frame.time, frame_number(frame.image)) for frame in frames] == [(0, 0, 77)]
    assert first_frame_time(path) == 0


def place(stamps: list[Fraction | None]) -> list[Fraction]:
    timeline = _Timeline(Fraction(25))
    return [timeline.place(stamp) for stamp in stamps]


def test_times_start_at_the_first_stamp() -> None:
    assert place([Fraction(3), Fraction(76, 25)]) == [0, Fraction(1, 25)]


def test_missing_stamps_are_put_one_step_on() -> None:
    assert place([Fraction(1), None, Fraction(27, 25)]) == [0, Fraction(1, 25), Fraction(2, 25)]
    assert place([None, None, None]) == [0, Fraction(1, 25), Fraction(2, 25)]


def test_doubled_stamps_increase_and_leave_later_frames_alone() -> None:
    times = place([Fraction(0), Fraction(1, 25), Fraction(1, 25), Fraction(2, 25), Fraction(3, 25)])
    assert times == [0, Fraction(1, 25), Fraction(3, 50), Fraction(2, 25), Fraction(3, 25)]


def test_a_clock_that_jumps_far_ahead_goes_on() -> None:
    assert place([Fraction(0), Fraction(500), Fraction(10_000)]) == [0, 500, 500 + Fraction(1, 25)]


def test_tags_of_another_encoding_do_not_matter(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_frames=3)
    data = clip.read_bytes()
    assert data.count(b"VideoHandler") == 1
    clip.write_bytes(data.replace(b"VideoHandler", b"Vid\xe9oHandler"))
    assert numbers_and_times(clip)[0] == [0, 1, 2]


def test_a_restarted_clock_goes_on() -> None:
    times = place([Fraction(0), Fraction(100), Fraction(0), Fraction(1, 25)])
    assert times == [0, 100, 100 + Fraction(1, 25), 100 + Fraction(2, 25)]
    assert all(a < b for a, b in pairwise(times))


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("s.wav", "pcm_s16le", 16_000, "mono"),
        ("s.wav", "pcm_s24le", 44_100, "stereo"),
        ("s.wav", "pcm_f32le", 48_000, "stereo"),
        ("s.wav", "pcm_u8", 8_000, "mono"),
        ("s.flac", "flac", 96_000, "5.1"),
        ("s.m4a", "aac", 44_100, "stereo"),
        ("s.mp3", "libmp3lame", 22_050, "stereo"),
        ("s.opus", "libopus", 48_000, "stereo"),
    ],
)
def test_any_sound_becomes_sixteen_kilohertz_mono_with_its_tail(
    tmp_path: Path, name: str, codec: str, rate: int, layout: str
) -> None:
    sound = make_sound(
        tmp_path / name, 2.03, sound_codec=codec, sound_rate=rate, sound_layout=layout
    )  # the third beep is cut by the end: a lost tail would lose it
    samples = read_samples(sound)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - round(2.03 * 16_000)) <= 1
    assert beep_times(samples) == pytest.approx([0, 1, 2], abs=0.002)
    # A tone in all channels keeps its level (0.5 in one or two; a 5.1 mix is normalised).
    if layout != "5.1":
        assert np.abs(samples).max() == pytest.approx(0.5, abs=0.05)


def test_sixteen_kilohertz_mono_wav_comes_back_exactly(tmp_path: Path) -> None:
    sound = make_sound(tmp_path / "s.wav", 1.0, sound_codec="pcm_s16le", sound_rate=16_000)
    expected = np.clip(np.rint(beeping_samples(1.0, 16_000) * 32768), -32768, 32767) / 32768
    np.testing.assert_array_equal(read_samples(sound), expected.astype(np.float32))


def two_channels(path: Path, codec: str, first: np.ndarray, second: np.ndarray, rate: int = 44_100) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        data = np.stack([first, second], 1).astype(np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(data, format="flt", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=rate)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("s.wav", "pcm_u8"),
        ("s.wav", "pcm_s16le"),
        ("s.wav", "pcm_f32le"),
        ("s.flac", "flac"),
        ("s.m4a", "aac"),
    ],
)
@pytest.mark.parametrize("second", [-1.0, -0.95])
def test_channels_that_cancel_each_other_are_heard_by_the_first(
    tmp_path: Path, name: str, codec: str, second: float
) -> None:
    speech = 0.5 * np.sin(np.arange(2 * 44_100) * (2 * np.pi * 300 / 44_100))
    found = read_samples(two_channels(tmp_path / name, codec, speech, second * speech))
    wanted = 0.5 * np.sin(np.arange(2 * 16_000) * (2 * np.pi * 300 / 16_000))
    assert len(found) == pytest.approx(len(wanted), abs=2)
    np.testing.assert_allclose(found[800:30_000], wanted[800:30_000], atol=0.05)


def test_channels_that_do_not_cancel_are_mixed(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(0, 0.05, (2, 44_100))
    for second in (other, one, 0 * one, -0.6 * one):  # what is left of the last is a fifth in amplitude
        found = read_samples(two_channels(tmp_path / "s.wav", "pcm_s16le", one, second))
        mixed = two_channels(tmp_path / "m.wav", "pcm_s16le", (one + second) / 2, (one + second) / 2)
        np.testing.assert_allclose(found, read_samples(mixed), atol=2 / 32768)


def test_channels_that_cancel_each_other_for_a_while(tmp_path: Path) -> None:
    speech = np.random.default_rng(0).normal(0, 0.05, 12 * 44_100)
    sign = np.where(np.arange(len(speech)) < 6 * 44_100, 1, -1)
    found = read_samples(two_channels(tmp_path / "s.wav", "pcm_s16le", speech, speech * sign))
    alone = read_samples(two_channels(tmp_path / "m.wav", "pcm_s16le", speech, speech))
    assert len(found) == len(alone)
    for start in (0, 10):  # by four seconds after the change it is noticed
        piece = slice(start * 16_000, start * 16_000 + 16_000)
        np.testing.assert_allclose(found[piece], alone[piece], atol=2 / 32768)


def test_blocks_are_the_whole_sound_in_order(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", sound_seconds=3.3, sound_rate=44_100)
    blocks = list(read_sample_blocks(clip))
    assert len(blocks) > 10
    np.testing.assert_array_equal(np.concatenate(blocks), read_samples(clip))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_sound_that_starts_late_is_lined_up_with_the_picture(tmp_path: Path, suffix: str) -> None:
    clip = make_clip(
        tmp_path / f"clip.{suffix}", sound_seconds=2.5, sound_start=Fraction(3, 10), sound_first=True
    )
    samples = read_samples(clip, origin=first_frame_time(clip))
    assert beep_times(samples) == pytest.approx([0.3, 1.3, 2.3], abs=0.003)


def test_sound_that_starts_long_before_the_picture_is_trimmed(tmp_path: Path) -> None:
    times = [2 + Fraction(i, 25) for i in range(25)]
    clip = make_clip(tmp_path / "clip.mkv", num_frames=25, times=times, sound_seconds=4.5)
    assert numbers_and_times(clip)[1] == [Fraction(i, 25) for i in range(25)]
    samples = read_samples(clip, origin=first_frame_time(clip))
    assert len(samples) == pytest.approx(2.5 * 16_000, abs=500)
    assert beep_times(samples) == pytest.approx([0, 1, 2], abs=0.003)


def test_an_origin_after_the_start_trims(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", sound_seconds=2.5)
    origin = first_frame_time(clip) + Fraction(1, 2)
    assert beep_times(read_samples(clip, origin=origin)) == pytest.approx([0.5, 1.5], abs=0.002)


def test_holes_in_the_sound_are_filled_with_silence(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mkv", sound_seconds=3.5, sound_codec="pcm_s16le")
    holed = make_clip(
        tmp_path / "holed.mkv", sound_seconds=3.5, sound_codec="pcm_s16le", sound_hole=(0.9, 1.5)
    )
    samples = read_samples(holed)
    assert abs(len(samples) - len(read_samples(whole))) <= 16  # Matroska counts milliseconds
    assert beep_times(samples) == pytest.approx([0, 2, 3], abs=0.002)
    assert np.abs(samples[15_000:23_000]).max() < 1e-3


def test_joined_recordings_with_a_restarted_clock_are_heard_to_the_end(tmp_path: Path) -> None:
    part = make_sound(tmp_path / "part.ts", 2.0, sound_codec="mp2").read_bytes()
    joined = tmp_path / "joined.ts"
    joined.write_bytes(part + part)
    assert len(beep_times(read_samples(joined))) == 4


def test_frames_of_a_longer_video_are_given_while_it_is_read(tmp_path: Path) -> None:
    frames = read_frames(make_clip(tmp_path / "clip.mp4", num_frames=200))
    first = next(frames)
    first.image[:] = 0  # the caller's own
    assert frame_number(next(frames).image) == 1
    frames.close()


def test_frames_are_freed_without_waiting_for_garbage_collection(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_frames=100)
    gc.collect()
    gc.disable()
    try:
        alive = [weakref.ref(frame.image) for frame in read_frames(clip)]
        held = [obj for obj in gc.get_objects() if isinstance(obj, av.VideoFrame)]
    finally:
        gc.enable()
    assert len(alive) == 100
    assert len(held) <= 1  # the first one, whose side data tell how it is turned


def video(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.mp4", num_frames=100, sound_seconds=4.0, options={"g": "10"})


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file .*nothing\.mp4"):
        next(read_frames(tmp_path / "nothing.mp4"))


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        next(read_frames(tmp_path))
    with pytest.raises(InputError, match="is a folder"):
        read_samples(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="is not a regular file"):
        next(read_frames(tmp_path / "pipe.mp4"))


@pytest.mark.parametrize(
    "name", ["a:b.mp4", "100%03d.mp4", "-i.mp4", "Ünïcode and space?#.mp4", "http:x.mp4"]
)
def test_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make_clip(tmp_path / "plain.mp4", num_frames=2).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers_and_times(Path(name))[0] == [0, 1]


@pytest.mark.parametrize("sound_seconds", [None, 1.0])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_video_without_frames(tmp_path: Path, suffix: str, sound_seconds: float | None) -> None:
    clip = make_clip(tmp_path / f"clip.{suffix}", num_frames=-1, sound_seconds=sound_seconds)
    with pytest.raises(InputError, match=r"has no frames|holds no data"):
        list(read_frames(clip))
    with pytest.raises(InputError, match=r"has no frames|holds no data"):
        first_frame_time(clip)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    with pytest.raises(InputError, match="is empty"):
        next(read_frames(path))


@pytest.mark.parametrize("name", ["words.mp4", "words.txt", "words.wav", "words.m3u8"])
@pytest.mark.parametrize("text", ["Good morning.\n" * 200, "#EXTM3U\n#EXT-X-VERSION:3\n/etc/passwd\n"])
def test_text_renamed(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match="is not a video, sound or image"):
        next(read_frames(path))
    with pytest.raises(InputError, match="is not a video, sound or image"):
        read_samples(path)


def test_random_bytes_end_in_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "noise.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(200_000))
    with pytest.raises(InputError):
        list(read_frames(path))


def test_sound_where_a_picture_is_wanted(tmp_path: Path) -> None:
    sound = make_sound(tmp_path / "s.wav", 1.0, sound_codec="pcm_s16le")
    with pytest.raises(InputError, match="has no frames, only sound"):
        next(read_frames(sound))
    with pytest.raises(InputError, match="has no frames, only sound"):
        first_frame_time(sound)


def test_a_silent_video_where_sound_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no sound"):
        read_samples(make_clip(tmp_path / "clip.mp4", num_frames=3))


def test_sound_without_samples(tmp_path: Path) -> None:
    sound = make_sound(tmp_path / "s.wav", 0.0, sound_codec="pcm_s16le")
    with pytest.raises(InputError, match="has no samples"):
        read_samples(sound)


def test_an_mp4_without_its_index(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its index \(moov\) is missing"):
        list(read_frames(truncate(video(tmp_path), 0.5)))


@pytest.mark.parametrize("options", [{"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"}])
def test_an_mp4_whose_data_end_early(tmp_path: Path, options: dict[str, str]) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_frames=100, sound_seconds=4.0, options={"g": "10", **options})
    truncate(clip, 0.6)
    if "faststart" in options["movflags"]:
        with pytest.raises(InputError, match=r"is cut short: its data ends at [0-3]\.\d\d s"):
            next(read_frames(clip))
        with pytest.raises(InputError, match=r"is cut short: its data ends at [0-3]\.\d\d s"):
            read_samples(clip)
    else:  # a fragmented file is meant to be usable as far as it goes
        numbers = [frame_number(frame.image) for frame in read_frames(clip)]
        assert numbers == list(range(len(numbers)))
        assert 30 < len(numbers) < 100


def test_a_matroska_file_whose_data_end_early(tmp_path: Path) -> None:
    clip = truncate(make_clip(tmp_path / "clip.mkv", num_frames=100, sound_seconds=4.0), 0.5)
    with pytest.raises(InputError, match=r"is cut short: its data ends at [12]\.\d\d s"):
        list(read_frames(clip))


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_clock_that_begins_late_is_no_missing_end(tmp_path: Path, suffix: str) -> None:
    start = Fraction(20)  # as where a part was cut out of a longer recording
    times = [start + Fraction(number, 25) for number in range(50)]
    clip = make_clip(tmp_path / f"clip.{suffix}", times=times, sound_seconds=2.0, sound_start=start)
    numbers, found = numbers_and_times(clip)
    assert numbers == list(range(50))
    assert found == [time - start for time in times]
    assert len(read_samples(clip)) == pytest.approx(32_000, abs=400)


def test_sound_that_appears_on_the_way_does_not_matter(tmp_path: Path) -> None:
    silent = make_clip(tmp_path / "silent.ts", num_frames=150, codec="mpeg2video").read_bytes()
    sounding = make_clip(
        tmp_path / "sound.ts", num_frames=25, codec="mpeg2video", sound_seconds=1.0, sound_codec="mp2"
    )
    filling = bytes([0x47, 0x1F, 0xFF, 0x10]) + b"\xff" * 184  # of which FFmpeg looks through five megabytes
    television = tmp_path / "television.ts"
    television.write_bytes(silent + filling * 30_000 + sounding.read_bytes() + filling * 3000 + silent)
    assert probe(television).audio is None
    assert len(list(read_frames(television))) == 150 + 25 + 150


def test_subtitles_may_outlast_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "subtitled.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        words = container.add_mux_stream("subrip")
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(numbered_image(number, 64, 48), format="bgr24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        packet = av.Packet(b"The end")
        packet.stream, packet.time_base = words, Fraction(1, 1000)
        packet.pts = packet.dts = 1000
        packet.duration = 20_000
        container.mux(packet)
    assert probe(path).duration == 21
    assert len(list(read_frames(path))) == 50


def test_ffmpeg_is_silent_on_bad_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = video(tmp_path)
    data = bytearray(clip.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 400] = bytes(400)
    clip.write_bytes(data)
    numbers = len(list(read_frames(clip)))
    assert 90 < numbers <= 100
    with pytest.raises(InputError):
        list(read_frames(truncate(clip, 0.2)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name",
    [
        "grid/grid_s30_bbac3n.mpg",
        "promo/wth_ariana_70ed.flv",
        "other/hdtf_rd_radio10_2s.mp4",
        "anchors/ar_06594.mp4",
        "usgov/us_aoc_wda_8s.mp4",
    ],
)
def test_real_clips(shared_clips: Path, name: str) -> None:
    clip = shared_clips / name
    video = probe(clip).video
    assert video is not None
    times = [frame.time for frame in read_frames(clip)]
    assert all(a < b for a, b in pairwise(times))
    assert len(times) == (video.num_frames or round((times[-1] + 1 / video.rate) * video.rate))
    samples = read_samples(clip, origin=first_frame_time(clip))
    assert abs(len(samples) / 16_000 - float(times[-1] + 1 / video.rate)) < 0.1
