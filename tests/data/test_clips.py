"""Prepared clips come back as they were written, with exact times."""

import io
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from lipsmith.data.clips import (
    Clip,
    ClipRecord,
    clip_bytes,
    clip_from_bytes,
    digest_of,
    dropped_counts,
    encode_crop,
    load_clip,
    mel_slice,
    read_index,
    save_clip,
    stored_size,
    write_index,
)
from lipsmith.errors import DataError

RATE = Fraction(30_000, 1001)
RECORD = ClipRecord("c", "c.mp4", "ada", 4, 96, float(RATE), 90.0, 1.0)


def _clip(record: ClipRecord = RECORD) -> Clip:
    side = stored_size(record.face_size)
    crops = [encode_crop(np.full((side, side, 3), 40 * i, np.uint8)) for i in range(record.num_frames)]
    times = [Fraction(i) / RATE for i in range(record.num_frames)]
    mel = np.tile(np.arange(120, dtype=np.float32), (80, 1))
    return Clip(record, crops, times, mel, 0)


def test_round_trip(tmp_path):
    clip = _clip()
    save_clip(clip, tmp_path)
    write_index(tmp_path, [clip.record])
    (record,) = read_index(tmp_path)
    assert record == RECORD
    loaded = load_clip(record, tmp_path)
    assert loaded.times == clip.times  # fractions, not floats
    np.testing.assert_array_equal(loaded.mel, clip.mel)
    assert loaded.faces().shape == (4, 96, 96, 3)
    np.testing.assert_allclose(loaded.faces()[:, 48, 48, 0], [0, 40, 80, 120], atol=2)
    assert list((tmp_path / "clips").iterdir()) == [tmp_path / "clips" / "c.npz"]


def test_bytes_whose_digest_is_known_are_read_alike_and_damage_is_found() -> None:
    content = clip_bytes(_clip())
    whole = clip_from_bytes(RECORD, content)  # no digest: the npz's own check sums
    digested = replace(RECORD, digest=digest_of(content))
    for clip in (clip_from_bytes(digested, content), clip_from_bytes(digested, content, known=True)):
        assert [jpeg.tobytes() for jpeg in clip.jpegs] == [jpeg.tobytes() for jpeg in whole.jpegs]
        assert (clip.times, clip.mel_first) == (whole.times, whole.mel_first)
        np.testing.assert_array_equal(clip.mel, whole.mel)
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    for record in (RECORD, digested):
        with pytest.raises(DataError):
            clip_from_bytes(record, bytes(damaged))
    for part in (b"", content[:50], content[: len(content) // 2], content[100:]):
        with pytest.raises(DataError):
            clip_from_bytes(RECORD, part, known=True)
    file = io.BytesIO()
    np.savez_compressed(file, jpegs=np.zeros(9, np.uint8))
    with pytest.raises(DataError, match="compressed"):
        clip_from_bytes(RECORD, file.getvalue(), known=True)


def test_a_stored_crop_has_a_sixth_more_on_each_side():
    assert stored_size(96) == 128
    assert _clip().core == slice(16, 112)


def test_a_frame_hears_the_window_of_its_own_time():
    windows = _clip().windows()
    # Frame 3 of 29.97 a second: 0.1001 s, column 8.
    np.testing.assert_array_equal(windows[3, 0, 0], np.arange(8, 24))
    earlier = _clip().windows(lead_seconds=Fraction(1, 25))
    np.testing.assert_array_equal(earlier[3, 0, 0], np.arange(4, 20))


def test_a_measured_offset_moves_the_sound():
    late = _clip(replace(RECORD, offset_seconds=0.2))
    np.testing.assert_array_equal(late.windows()[0, 0, 0], np.arange(16, 32))


def test_the_kept_mel_reaches_half_a_second_around():
    mel = np.tile(np.arange(800, dtype=np.float32), (80, 1))
    part, first = mel_slice(mel, [Fraction(2), Fraction(3)])
    assert first == 160 - 40
    assert part[0, 0] == 120
    assert part[0, -1] == 240 + 80 - 1


def test_what_cannot_be_read_says_so(tmp_path):
    with pytest.raises(DataError, match=r"holds no index\.jsonl"):
        read_index(tmp_path)
    (tmp_path / "index.jsonl").write_text("")
    with pytest.raises(DataError, match="lists no clip"):
        read_index(tmp_path)
    path = save_clip(_clip(), tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="cannot be read"):
        load_clip(RECORD, tmp_path)


def test_a_damaged_crop_is_an_error_not_a_missing_frame():
    clip = _clip()
    clip.jpegs[2] = clip.jpegs[2][:10]
    with pytest.raises(DataError, match="damaged"):
        clip.faces()


def test_reasons_are_counted(tmp_path):
    (tmp_path / "dropped.jsonl").write_text(
        '{"reason": "no face"}\n{"reason": "no face"}\n{"reason": "silent"}\n'
    )
    assert dropped_counts(tmp_path) == {"no face": 2, "silent": 1}


def test_fields_of_later_versions_are_passed_over():
    line = RECORD.to_json().replace("{", '{"colour_of_the_hat": "red", ', 1)
    assert ClipRecord.from_json(line) == RECORD
