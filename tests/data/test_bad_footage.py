"""Bad footage, kills and full disks: a clear message with counts, nothing lost, never an endless loop."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from lipsmith.data import synthetic
from lipsmith.data.clips import dropped_counts, load_clip, read_index, save_clip, write_index
from lipsmith.data.journal import alone_in
from lipsmith.data.prepare import PrepareOptions, prepare
from lipsmith.data.reader import ClipSet
from lipsmith.errors import DataError, OutputError, RuntimeUnavailableError
from lipsmith.faces import detect

from ..media_samples import make_clip

NUM_CLIPS = 5


class SeesNobody:
    name = "nobody"

    def detect(self, image: np.ndarray) -> list:
        return []


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> PrepareOptions:
    monkeypatch.setitem(detect.DETECTORS, "nobody", f"{__name__}:SeesNobody")
    return PrepareOptions(detector="nobody")


def _write_pictures(
    folder: Path, seconds: float = 1.2, seed: int = 0, missing: tuple[int, ...] = (), size: int = 80
) -> synthetic.SyntheticClip:
    """A clip as the published preprocessing leaves it: numbered face crops and audio.wav."""
    folder.mkdir(parents=True)
    clip = synthetic.synthesize_clip(synthetic.SyntheticSpeaker(seed), seconds, seed, size=size)
    for number, face in enumerate(clip.frames):
        if number not in missing:
            cv2.imwrite(str(folder / f"{number}.jpg"), face)
    synthetic.write_wav(folder / "audio.wav", clip.samples)
    return clip


@pytest.fixture(scope="module")
def lrs2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lrs2")
    for number in range(NUM_CLIPS):
        split = ("main", "main", "main", "val", "test")[number]
        _write_pictures(folder / split / f"video_{number // 2}" / f"{number:05}", seed=number)
    return folder


def test_pictures_become_clips_whose_sound_belongs_to_their_faces(lrs2: Path, tmp_path: Path) -> None:
    report = prepare([lrs2], tmp_path, workers=1)
    assert (report.num_clips, report.num_speakers, report.dropped) == (5, 3, {})
    records = {record.source: record for record in read_index(tmp_path)}
    record = records["main/video_0/00000"]
    assert (record.speaker, record.num_frames, record.face_pixels, record.crop) == (
        "video_0",
        30,
        80,
        "given",
    )
    assert records["val/video_1/00003"].split == "validation"
    clip = load_clip(record, tmp_path)
    drawn = synthetic.synthesize_clip(synthetic.SyntheticSpeaker(0), 1.2, 0, size=80)
    assert clip.times == [Fraction(i, 25) for i in range(30)]
    expected = np.stack([cv2.resize(face, (96, 96), interpolation=cv2.INTER_CUBIC) for face in drawn.frames])
    assert np.abs(clip.faces().astype(int) - expected).mean() < 4  # two JPEGs
    loudness = clip.windows()[:25, 0].mean(axis=(1, 2))
    openness = np.array([drawn.openness[i : i + 5].mean() for i in range(25)])
    assert np.corrcoef(loudness, openness)[0, 1] > 0.6


def test_a_gap_in_the_numbers_ends_a_clip_and_times_stay(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "v" / "00001"
    _write_pictures(folder, seconds=3.2, missing=(35,))
    (folder / "70.jpg").write_bytes((folder / "70.jpg").read_bytes()[:-10])
    report = prepare([tmp_path / "in"], tmp_path / "out", workers=1)
    records = read_index(tmp_path / "out")
    assert [record.num_frames for record in records] == [35, 34]
    assert load_clip(records[1], tmp_path / "out").times[0] == Fraction(36, 25)
    # Nine frames stand after the damaged one.
    assert report.dropped == {"damaged picture": 1, "too short": 1}


def test_long_stretches_become_equal_clips_and_blurred_ones_are_left_out(tmp_path: Path) -> None:
    _write_pictures(tmp_path / "in" / "v" / "00001", seconds=3.2)
    options = PrepareOptions(max_seconds=1.5)
    prepare([tmp_path / "in"], tmp_path / "out", options=options, workers=1)
    records = read_index(tmp_path / "out")
    assert [record.num_frames for record in records] == [27, 26, 27]
    first_times = [load_clip(record, tmp_path / "out").times[0] * 25 for record in records]
    assert first_times == [0, 27, 53]
    sharp = max(record.sharpness for record in records) + 1
    with pytest.raises(DataError, match="not sharp: 3"):
        prepare([tmp_path / "in"], tmp_path / "b", options=replace(options, min_sharpness=sharp), workers=1)


def test_clips_of_a_large_corpus_have_names_of_their_own() -> None:
    from lipsmith.data.cutting import _record
    from lipsmith.data.sources import Source

    names = ("v2916/00001.mp4", "v44286/00001.mp4")  # alike in the first eight digits of their hashes
    sources = [Source(Path(name), name, "video", {}) for name in names]
    ids = {_record(source, 0, 25, 25.0, 90.0, 1.0, PrepareOptions()).id for source in sources}
    assert len(ids) == 2


def test_several_processes_write_the_same_clips(lrs2: Path, tmp_path: Path) -> None:
    prepare([lrs2], tmp_path / "one", workers=1)
    prepare([lrs2], tmp_path / "two", workers=2)
    one, two = ({record.id: record.digest for record in read_index(tmp_path / n)} for n in ("one", "two"))
    assert one == two and len(one) == NUM_CLIPS


def test_videos_without_faces(tmp_path: Path, nobody: PrepareOptions) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        make_clip(tmp_path / "in" / f"{number}.mp4", num_frames=30, sound_seconds=1.2)
    with pytest.raises(DataError, match=r"None of 3 videos or folders gave a usable clip \(no face: 3\)"):
        prepare([tmp_path / "in"], tmp_path / "out", options=nobody, workers=1)
    assert "no face in 30 frames" in (tmp_path / "out" / "dropped.jsonl").read_text()


def test_footage_without_sound(tmp_path: Path, nobody: PrepareOptions) -> None:
    (tmp_path / "in").mkdir()
    make_clip(tmp_path / "in" / "mute.mp4", num_frames=30)
    _write_pictures(tmp_path / "in" / "v" / "00001")
    (tmp_path / "in" / "v" / "00001" / "audio.wav").unlink()
    _write_pictures(tmp_path / "in" / "v" / "00002")
    synthetic.write_wav(tmp_path / "in" / "v" / "00002" / "audio.wav", np.zeros(20_000, np.float32))
    _write_pictures(tmp_path / "in" / "v" / "00003")
    (tmp_path / "in" / "v" / "00003" / "audio.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"None of 4 videos .* \(no sound: 2, silent: 1, unreadable: 1\)"):
        prepare([tmp_path / "in"], tmp_path / "out", options=nobody, workers=1)


def test_two_second_clips_are_kept_and_a_longer_stretch_is_said_to_be_missing(tmp_path: Path) -> None:
    from lipsmith.data.samples import ClipSampler

    for number in range(2):
        _write_pictures(tmp_path / "in" / f"v{number}" / "00001", seconds=2.0, seed=number)
    report = prepare([tmp_path / "in"], tmp_path / "out", workers=1)
    assert (report.num_clips, report.seconds) == (2, 4.0)
    sampler = ClipSampler(ClipSet(tmp_path / "out", read_index(tmp_path / "out")))
    assert len(sampler.draw(np.random.default_rng(0), 2, 50)) == 2
    with pytest.raises(DataError, match=r"has the 60 frames that the recipe asks for; the longest has 50"):
        sampler.draw(np.random.default_rng(0), 2, 60)


def test_an_unforeseen_failure_is_a_row_and_not_the_end(
    lrs2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lipsmith.data import cutting

    reading = cutting.read_samples

    def strange(path: Path) -> np.ndarray:
        if "00002" in str(path):
            raise ZeroDivisionError("odd file")
        return reading(path)

    monkeypatch.setattr(cutting, "read_samples", strange)
    report = prepare([lrs2], tmp_path, workers=1)
    assert (report.num_clips, report.dropped) == (4, {"failed": 1})
    assert "ZeroDivisionError: odd file" in (tmp_path / "dropped.jsonl").read_text()


_SCRIPT = """
import os, signal, sys
from pathlib import Path
from lipsmith.data import journal, prepare, shards
calls = []
def kill_at(function, number, after):
    def wrapped(*args, **kwargs):
        calls.append(0)
        if len(calls) == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if len(calls) == number and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped
{change}
prepare.prepare([sys.argv[1]], sys.argv[2], workers={workers}, shard_bytes=200_000)
"""


def _run_script(lrs2: Path, output: Path, change: str, workers: int = 1) -> subprocess.CompletedProcess:
    script = _SCRIPT.format(change=change, workers=workers)
    return subprocess.run(
        [sys.executable, "-c", script, str(lrs2), str(output)], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def uninterrupted(lrs2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("whole")
    prepare([lrs2], output, workers=1)
    return {record.id: record.digest for record in read_index(output)}


def _assert_whole(output: Path, uninterrupted: dict[str, str]) -> None:
    records = read_index(output)
    assert sorted(record.id for record in records) == sorted(uninterrupted)  # nothing lost, nothing twice
    assert {record.id: record.digest for record in records} == uninterrupted
    assert len(list(ClipSet(output, records))) == NUM_CLIPS
    assert all(record.shard for record in records)
    done = [json.loads(line)["source"] for line in (output / "sources.jsonl").read_text().splitlines()]
    assert len(done) == len(set(done)) == NUM_CLIPS
    assert not list(output.rglob("*.partial"))


@pytest.mark.parametrize(
    "change",
    [
        "prepare.cut_source = kill_at(prepare.cut_source, 3, after=False)",
        "prepare.cut_source = kill_at(prepare.cut_source, 3, after=True)",
        "journal._append = kill_at(journal._append, 5, after=False)",  # between the index and the journal
        "journal._append = kill_at(journal._append, 4, after=True)",
        "prepare.pack_clips = kill_at(prepare.pack_clips, 1, after=False)",
        "shards._write_shard = kill_at(shards._write_shard, 1, after=True)",
        "shards.write_index = kill_at(shards.write_index, 1, after=True)",
    ],
)
def test_killed_and_run_again(lrs2: Path, tmp_path: Path, uninterrupted: dict[str, str], change: str) -> None:
    killed = _run_script(lrs2, tmp_path, change)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    report = prepare([lrs2], tmp_path, workers=1)
    assert report.num_clips == NUM_CLIPS
    _assert_whole(tmp_path, uninterrupted)


def test_interrupted_from_the_keyboard(lrs2: Path, tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    change = "noting = prepare.note\nprepare.note = lambda *_: (noting(*_), os.killpg(0, signal.SIGINT))"
    script = _SCRIPT.format(change=change, workers=2)
    stopped = subprocess.run(
        [sys.executable, "-c", script, str(lrs2), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,  # a group of its own, all of which a terminal's Ctrl-C would reach
    )
    assert stopped.stderr.strip().endswith("KeyboardInterrupt"), stopped.stderr
    assert "Exception in thread" not in stopped.stderr and "Process Spawn" not in stopped.stderr
    assert (tmp_path / "sources.jsonl").read_text().count("\n") == 1
    prepare([lrs2], tmp_path, workers=1)
    _assert_whole(tmp_path, uninterrupted)


def test_lines_that_were_cut_off_are_written_anew(
    lrs2: Path, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    prepare([lrs2], tmp_path, workers=1)
    journal = (tmp_path / "sources.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "sources.jsonl").write_text("".join(journal[:-2]) + journal[-2][:15])
    prepare([lrs2], tmp_path, workers=1)
    _assert_whole(tmp_path, uninterrupted)
    (tmp_path / "index.jsonl").unlink()
    prepare([lrs2], tmp_path, workers=1)
    _assert_whole(tmp_path, uninterrupted)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("index.jsonl", b"\0"),
        ("index.jsonl", b"\xff"),
        ("sources.jsonl", b"\0"),
    ],  # as a loss of power leaves them
)
def test_lines_that_were_damaged_are_written_anew(
    lrs2: Path, tmp_path: Path, uninterrupted: dict[str, str], name: str, damage: bytes
) -> None:
    prepare([lrs2], tmp_path, workers=1)
    content = (tmp_path / name).read_bytes()
    end = content.index(b"\n")
    (tmp_path / name).write_bytes(damage * end + content[end:])
    if name == "index.jsonl":
        with pytest.raises(
            DataError, match=r"Line 1 of .* is damaged\. Running `lipsmith prepare` again .* mends it"
        ):
            read_index(tmp_path)
    prepare([lrs2], tmp_path, workers=1)
    _assert_whole(tmp_path, uninterrupted)


def test_names_do_not_depend_on_what_the_machine_calls_text(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from lipsmith.data import journal
from lipsmith.data.clips import ClipRecord, read_index
from lipsmith.data.cutting import Outcome

folder, name = Path(sys.argv[1]), "Zo\\xeb.mp4"
record = ClipRecord("a", name, "a", 10, 96, 25.0, 90.0, 1.0)
journal.note(folder, Outcome(name, [record], [{"source": name, "reason": "r", "detail": "d"}]))
assert journal.recover(folder) == {name} and read_index(folder) == [record]
"""
    ascii_alone = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, **ascii_alone},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up(
    lrs2: Path, tmp_path: Path, uninterrupted: dict[str, str], workers: int
) -> None:
    # Larger than a clip, smaller than a shard; then smaller than a clip.
    for limit in (150_000, 20_000):
        change = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
        stopped = _run_script(lrs2, tmp_path / str(limit), change, workers)
        last = stopped.stderr.strip().splitlines()[-1]
        assert re.search(r"OutputError: There is no room left for .* \d of 5 sources are done\.", last), last
        prepare([lrs2], tmp_path / str(limit), workers=1)
        _assert_whole(tmp_path / str(limit), uninterrupted)


