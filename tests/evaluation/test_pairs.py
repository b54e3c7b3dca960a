"""Pair lists: both layouts, mistakes named by line, and new lists that are the same for ever."""

import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lipsmith.errors import DataError, InputError, OutputError, UsageError
from lipsmith.evaluation import pairs
from lipsmith.evaluation.pairs import (
    CandidateVideo,
    ListedPair,
    PairList,
    draw_pairs,
    find_media,
    make_pairs,
    pairs_digest,
    pairs_text,
    read_pairs,
    write_pairs,
)
from lipsmith.media.write import VideoWriter

TWO = (ListedPair("v/1.mp4", "a/1.mp4"), ListedPair("v/2.mp4", "a/2.mp4"))

Listed = Callable[[str], Path]


@pytest.fixture
def listed(tmp_path: Path) -> Listed:
    def write(text: str) -> Path:
        path = tmp_path / "some pairs.txt"
        path.write_bytes(text.encode())
        return path

    return write


def test_lrs2_lists_name_the_sound_first(listed: Listed) -> None:
    path = listed("6330311066473698535/00011 6331559613336179781/00018\n\n  a/1   b/2 \n")
    found = read_pairs(path, "audio-video")
    assert found.name == "some pairs" and found.layout == "audio-video"
    assert found.pairs == (
        ListedPair("6331559613336179781/00018", "6330311066473698535/00011"),
        ListedPair("b/2", "a/1"),
    )


def test_resynced_lists_name_the_video_first(listed: Listed) -> None:
    path = listed("\ufefffirst.mp4 one.wav\r\nsecond.mp4 two.wav\r\n")
    assert read_pairs(path).pairs == (ListedPair("first.mp4", "one.wav"), ListedPair("second.mp4", "two.wav"))
    assert read_pairs(listed("one.wav first.mp4")).pairs == (ListedPair("first.mp4", "one.wav"),)


@pytest.mark.parametrize("text", ["a b\n", "a.mp4 b.mp4\n", "a.wav b.mp4\nc.mp4 d.wav\n"])
def test_a_layout_that_cannot_be_told_is_asked_for(listed: Listed, text: str) -> None:
    with pytest.raises(UsageError, match="--layout audio-video"):
        read_pairs(listed(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b\nc d\n\ne\n", "line 4: 1 name,"),
        ("a b\nc d e\n", "line 2: 3 names,"),
        ("a\tb\nc\t\n", "line 2: .* names?,"),
        ("", "no pairs"),
        ("# layout: audio-video\n", "no pairs"),
    ],
)
def test_a_bad_line_is_named(listed: Listed, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_pairs(listed(text), "audio-video")


def test_files_that_are_no_lists(tmp_path: Path, listed: Listed) -> None:
    (tmp_path / "picture").write_bytes(b"a b\n\xff\xfe\n")
    with pytest.raises(InputError, match="line 2: no text"):
        read_pairs(tmp_path / "picture", "audio-video")
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(tmp_path / "gone.txt", "audio-video")
    with pytest.raises(UsageError, match="says that its layout is 'up'"):
        read_pairs(listed("# layout: up\na b\n"))
    with pytest.raises(UsageError, match="no layout 'up'"):
        read_pairs(listed("a b\n"), "up")  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["audio-video", "video-audio"])
@pytest.mark.parametrize("name", ["c", "with space.mp4"])
def test_what_is_written_is_read_back(tmp_path: Path, layout: str, name: str) -> None:
    pairs = (*TWO, ListedPair(name, "d"))
    path = tmp_path / "list.txt"
    write_pairs(path, pairs, layout, remarks=["seed 3"])  # type: ignore[arg-type]
    assert read_pairs(path) == PairList("list", pairs, layout)  # type: ignore[arg-type]
    assert read_pairs(path).digest == pairs_digest(pairs)


def test_the_digest_is_of_the_pairs_alone(listed: Listed) -> None:
    # Written down: another digest of the same pairs would be another benchmark.
    assert pairs_digest(TWO) == "f47aec0ce187f0a33f9b6a152b77e290c61c4d0dacbd2e6d69f2ca5238e7563c"
    one = read_pairs(listed("# layout: audio-video\na/1.mp4    v/1.mp4\na/2.mp4 v/2.mp4\n"))
    other = read_pairs(listed("v/1.mp4\ta/1.mp4\nv/2.mp4\ta/2.mp4"), "video-audio")
    assert one.digest == other.digest == pairs_digest(TWO)
    assert pairs_digest(TWO[::-1]) != one.digest


