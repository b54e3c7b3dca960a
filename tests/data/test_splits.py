"""Speakers are held out whole, by a seed, where neither recipe nor lists name them."""

from dataclasses import replace

import pytest

from lipsmith.data.clips import ClipRecord
from lipsmith.data.samples import DataSelection
from lipsmith.data.splits import hold_out_speakers
from lipsmith.errors import DataError

RECORD = ClipRecord("c", "c.mp4", "s", 100, 96, 25.0, 90.0, 1.0)


def _records(num_speakers: int, clips: int = 3) -> list[ClipRecord]:
    return [
        replace(RECORD, id=f"{speaker}-{clip}", speaker=f"s{speaker}")
        for speaker in range(num_speakers)
        for clip in range(clips)
    ]


def test_a_tenth_of_the_speakers_each_and_nobody_twice() -> None:
    validation, test = hold_out_speakers(_records(40))
    assert (len(validation), len(test)) == (4, 4)
    assert not set(validation) & set(test)
    assert (validation, test) == hold_out_speakers(_records(40)[::-1])
    assert (validation, test) != hold_out_speakers(_records(40), seed=1)
    assert [tuple(map(len, hold_out_speakers(_records(count)))) for count in (2, 3, 9)] == [
        (1, 0),
        (1, 1),
        (1, 1),
    ]


def test_more_people_move_few() -> None:
    before = hold_out_speakers(_records(40))[0]
    after = hold_out_speakers(_records(41))[0]
    assert len(set(before) & set(after)) >= 3


def test_crowds_and_who_speaks_most_are_for_training() -> None:
    records = [*_records(8), *(replace(RECORD, id=f"m{i}", speaker="most") for i in range(20))]
    records += [replace(RECORD, id=f"u{i}", speaker="unlabelled") for i in range(3)]
    for seed in range(30):
        validation, test = hold_out_speakers(records, seed=seed, never=("unlabelled",))
        assert not {"most", "unlabelled"} & {*validation, *test}
    with pytest.raises(DataError, match="1 speaker"):
        hold_out_speakers(_records(1))
    with pytest.raises(DataError, match="Nobody can be held out"):
        hold_out_speakers(_records(2), never=("s0", "s1"))


def test_a_selection_takes_names_first_then_lists_then_the_seed() -> None:
    records = _records(10)
    by_seed = DataSelection()
    parts = {name: by_seed.records(records, name) for name in ("train", "validation", "test")}
    assert {name: len({r.speaker for r in part}) for name, part in parts.items()} == {
        "train": 8,
        "validation": 1,
        "test": 1,
    }
    assert sum(map(len, parts.values())) == 30
    listed = [replace(r, split="test" if r.speaker == "s3" else "train") for r in records]
    listed[0] = replace(listed[0], split="validation")
    assert {r.speaker for r in by_seed.records(listed, "test")} == {"s3"}
    assert [r.id for r in by_seed.records(listed, "validation")] == ["0-0"]
    named = DataSelection(validation=("s1",))
    assert {r.speaker for r in named.records(listed, "validation")} == {"s1"}
    # What the footage's own lists keep for the test is not trained on because somebody else is named for validation.
    assert {r.speaker for r in named.records(listed, "test")} == {"s3"}
    assert "s3" not in {r.speaker for r in named.records(listed, "train")}
    both = DataSelection(validation=("s1",), test=("s2",))
    assert {r.speaker for r in both.records(listed, "test")} == {"s2"}
    assert DataSelection(hold_out=0).records(records, "train") == sorted(records, key=lambda r: r.id)


def test_what_the_doctor_excluded_is_in_no_split() -> None:
    records = [replace(r, excluded="out of sync" if r.id == "1-1" else "") for r in _records(4)]
    selection = DataSelection()
    used = [r.id for name in ("train", "validation", "test") for r in selection.records(records, name)]
    assert len(used) == 11 and "1-1" not in used