def test_a_process_that_is_ended_from_outside(
    lrs2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, str]
) -> None:
    from lipsmith.data import prepare as module

    monkeypatch.setattr(module, "cut_source", _die)
    with pytest.raises(OutputError, match=r"ended from outside.*fewer --jobs.*0 of 5 sources are done"):
        prepare([lrs2], tmp_path, workers=2)
    monkeypatch.undo()
    prepare([lrs2], tmp_path, workers=1)
    _assert_whole(tmp_path, uninterrupted)


@pytest.mark.parametrize("change", ["deleted", "cut off"])
def test_clips_of_a_lost_shard_are_made_anew(
    lrs2: Path, tmp_path: Path, uninterrupted: dict[str, str], change: str
) -> None:
    prepare([lrs2], tmp_path, workers=1, shard_bytes=150_000)
    shards = sorted((tmp_path / "shards").iterdir())
    assert len(shards) > 1
    before = read_index(tmp_path)
    lost = {record.id for record in before if record.shard == shards[0].name}
    if change == "deleted":
        shards[0].unlink()
    else:
        shards[0].write_bytes(shards[0].read_bytes()[:-20_000])
        lost = {max((r for r in before if r.id in lost), key=lambda r: r.shard_offset).id}
    # Without its footage nothing can be made, and nothing is forgotten.
    assert prepare([], tmp_path).num_lost == len(lost)
    assert read_index(tmp_path) == before
    report = prepare([lrs2], tmp_path, workers=1)
    assert (report.num_clips, report.num_lost) == (NUM_CLIPS, 0)
    _assert_whole(tmp_path, uninterrupted)
    kept = {record.id: record for record in read_index(tmp_path) if record.id not in lost}
    assert kept == {record.id: record for record in before if record.id not in lost}
    for shard in (tmp_path / "shards").iterdir():
        shard.unlink()
    with pytest.raises(DataError, match=f"All {NUM_CLIPS} clips of .* are gone or cut off"):
        prepare([], tmp_path)


