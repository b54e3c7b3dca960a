"""What a training step is shown, on clips whose pixels and sound say where they come from."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lipsmith.data.augment import FaceAugmentation, SoundAugmentation, centre_motion, move_crop, upper_shift
from lipsmith.data.clips import Clip, ClipRecord, encode_crop, save_clip, stored_size
from lipsmith.data.reader import ClipSet
from lipsmith.data.samples import (
    ClipSampler,
    DataSelection,
    _pair_frames,
    expert_batch,
    generator_batch,
    whole_clip,
)
from lipsmith.errors import DataError

STILL = FaceAugmentation(flip=0, shift=0, scale=0, rotate=0, colour=0, blur=0, noise=0, grey=0)
HEARD_AS_IT_IS = SoundAugmentation(gain=0, tilt=0, noise_floor=0, band_drop=0)
SIDE = stored_size(96)


def _clip(name: str, num_frames: int = 60, speaker: str = "ada", level: int = 0) -> Clip:
    """Frame i is grey 2 · i + `level`; mel column c holds c / 1000 − 1, which is speech."""
    record = ClipRecord(name, f"{name}.mp4", speaker, num_frames, 96, 25.0, 90.0, 1.0)
    crops = [encode_crop(np.full((SIDE, SIDE, 3), 2 * i + level, np.uint8)) for i in range(num_frames)]
    times = [Fraction(i, 25) for i in range(num_frames)]
    mel = np.tile(np.arange(num_frames * 4 + 20, dtype=np.float32) / 1000 - 1, (80, 1))
    return Clip(record, crops, times, mel, 0)


def _frame_of(face: np.ndarray) -> int:
    return round(float(face.mean()) * 255 / 2)


def _column_of(window: np.ndarray) -> int:
    return round((float(window[0, 0, 0]) + 1) * 1000)


def test_each_expert_window_comes_with_its_own_sound():
    batch = expert_batch(
        ClipSampler([_clip("a")]),
        np.random.default_rng(0),
        num_clips=3,
        num_frames=12,
        faces=STILL,
        sound=HEARD_AS_IT_IS,
    )
    assert batch.lower_halves.shape == (3, 12, 3, 48, 96)
    assert batch.windows.shape == (3, 8, 1, 80, 16)
    for row in range(3):
        first = _frame_of(batch.lower_halves[row, 0])
        for i in range(8):
            assert _frame_of(batch.lower_halves[row, i]) == first + i
            assert _column_of(batch.windows[row, i]) == (first + i) * 80 // 25


@pytest.mark.parametrize(("t_v", "earlier"), [(1, 2), (3, 1), (5, 0)])
def test_the_sound_of_a_window_lies_in_the_middle_of_its_frames(t_v: int, earlier: int):
    batch = expert_batch(
        ClipSampler([_clip("a")]),
        np.random.default_rng(0),
        num_clips=3,
        num_frames=12,
        faces=STILL,
        sound=HEARD_AS_IT_IS,
        window_frames=t_v,
    )
    assert batch.windows.shape == (3, 13 - t_v, 1, 80, 16) and batch.in_sync.all()
    for row in range(3):
        first = _frame_of(batch.lower_halves[row, 0])
        assert first >= 2  # the clip's own beginning is silence and says nothing
        for i in range(13 - t_v):
            assert _column_of(batch.windows[row, i]) == (first + i - earlier) * 80 // 25
    faces, windows = whole_clip(_clip("a"), 20, t_v)
    assert [_frame_of(face) for face in faces[:2]] == [20, 21]
    assert [_column_of(window) for window in windows] == [
        (20 + i - earlier) * 80 // 25 for i in range(21 - t_v)
    ]


def test_off_sync_windows_hear_another_moment_of_the_clip_far_enough_away():
    batch = expert_batch(
        ClipSampler([_clip("a")]),
        np.random.default_rng(0),
        num_clips=40,
        num_frames=9,
        faces=STILL,
        sound=HEARD_AS_IT_IS,
        off_sync_share=0.5,
        least_shift=4,
    )
    shifts = []
    moment_of = {frame * 80 // 25: frame for frame in range(56)}
    for row in range(40):
        first = _frame_of(batch.lower_halves[row, 0])
        for i in range(5):
            shift = moment_of[_column_of(batch.windows[row, i])] - (first + i)
            assert (shift == 0) == batch.in_sync[row, i]
            shifts.append(shift)
    off = [shift for shift in shifts if shift]
    assert 0.4 < len(off) / len(shifts) < 0.6
    assert min(map(abs, off)) == 4 and max(map(abs, off)) > 35  # the whole clip, not the stretch alone


def test_a_clip_too_short_for_another_moment_stays_in_sync():
    batch = expert_batch(
        ClipSampler([_clip("a", num_frames=8)]),
        np.random.default_rng(0),
        num_clips=4,
        num_frames=8,
        faces=STILL,
        sound=HEARD_AS_IT_IS,
        off_sync_share=1.0,
        least_shift=3,
    )
    # Four windows: the first has one sound three frames away, the last too, the two in the middle none.
    assert batch.in_sync.tolist() == [[False, True, True, False]] * 4


def _generator_batch(clips, *, foreign=0.0, silence=0.0, seed=0, count=8, reference="frame", window_frames=5):
    return generator_batch(
        ClipSampler(clips),
        np.random.default_rng(seed),
        num_clips=count,
        num_frames=7,
        lead_seconds=Fraction(1, 25),
        num_negatives=10,
        foreign_share=foreign,
        silence_share=silence,
        least_reference_distance=6,
        num_reference_candidates=4,
        reference=reference,
        faces=STILL,
        sound=HEARD_AS_IT_IS,
        window_frames=window_frames,
    )


def test_an_expert_of_one_frame_hears_a_window_for_each_frame_of_the_stretch():
    batch = _generator_batch([_clip("a"), _clip("b")], window_frames=1)
    for row in range(8):
        first = _frame_of(batch.targets[row, 0])
        own = [_column_of(window) for window in batch.sync_windows[row, :, :, :, 8:]]
        assert own[:7] == [(first + i - 2) * 80 // 25 + 8 for i in range(7)]
        allowed = [i for i in range(60) if i < first - 1 or i > first + 7]
        assert set(own[7:]) <= {(i - 2) * 80 // 25 + 8 for i in allowed}


def test_references_keep_their_distance_and_sounds_their_time():
    batch = _generator_batch([_clip("a"), _clip("b")])
    assert not batch.foreign.any()
    for row in range(8):
        first = _frame_of(batch.targets[row, 0])
        reference = _frame_of(batch.references[row, 0])
        assert abs(reference - first) >= 6
        assert [_frame_of(face) for face in batch.references[row]] == [*range(reference, reference + 7)]
        for i in range(7):
            heard = batch.frame_windows[row, i, 0, 0, 4]  # column 4 of a window that starts one frame earlier
            assert heard == pytest.approx(((first + i - 1) * 80 // 25 + 4) / 1000 - 1, abs=1e-4)
        own = [_column_of(window) for window in batch.sync_windows[row]]
        assert own[:3] == [(first + i) * 80 // 25 for i in range(3)]
        allowed = [i for i in range(60) if i < first - 1 or i >= first + 4]
        assert set(own[3:]) <= {i * 80 // 25 for i in allowed}


def test_foreign_rows_show_the_target_itself_and_another_clip_speaks():
    other = _clip("b", level=1)
    other.mel[:] = 2.0
    clip = _clip("a")
    batch = _generator_batch([clip, other], foreign=1.0, count=2)
    assert batch.foreign.all()
    np.testing.assert_array_equal(batch.targets, batch.references)
    spoken_by_b = [bool((windows[..., 4:] == 2.0).all()) for windows in batch.sync_windows]
    faces_of_a = [round(float(face.mean()) * 255) % 2 == 0 for face in batch.targets[:, 0]]
    assert spoken_by_b == faces_of_a  # each face hears the other's clip


def test_a_clip_is_no_foreign_speech_to_itself_even_where_memory_holds_none(tmp_path: Path):
    clips = [_clip("a"), _clip("b", level=1)]
    for clip in clips:
        save_clip(clip, tmp_path)
    records = [clip.record for clip in clips]
    kept, read_each_time = (
        _generator_batch(ClipSet(tmp_path, records, memory_bytes=size), foreign=1.0) for size in (1 << 30, 0)
    )
    assert 0 < kept.foreign.sum() < 8
    np.testing.assert_array_equal(read_each_time.foreign, kept.foreign)
    np.testing.assert_array_equal(read_each_time.sync_windows, kept.sync_windows)


def test_steady_references_are_one_other_frame_and_the_targets_surroundings():
    batch = _generator_batch([_clip("a"), _clip("b")], foreign=0.5, reference="steady")
    assert 0 < batch.foreign.sum() < 8
    middle = (slice(None), slice(70, 80), slice(40, 56))
    for row in range(8):
        first = _frame_of(batch.targets[row, 0])
        for target, reference in zip(batch.targets[row], batch.references[row], strict=True):
            np.testing.assert_array_equal(reference[:, :48], target[:, :48])
            # Flat pictures have no contrast; recoloured by their upper halves they are the target.
            np.testing.assert_allclose(reference[middle], target[middle], atol=1.01 / 255)
        assert _frame_of(batch.targets[row, 6]) == first + 6


def _speaking_clip(num_frames: int = 60) -> Clip:
    """Frame i is grey 60 + i; its mouth is the more open, the greater i modulo 20."""
    record = ClipRecord("a", "a.mp4", "ada", num_frames, 96, 25.0, 90.0, 1.0)
    edge = (SIDE - 96) // 2
    crops = []
    for i in range(num_frames):
        face = np.full((SIDE, SIDE, 3), 60 + i, np.uint8)
        face[edge + 62 : edge + 70, edge + 36 : edge + 60] += np.uint8(3 * (i % 20))
        crops.append(encode_crop(face))
    times = [Fraction(i, 25) for i in range(num_frames)]
    return Clip(record, crops, times, np.zeros((80, num_frames * 4 + 20), np.float32), 0)


def test_pairs_are_a_mouth_at_rest_and_an_open_one_away_from_the_stretch():
    clip, kinds = _speaking_clip(), {"pair": 0, "same": 0, "any": 0}
    for seed in range(40):
        at_rest, opened = _pair_frames(np.random.default_rng(seed), clip, 20, 8, 6)
        for frame in (at_rest, opened):
            assert frame <= 14 or frame >= 33
        if at_rest == opened:
            kinds["same"] += 1
        elif opened % 20 > 12 and at_rest % 20 < 9:
            kinds["pair"] += 1
        else:
            kinds["any"] += 1
    assert kinds["same"] >= 2 and kinds["any"] >= 1 and kinds["pair"] >= 22
    batch = _generator_batch([clip, _speaking_clip()], reference="pair", foreign=0.5)
    assert batch.references.shape == (8, 7, 6, 96, 96)
    for shown in (batch.references[:, :, :3], batch.references[:, :, 3:]):
        np.testing.assert_array_equal(shown[..., :48, :], batch.targets[..., :48, :])


def test_a_pair_of_a_clip_that_is_just_long_enough_is_its_farther_end():
    assert _pair_frames(np.random.default_rng(0), _speaking_clip(12), 1, 7, 6) == (11, 11)


def test_pauses_are_shown_with_a_reference_that_speaks_and_heard_as_silence():
    clip = _clip("a")
    clip.mel[:, :100] = -3.9  # room noise for 1.25 s: with the hangover, frames 0 to 22 hear no speech
    batch = _generator_batch([clip], silence=1.0, count=4)
    for row in range(4):
        assert _frame_of(batch.targets[row, 6]) <= 22
        assert _frame_of(batch.references[row, 3]) > 22
        assert (batch.frame_windows[row] == -4).all()
    assert not (batch.sync_windows[:, 0] == -4).all()  # the expert hears the room


def test_a_batch_depends_on_the_seed_alone():
    clips = [_clip("a"), _clip("b")]
    first, again, other = (_generator_batch(clips, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.targets, again.targets)
    np.testing.assert_array_equal(first.sync_windows, again.sync_windows)
    assert not np.array_equal(first.targets, other.targets)


def test_much_footage_of_one_speaker_counts_by_its_root():
    clips = [_clip(f"a{i}") for i in range(9)] + [_clip("b", speaker="grace")]
    sampler = ClipSampler(clips)
    drawn = [sampler.draw(np.random.default_rng(i), 1, 10)[0].record.speaker for i in range(2000)]
    assert drawn.count("grace") / 2000 == pytest.approx(1 / 4, abs=0.04)  # √1 of √1 + √9


def test_a_crowd_counts_as_many_people():
    clips = [_clip(f"a{i}", speaker="crowd") for i in range(9)] + [_clip("b", speaker="grace")]
    sampler = ClipSampler(clips, (("crowd", 9),))
    drawn = [sampler.draw(np.random.default_rng(i), 1, 10)[0].record.speaker for i in range(2000)]
    assert drawn.count("grace") / 2000 == pytest.approx(1 / 10, abs=0.03)


def test_too_short_clips_are_said_so():
    with pytest.raises(DataError, match="100 frames"):
        ClipSampler([_clip("a")]).draw(np.random.default_rng(0), 1, 100)


def test_people_are_held_out_by_name():
    selection = DataSelection(uses=("open",), leave_out=("doubtful",), validation=("ada",), test=("grace",))
    record = _clip("a").record

    def split(**changes):
        return selection.split_of(ClipRecord(**{**record.__dict__, "use": "open", **changes}))

    assert split() == "validation"
    assert split(speaker="grace") == "test"
    assert split(speaker="mary") == "train"
    assert split(speaker="mary", use="research") is None
    assert split(speaker="mary", source="doubtful/x.mp4") is None


def test_a_large_offset_drops_the_clip_and_an_unclear_one_is_not_corrected():
    selection = DataSelection(max_offset_seconds=0.3, min_offset_confidence=0.2)
    record = _clip("a").record

    def corrected(offset, confidence):
        return selection.corrected(
            ClipRecord(**{**record.__dict__, "offset_seconds": offset, "offset_confidence": confidence})
        )

    assert corrected(0.12, 0.5).offset_seconds == 0.12
    assert corrected(0.6, 0.5) is None
    assert corrected(0.6, 0.1).offset_seconds == 0
    assert corrected(0.12, None).offset_seconds == 0


def test_the_centre_is_the_crop_of_inference():
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    np.testing.assert_array_equal(move_crop(image, centre_motion(SIDE, 96), 96), image[16:112, 16:112])


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-4, 5)])
def test_a_shifted_face_is_moved_back(shift):
    rng = np.random.default_rng(1)
    canvas = np.kron(rng.integers(0, 255, (40, 40, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    target = canvas[30 : 30 + SIDE, 30 : 30 + SIDE]
    # What lies at (30, 30) of the canvas lies at `shift` of the image: it must move back by it.
    image = canvas[30 - shift[1] : 30 - shift[1] + SIDE, 30 - shift[0] : 30 - shift[0] + SIDE]
    np.testing.assert_allclose(upper_shift(image, target), (-shift[0], -shift[1]), atol=0.4)


@pytest.mark.parametrize("rows", [[0, 2, 4], [1, 3], [4]])
def test_some_rows_of_a_batch_are_what_they_are_in_the_whole(rows):
    clips = [_clip(name) for name in "abcdef"]
    settings = {"num_frames": 8, "sound": SoundAugmentation()}
    faces = FaceAugmentation()

    def stretches(rows=None):
        return expert_batch(
            ClipSampler(clips),
            np.random.default_rng(3),
            num_clips=5,
            faces=faces,
            off_sync_share=0.5,
            rows=rows,
            **settings,
        )

    def faces_and_sounds(rows=None):
        return generator_batch(
            ClipSampler(clips),
            np.random.default_rng(3),
            num_clips=5,
            lead_seconds=Fraction(0),
            num_negatives=4,
            foreign_share=0.5,
            silence_share=0.5,
            least_reference_distance=6,
            num_reference_candidates=4,
            reference="frame",
            faces=faces,
            rows=rows,
            **settings,
        )

    for draw in (stretches, faces_and_sounds):
        whole, some = draw(), draw(rows)
        for name, values in whole.__dict__.items():
            np.testing.assert_array_equal(getattr(some, name), values[rows], err_msg=name)
