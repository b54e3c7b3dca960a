"""Tracks kept beside a video: read back as written, and never believed when something does not fit."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lipsmith.timeline import FrameTimes
from lipsmith.track_file import KeptTrack, UnusableTrackError, read_track, track_key, track_path, write_track

TRACK = KeptTrack(
    times=FrameTimes(Fraction(index * 1001, 30000) for index in range(5)),
    boxes=np.array([[1, 2, 3, 4]] * 3 + [[np.nan] * 4] * 2) + 0.1,
    shot_starts=[0, 3],
    frame_bytes=1234,
    has_others=True,
    until=Fraction(1, 3),
)


@pytest.mark.parametrize("until", [None, Fraction(1, 3)])
def test_it_is_read_back_as_it_was_written(tmp_path, until):
    path = track_path(tmp_path / "talk.mp4")
    assert path.name == "talk.mp4.lipsmith-track"
    assert read_track(path, "key") is None
    write_track(path, "key", replace(TRACK, until=until))
    back = read_track(path, "key")
    assert list(back.times) == list(TRACK.times)
    np.testing.assert_array_equal(back.boxes, TRACK.boxes)
    assert (back.shot_starts, back.frame_bytes, back.has_others, back.until) == ([0, 3], 1234, True, until)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # nothing hidden is left


def test_another_key_is_not_believed(tmp_path):
    write_track(tmp_path / "x", "key", TRACK)
    with pytest.raises(UnusableTrackError, match="another version of the video, or of other settings"):
        read_track(tmp_path / "x", "other")


def test_damage_of_any_byte_is_noticed(tmp_path):
    path = tmp_path / "x"
    write_track(path, "key", TRACK)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(UnusableTrackError, match="is damaged"):
            read_track(path, "key")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip file at all", None])
def test_what_is_no_track_is_damaged(tmp_path, content):
    path = tmp_path / "x"
    write_track(path, "key", TRACK)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(UnusableTrackError, match="is damaged"):
        read_track(path, "key")


@pytest.mark.parametrize(
    "wrong",
    [
        {"boxes": np.zeros((4, 4))},
        {"boxes": np.zeros((5, 4), np.float32)},
        {"times": FrameTimes([Fraction(0), Fraction(2), Fraction(1), Fraction(3), Fraction(4)])},
        {"times": FrameTimes(), "boxes": np.zeros((0, 4))},
    ],
)
def test_numbers_that_cannot_be_are_damage(tmp_path, wrong):
    write_track(tmp_path / "x", "key", replace(TRACK, **wrong))
    with pytest.raises(UnusableTrackError, match="is damaged"):
        read_track(tmp_path / "x", "key")


def test_the_key_knows_the_content_and_the_settings(tmp_path):
    video, copy = tmp_path / "a.mp4", tmp_path / "b.mp4"
    video.write_bytes(b"pixels")
    copy.write_bytes(b"pixels")
    key = track_key(video, {"face": 0})
    assert track_key(copy, {"face": 0}) == key
    assert track_key(video, {"face": 1}) != key
    video.write_bytes(b"others")
    assert track_key(video, {"face": 0}) != key


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_track(path, "key", TRACK)

    def fail(self, content):
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        write_track(path, "key", replace(TRACK, frame_bytes=1))
    assert read_track(path, "key").frame_bytes == 1234
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