def _die(*_: object, **_options: object) -> None:
    import os

    os.kill(os.getpid(), signal.SIGKILL)


def test_one_run_at_a_time_writes_into_a_folder(lrs2: Path, tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(OutputError, match="Another `lipsmith prepare`"):
        prepare([lrs2], tmp_path, workers=1)
    prepare([lrs2], tmp_path, workers=1)


def test_a_manifest_that_comes_later_counts_for_what_was_done_before(lrs2: Path, tmp_path: Path) -> None:
    prepare([lrs2], tmp_path, workers=1)
    before = {record.source: record for record in read_index(tmp_path)}
    first, second, *_ = sorted(before)
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"file,speaker,use,split\n{first},Ada,open,test\n{second},Grace,faces-only,\n")
    report = prepare([lrs2], tmp_path, manifest=manifest, workers=1)
    after = {record.source: record for record in read_index(tmp_path)}
    assert after[first] == replace(before[first], speaker="Ada", use="open", split="test")
    assert second not in after and report.dropped == {"not for sync": 1}
    assert len(after) == NUM_CLIPS - 1
    assert prepare([lrs2], tmp_path, workers=1).num_speakers == report.num_speakers  # said once is enough
    manifest.write_text(f"file,speaker,use\n{second},Grace,open\n")
    assert prepare([lrs2], tmp_path, manifest=manifest, workers=1).dropped == {}
    assert {record.source: record.speaker for record in read_index(tmp_path)}[second] == "Grace"