def test_a_list_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    write_pairs(path, TWO)
    write_pairs(path, TWO)
    with pytest.raises(OutputError, match="--overwrite"):
        write_pairs(path, TWO[:1])
    assert read_pairs(path).pairs == TWO
    write_pairs(path, TWO[:1], overwrite=True)
    assert read_pairs(path).pairs == TWO[:1]
    with pytest.raises(OutputError, match="is a folder"):
        write_pairs(tmp_path, TWO)


@pytest.mark.parametrize("name", ["#1.mp4", "a\nb.mp4", " a.mp4"])
def test_names_that_no_list_can_hold(name: str) -> None:
    with pytest.raises(DataError, match="cannot stand in a list"):
        pairs_text([ListedPair(name, "a")])


def candidates() -> list[CandidateVideo]:
    return [
        CandidateVideo(f"{speaker}/{index}.mp4", Fraction(20 + index, 10), Fraction(20 + index, 10), speaker)
        for index, speaker in enumerate("abcabcabc")
    ]


def test_the_rule() -> None:
    made = draw_pairs(candidates())
    seconds = {video.name: video.video_seconds for video in candidates()}
    for pair in made.pairs:
        assert seconds[pair.audio] < seconds[pair.video]
        assert Path(pair.audio).parent != Path(pair.video).parent
    assert [pair.video for pair in made.pairs] == sorted(set(seconds) - {"a/0.mp4"})
    assert made.left_out == {"a/0.mp4": "no speech of somebody else is shorter than it"}


def test_the_same_list_for_ever() -> None:
    # Written down: what an earlier version drew, every later one must.
    assert [f"{pair.video} {pair.audio}" for pair in draw_pairs(candidates(), seed=1).pairs] == EXPECTED
    assert draw_pairs(reversed(candidates()), seed=1) == draw_pairs(candidates(), seed=1)
    assert draw_pairs(candidates(), seed=2) != draw_pairs(candidates(), seed=1)


EXPECTED = [
    "a/3.mp4 c/2.mp4",
    "a/6.mp4 b/1.mp4",
    "b/1.mp4 a/0.mp4",
    "b/4.mp4 c/2.mp4",
    "b/7.mp4 a/6.mp4",
    "c/2.mp4 b/1.mp4",
    "c/5.mp4 a/0.mp4",
    "c/8.mp4 a/6.mp4",
]


def test_added_footage_changes_few_lines() -> None:
    videos = [CandidateVideo(f"{i:03}", Fraction(100 + i), Fraction(100 + i)) for i in range(200)]
    before = draw_pairs(videos).pairs
    after = set(draw_pairs([*videos, CandidateVideo("short", Fraction(50), Fraction(50))]).pairs)
    assert sum(pair not in after for pair in before) < 20


def test_the_work_for_a_face_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_MOST_WEIGHED", 20, raising=False)
    num_hashed = 0
    ranking = pairs._ranking

    def counting(seed: int, first: str) -> Callable[[str], bytes]:
        rank = ranking(seed, first)

        def counted(second: str) -> bytes:
            nonlocal num_hashed
            num_hashed += 1
            return rank(second)

        return counted

    monkeypatch.setattr(pairs, "_ranking", counting)
    lengths = np.random.default_rng(0).integers(30, 200, 400)
    videos = [
        CandidateVideo(f"{i}", Fraction(int(length), 10), Fraction(int(length), 10), f"{i % 7}")
        for i, length in enumerate(lengths)
    ]
    made = draw_pairs(videos)
    assert num_hashed <= 400 * (20 + 2)
    named = {video.name: video for video in videos}
    for pair in made.pairs:
        assert named[pair.audio].audio_seconds < named[pair.video].video_seconds
        assert named[pair.audio].speaker != named[pair.video].speaker
    assert len(made.pairs) + len(made.left_out) == 400
    heard = [pair.audio for pair in made.pairs]
    assert (
        len(set(heard)) > 150 and max(map(heard.count, heard)) < 20
    )  # spread over those that are short enough
    few = set(made.pairs) - set(
        draw_pairs([*videos, CandidateVideo("new", Fraction(3), Fraction(3), "8")]).pairs
    )
    assert len(few) < 40


def test_smaller_lists_are_part_of_larger_ones() -> None:
    small, large = (set(draw_pairs(candidates(), max_pairs=count).pairs) for count in (3, 6))
    assert len(small) == 3 and len(large) == 6 and small < large
    double = draw_pairs(candidates(), per_video=2).pairs
    assert set(draw_pairs(candidates()).pairs) < set(double)
    assert len(double) == len(set(double))


