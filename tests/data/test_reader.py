"""Clips that cannot be read are skipped and counted; when they are the majority, it is an error."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lipsmith.data.clips import Clip, ClipRecord, encode_crop, save_clip, stored_size, write_index
from lipsmith.data.reader import MOST_SENTENCES, ClipSet
from lipsmith.data.samples import ClipSampler, DataSelection, load_split
from lipsmith.errors import DataError

SIDE = stored_size(96)
CROP = encode_crop(np.zeros((SIDE, SIDE, 3), np.uint8))


def _write(folder: Path, count: int, frames: int = 10) -> list[ClipRecord]:
    records = []
    for number in range(count):
        record = ClipRecord(
            f"c{number:02}", f"{number}.mp4", f"speaker {number % 3}", frames, 96, 25.0, 90.0, 1.0
        )
        times = [Fraction(i, 25) for i in range(frames)]
        mel = np.full((80, 4 * frames + 20), number / 100, np.float32)
        save_clip(Clip(record, [CROP] * frames, times, mel, 0), folder)
        records.append(record)
    write_index(folder, records)
    return records


def _damage(folder: Path, record: ClipRecord) -> None:
    path = folder / record.file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_damaged_and_missing_clips_are_passed_over_and_counted(tmp_path: Path) -> None:
    records = _write(tmp_path, 6)
    _damage(tmp_path, records[1])
    (tmp_path / records[4].file).unlink()
    clips = ClipSet(tmp_path, records)
    assert [clip.record.id for clip in clips] == ["c00", "c02", "c03", "c05"]
    assert (clips.skips.read, clips.skips.reasons) == (4, {"damaged": 1, "missing": 1})
    assert set(clips.skips.clips) == {"c01", "c04"}
    assert clips.get(1) is None
    assert clips.skips.reasons == {"damaged": 2, "missing": 1}  # each time that it is asked for
    with pytest.raises(DataError, match=r"c01 in .* cannot be read"):
        clips[1]


def test_a_crop_that_was_cut_off_is_found_when_the_clip_is_first_read(tmp_path: Path) -> None:
    (record,) = _write(tmp_path, 1)
    times = [Fraction(i, 25) for i in range(10)]
    crops = [CROP] * 7 + [CROP[:-20]] + [CROP] * 2
    save_clip(Clip(record, crops, times, np.zeros((80, 60), np.float32), 0), tmp_path)
    clips = ClipSet(tmp_path, [record])
    assert clips.get(0) is None
    assert "crop 7 is damaged" in clips.skips.clips["c00"]
    # A clip of another length than the index says is not the one that was prepared.
    longer = ClipSet(tmp_path, [replace(record, num_frames=11)])
    assert longer.get(0) is None
    assert "10 frames instead of 11" in longer.skips.clips["c00"]


def test_when_skips_are_the_majority_it_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    records = _write(tmp_path, 30)
    for record in records[:20]:
        _damage(tmp_path, record)
    clips = ClipSet(tmp_path, records)
    with pytest.raises(DataError, match=r"Most samples of .*: 10 skipped, 0 read \(damaged: 10\).*c00"):
        list(clips)
    sampler = ClipSampler(ClipSet(tmp_path, records))
    with pytest.raises(DataError, match="Most samples"):
        for step in range(1000):
            sampler.draw(np.random.default_rng(step), 4, 5)


def test_all_of_a_few_being_damaged_is_an_error_too(tmp_path: Path) -> None:
    records = _write(tmp_path, 3)
    for record in records:
        _damage(tmp_path, record)
    with pytest.raises(DataError, match="None of 3 clips"):
        ClipSet(tmp_path, records).readable()
    with pytest.raises(DataError, match="None of the training clips"):
        ClipSampler(ClipSet(tmp_path, records)).draw(np.random.default_rng(0), 2, 5)


def test_what_is_drawn_does_not_depend_on_what_was_found_damaged_before(tmp_path: Path) -> None:
    records = _write(tmp_path, 12)
    for record in records[::4]:
        _damage(tmp_path, record)

    def draw(sampler: ClipSampler, step: int) -> list[str]:
        return [clip.record.id for clip in sampler.draw(np.random.default_rng(step), 5, 5)]

    whole = ClipSampler(ClipSet(tmp_path, records))
    uninterrupted = [draw(whole, step) for step in range(20)]
    resumed = ClipSampler(ClipSet(tmp_path, records))
    assert [draw(resumed, step) for step in range(10, 20)] == uninterrupted[10:]
    assert whole.skipped["damaged"] > 3
    one_of_two = ClipSampler(ClipSet(tmp_path, records))
    for step, ids in enumerate(uninterrupted):
        some = one_of_two.draw(np.random.default_rng(step), 5, 5, range(1, 5, 2))
        assert [clip.record.id for clip in some] == ids[1::2]
    for ids in uninterrupted:
        assert len(set(ids)) == 5  # a substitute is none of the others
        assert not set(ids) & {"c00", "c04", "c08"}


def test_memory_is_bounded_and_what_comes_out_is_the_same(tmp_path: Path) -> None:
    records = _write(tmp_path, 8)
    clip = ClipSet(tmp_path, records)[0]
    size = sum(jpeg.nbytes for jpeg in clip.jpegs) + clip.mel.nbytes
    small = ClipSet(tmp_path, records, memory_bytes=3 * size)
    for _ in range(2):
        assert [float(clip.mel[0, 0]) for clip in small] == pytest.approx([i / 100 for i in range(8)])
    assert len(small._kept) == 3
    assert small[7] is small[7]
    assert ClipSet(tmp_path, records, memory_bytes=0).get(2) is not None


def test_held_out_clips_are_all_readable_and_training_ones_are_skipped_when_drawn(tmp_path: Path) -> None:
    records = _write(tmp_path, 9)
    _damage(tmp_path, records[0])  # speaker 0, held out
    _damage(tmp_path, records[1])  # speaker 1
    selection = DataSelection(validation=("speaker 0",))
    held_out = load_split(tmp_path, selection, "validation")
    assert [clip.record.id for clip in held_out[:]] == ["c03", "c06"]
    assert held_out.skips.reasons == {"damaged": 1}
    training = load_split(tmp_path, selection, "train")
    assert len(training) == 6
    assert training.skips.reasons == {}


def test_processes_that_train_together_share_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = _write(tmp_path, 8)
    size = sum(jpeg.nbytes for jpeg in [CROP] * 10) + 80 * 60 * 4  # of a clip in memory
    pages = {"SC_AVPHYS_PAGES": 4 * 8 * size, "SC_PAGE_SIZE": 1}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)

    def num_kept() -> int:
        """How many of eight clips are read once only, however often they are asked for."""
        clips = ClipSet(tmp_path, records)
        for number in range(8):
            clips.get(number)
        return len(clips._kept)

    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert num_kept() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert num_kept() == 2


def test_a_split_without_clips_says_where_all_went(tmp_path: Path) -> None:
    records = _write(tmp_path, 5)
    records = [replace(record, use="open") for record in records]
    records[0] = replace(records[0], excluded="not sharp")
    records[1] = replace(records[1], use="unknown")
    write_index(tmp_path, records)
    selection = DataSelection(uses=("open", "research"), leave_out=("3.mp4",), validation=("somebody",))
    with pytest.raises(DataError) as raised:
        load_split(tmp_path, selection, "validation")
    assert (
        "belongs to the validation split: 1 were left out by the doctor; 1 have the use 'unknown', which is not among "
        "data.uses (open, research); 2 belong to train; 1 are named in data.leave_out. The speakers are speaker 0, "
        "speaker 1, speaker 2. "
    ) in str(raised.value)


def test_many_damaged_clips_are_all_counted_and_a_few_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = _write(tmp_path, 30)
    for record in records[15:]:
        (tmp_path / record.file).unlink()
    clips = ClipSet(tmp_path, records)
    assert len(list(clips)) == 15
    assert clips.skips.reasons == {"missing": 15}
    assert len(caplog.messages) == MOST_SENTENCES + 1
    assert caplog.messages[-1] == "Further clips that cannot be read are only counted."