def test_clips_of_other_rules_are_not_mixed(lrs2: Path, tmp_path: Path) -> None:
    prepare([lrs2], tmp_path, workers=1)
    with pytest.raises(DataError, match=r"other rules \(face_size 96, not 128\)"):
        prepare([lrs2], tmp_path, options=PrepareOptions(face_size=128), workers=1)


def test_a_folder_of_an_older_version_is_packed_by_one_command(tmp_path: Path) -> None:
    records = synthetic.prepare_synthetic(tmp_path, num_speakers=2, clips_per_speaker=1, seconds=0.4)
    before = [load_clip(record, tmp_path) for record in records]
    report = prepare([], tmp_path)
    assert (report.num_clips, report.num_shards) == (2, 1)
    assert not (tmp_path / "clips").exists()
    for old, new in zip(before, ClipSet(tmp_path, read_index(tmp_path)), strict=True):
        np.testing.assert_array_equal(old.mel, new.mel)
    # A source that the older folder knows is not done again.
    save_clip(before[0], tmp_path / "b")
    write_index(tmp_path / "b", records[:1])
    (tmp_path / "b" / "dropped.jsonl").write_text('{"source": "x.mp4", "reason": "no face", "detail": ""}\n')
    prepare([], tmp_path / "b")
    assert dropped_counts(tmp_path / "b") == {"no face": 1}
    assert (tmp_path / "b" / "sources.jsonl").read_text().count("\n") == 2
    with pytest.raises(DataError, match="No videos found"):
        prepare([], tmp_path / "c")


class _Ray:
    """As much of Ray as is used, on the spot."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def init(self, address: str | None, **options: object) -> None:
        self.calls.append(f"init {address}")

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def remote(self, function):
        class Remote:
            remote = staticmethod(lambda *args: lambda: function(*args))

        return Remote

    def wait(self, running: list) -> tuple[list, list]:
        assert len(running) <= 2
        return running[-1:], running[:-1]

    def get(self, complete: list) -> Iterator:
        return [task() for task in complete]

    def shutdown(self) -> None:
        self.calls.append("shutdown")


def test_ray_is_asked_for_by_name_or_missed_in_one_sentence(
    lrs2: Path, tmp_path: Path, uninterrupted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RuntimeUnavailableError, match=r"lipsmith\[ray\]"):
        prepare([lrs2], tmp_path / "a", ray="auto")
    ray = _Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    prepare([lrs2], tmp_path / "b", ray="local")
    _assert_whole(tmp_path / "b", uninterrupted)
    assert ray.calls == ["init None", "shutdown"]