def test_without_speakers_only_the_video_must_be_another() -> None:
    videos = [CandidateVideo("a", Fraction(3), Fraction(3)), CandidateVideo("b", Fraction(2), Fraction(2))]
    assert draw_pairs(videos).pairs == (ListedPair("a", "b"),)
    with pytest.raises(DataError, match="2 videos give not one pair"):
        draw_pairs(videos, min_seconds=2.5)


def write_video(path: Path, seconds: float, *, with_sound: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = path.with_suffix(".wav") if with_sound else None
    if sound is not None:
        with wave.open(str(sound), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(np.zeros(round(seconds * 16000), "<i2").tobytes())
    with VideoWriter(path, width=32, height=32, rate=Fraction(25), audio=sound) as writer:
        for index in range(round(seconds * 25)):
            writer.write(np.full((32, 32, 3), index, np.uint8), Fraction(index, 25))
    if sound is not None:
        sound.unlink()


def test_a_list_of_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name, seconds in {"a/1": 1.2, "a/2": 1.6, "b/1": 1.4, "c/dubbed": 2.0, "d/left_out": 2.0}.items():
        write_video(root / f"{name}.mp4", seconds)
    write_video(root / "b/silent.mp4", 2.0, with_sound=False)
    (root / "b/broken.mp4").write_bytes(b"no video")
    manifest = tmp_path / "manifest.tsv"
    manifest.write_text(
        "file\tspeaker_id\tuse\na/1.mp4\tanna\topen\na/2.mp4\tanna\topen\nb/1.mp4\tbert\topen\n"
        "c/dubbed.mp4\tcarl\tfaces-only\nd/left_out.mp4\tdora\topen\nb/silent.mp4\tbert\topen\nb/broken.mp4\tbert\t\n"
    )
    made = make_pairs(root, manifest=manifest, leave_out=["left_out"])
    assert made.pairs == (ListedPair("a/2.mp4", "b/1.mp4"), ListedPair("b/1.mp4", "a/1.mp4"))
    assert made.left_out["b/silent.mp4"] == "it has no sound"
    assert "faces-only" in made.left_out["c/dubbed.mp4"]
    assert set(made.left_out) == {"a/1.mp4", "b/silent.mp4", "b/broken.mp4", "c/dubbed.mp4"}
    alone = make_pairs(root, manifest=manifest, speakers=["anna", "dora"])
    assert {Path(pair.video).parts[0] for pair in alone.pairs} == {"d"}
    with pytest.raises(DataError, match="no speaker zoe"):
        make_pairs(root, manifest=manifest, speakers=["anna", "zoe"])
    with pytest.raises(UsageError, match="--manifest"):
        make_pairs(root, speakers=["anna"])
    with pytest.raises(DataError, match="no folder"):
        make_pairs(tmp_path / "gone")


def test_a_list_of_a_test_set_that_lies_with_its_training_footage(tmp_path: Path) -> None:
    root, lists = tmp_path / "main", tmp_path / "lists"
    for name, seconds in {"a/1": 1.2, "a/2": 1.6, "b/1": 1.4}.items():
        write_video(root / f"{name}.mp4", seconds)
    lists.mkdir()
    (lists / "train.txt").write_text("a/2\n")
    (lists / "test.txt").write_text("a/1 NF0\nb/1 NF1\n")
    assert make_pairs(root).pairs[0].video == "a/2.mp4"
    assert make_pairs(root, file_lists=lists).pairs == (ListedPair("b/1.mp4", "a/1.mp4"),)
    with pytest.raises(DataError, match=r"test\.txt in .* names no video"):
        make_pairs(root, file_lists=lists, leave_out=["1"])


def test_names_are_found_with_and_without_suffix(tmp_path: Path) -> None:
    for name in ("a/1.mp4", "videos/2.mov", "wavs/3.wav", "4.wav", "4.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_media(tmp_path, "a/1", "video") == tmp_path / "a/1.mp4"
    assert find_media(tmp_path, "a/1.mp4", "audio") == tmp_path / "a/1.mp4"
    assert find_media(tmp_path, "2", "video") == tmp_path / "videos/2.mov"
    assert find_media(tmp_path, "3", "audio") == tmp_path / "wavs/3.wav"
    assert find_media(tmp_path, "4", "video") == tmp_path / "4.mp4"
    assert find_media(tmp_path, "gone", "video") == tmp_path / "gone"
