"""A benchmark with drawn faces and a tiny untrained generator: every pair is a row, and nothing is done twice."""

import contextlib
import dataclasses
import json
import pickle
import shutil
import sys
import wave
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lipsmith.data.synthetic import FixedBoxDetector
from lipsmith.errors import OutputError, UsageError, WeightsError
from lipsmith.evaluation import benchmark
from lipsmith.evaluation.benchmark import VIDEOS_FOLDER, Judging, QualityFiles, run_benchmark
from lipsmith.evaluation.benchmark_result import REAL, UNSYNCED, BenchmarkResult
from lipsmith.evaluation.file_score import ScoreSettings
from lipsmith.evaluation.pairs import ListedPair, PairList
from lipsmith.evaluation.systems import MakingOptions, System, open_systems
from lipsmith.faces import detect
from lipsmith.faces.detect import Detection
from lipsmith.geometry import Box
from lipsmith.media.read import read_frames
from lipsmith.media.write import VideoWriter
from lipsmith.models.wav2lip import Wav2Lip
from lipsmith.training.expert import build_expert
from lipsmith.training.recipe import ExpertModel
from lipsmith.training.run import save_weights
from lipsmith.weights.card import WeightCard
from lipsmith.weights.checkpoint import write_weights

WIDTH, HEIGHT = 160, 128
NUM_FRAMES = 14
DARK = 20
MAKING = MakingOptions(detector="daylight", threads=1)
BROKEN: list[tuple[str, str, str, str]] = [
    ("no face", "dark_0.mp4", "v_0.mp4", "No face found"),
    ("no face", "dark_1.mp4", "v_1.mp4", "No face found"),
    ("no face", "dark_2.mp4", "v_2.mp4", "No face found"),
    ("no sound", "v_0.mp4", "mute.mp4", "has no sound"),
    ("no sound", "v_1.mp4", "mute.mp4", "has no sound"),
    ("unreadable", "cut.mp4", "v_0.mp4", "cut.mp4"),
    ("unreadable", "v_2.mp4", "text.mp4", "text.mp4"),
    ("missing", "gone.mp4", "v_0.mp4", "There is no file"),
    ("missing", "v_3.mp4", "gone.wav", "There is no file"),
    ("too short", "v_4.mp4", "blip.wav", "0.10 s"),
]

Run = Callable[..., BenchmarkResult]


class DaylightDetector(FixedBoxDetector):
    """Sees the same face in every picture that is not dark."""

    def __init__(self) -> None:
        super().__init__(Box(48, 20, 112, 100))

    def detect(self, image: np.ndarray) -> list[Detection]:
        return super().detect(image) if image.mean() > DARK else []


def write_sound(path: Path, seconds: float, hertz: float) -> Path:
    time = np.arange(round(seconds * 16000)) / 16000
    samples = 9000 * np.sin(2 * np.pi * hertz * time) * (0.5 - 0.5 * np.cos(2 * np.pi * 4 * time))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def write_video(path: Path, number: int, *, brightness: int = 90, with_sound: bool = True) -> None:
    sound = write_sound(path.with_suffix(".wav"), NUM_FRAMES / 25, 150 + number) if with_sound else None
    with VideoWriter(path, width=WIDTH, height=HEIGHT, rate=Fraction(25), audio=sound) as writer:
        for index in range(NUM_FRAMES):
            image = np.full((HEIGHT, WIDTH, 3), brightness, np.uint8)
            if brightness > DARK:
                image[50 + index % 5 : 90, 60 + number % 20 : 100] += np.uint8(40)
            writer.write(image, Fraction(index, 25))
    if sound is not None:
        sound.unlink()


def make_set(root: Path, count: int) -> PairList:
    """`count` pairs that can be made, and ten that cannot."""
    root.mkdir()
    for number in range(count):
        write_video(root / f"v_{number}.mp4", number)
    for number in range(3):
        write_video(root / f"dark_{number}.mp4", number, brightness=8)
    write_video(root / "mute.mp4", 0, with_sound=False)
    (root / "cut.mp4").write_bytes((root / "v_0.mp4").read_bytes()[:1500])
    (root / "text.mp4").write_text("not a video")
    write_sound(root / "blip.wav", 0.1, 200)
    good = [ListedPair(f"v_{number}.mp4", f"v_{(number + 1) % count}.mp4") for number in range(count)]
    bad = [ListedPair(video, audio) for _, video, audio, _ in BROKEN]
    # Broken ones in between, not in a row at the end.
    pairs = [*good[:2], *bad[:5], *good[2:4], *bad[5:], *good[4:]]
    return PairList("drawn", tuple(pairs))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    card = WeightCard(name="tiny", kind="generator", architecture="wav2lip", width=0.125, face_size=96)
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    write_weights(Wav2Lip(width=0.125), card, folder)
    return folder


@pytest.fixture(scope="module")
def judging(tmp_path_factory: pytest.TempPathFactory) -> Judging:
    torch.manual_seed(0)
    model = ExpertModel(form="dense", width=0.25)
    path = tmp_path_factory.mktemp("expert") / "best.safetensors"
    save_weights(build_expert(model), path, {"model": model.model_dump_json()})
    return Judging(f"expert={path}", "tracked-crop", ScoreSettings(10, "daylight"))


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PairList]:
    root = tmp_path_factory.mktemp("footage") / "set"
    return root, make_set(root, 5)


@pytest.fixture(autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(detect.DETECTORS, "daylight", f"{__name__}:DaylightDetector")
    monkeypatch.setenv("LIPSMITH_IDENTITY", str(tmp_path_factory.mktemp("identity")))


@pytest.fixture(scope="module")
def finished(
    footage: tuple[Path, PairList], weights: Path, judging: Judging, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BenchmarkResult, list[str]]:
    """The folder of a run that is done, what it found, and the names of the videos that it worked on."""
    output = tmp_path_factory.mktemp("finished") / "out"
    names: list[str] = []
    whole = benchmark._work
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(detect.DETECTORS, "daylight", f"{__name__}:DaylightDetector")
        patch.setenv("LIPSMITH_IDENTITY", str(tmp_path_factory.mktemp("identity")))
        patch.setattr(benchmark, "_work", lambda task: names.append(task.file.name) or whole(task))
        systems = open_systems([str(weights)], [UNSYNCED, REAL])
        result = run_benchmark(*footage[::-1], systems, output, judging=judging, making=MAKING, jobs=1)
    return output, result, names


@pytest.fixture
def done(finished: tuple[Path, BenchmarkResult, list[str]], tmp_path: Path) -> BenchmarkResult:
    """A copy of that folder lies where `run` writes."""
    shutil.copytree(finished[0], tmp_path / "out")
    return finished[1]


@pytest.fixture
def run(footage: tuple[Path, PairList], weights: Path, judging: Judging, tmp_path: Path) -> Run:
    root, listed = footage

    def run_it(systems: list[System] | None = None, **options: object) -> BenchmarkResult:
        chosen = systems or open_systems([str(weights)], [UNSYNCED, REAL])
        given = {"judging": judging, "making": MAKING, "jobs": 1, **options}
        return run_benchmark(listed, root, chosen, tmp_path / "out", **given)  # type: ignore[arg-type]

    return run_it


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that are worked on."""
    done: list[str] = []
    whole = benchmark._work

    def counted(task):
        done.append(task.file.name)
        return whole(task)

    monkeypatch.setattr(benchmark, "_work", counted)
    return done


def without_time(result: BenchmarkResult) -> BenchmarkResult:
    return dataclasses.replace(result, created="")


def check_broken_and_good(result: BenchmarkResult, num_good: int) -> None:
    (system,) = result.systems
    rows = {(row.video, row.audio): row for row in system.rows}
    assert len(rows) == len(system.rows) == num_good + len(BROKEN)
    for kind, video, audio, words in BROKEN:
        row = rows.pop((video, audio))
        assert row.score.failure_kind == kind and words in (row.score.failure or "")
        assert row.output is None and row.score.lse_d is None
    for row in rows.values():
        assert row.score.failure is None and row.output is not None and row.output.is_file()
        assert 0 < (row.score.lse_d or 0) < 2
    assert result.num_failed == len(BROKEN)
    summary = system.summary()
    assert (summary.num_files, summary.num_scored) == (num_good + len(BROKEN), num_good)
    assert summary.failures == dict(Counter(kind for kind, *_ in sorted(BROKEN)))


def in_folder(result: BenchmarkResult, folder: Path) -> BenchmarkResult:
    """`result` as if it were of a run that wrote into another folder, and without its time."""
    values = json.dumps(result.to_dict())
    for system in result.systems:
        for row in system.rows:
            if row.output is not None and VIDEOS_FOLDER in row.output.parts:
                values = values.replace(str(row.output.parents[2]), str(folder))
    return dataclasses.replace(BenchmarkResult.from_dict(json.loads(values)), created="")


def test_every_pair_is_a_row(finished: tuple[Path, BenchmarkResult, list[str]]) -> None:
    folder, result, work = finished
    check_broken_and_good(result, 5)
    # What is missing is not tried.
    assert len(work) == 5 + len(BROKEN) - 2
    assert result == BenchmarkResult.read(folder)


def test_a_second_run_does_nothing(done: BenchmarkResult, run: Run, work: list[str], tmp_path: Path) -> None:
    kept = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.jsonl")}
    assert len(kept) == 2
    second = run()
    assert work == []
    assert in_folder(second, tmp_path / "out") == in_folder(done, tmp_path / "out")
    assert all(path.read_bytes() == content for path, content in kept.items())


@pytest.mark.slow
def test_a_hundred_pairs_ten_of_them_broken(
    weights: Path, judging: Judging, work: list[str], tmp_path: Path
) -> None:
    listed = make_set(tmp_path / "set", 90)
    assert len(listed.pairs) == 100
    systems = open_systems([str(weights)], [UNSYNCED, REAL])

    def go() -> BenchmarkResult:
        return run_benchmark(
            listed, tmp_path / "set", systems, tmp_path / "out", judging=judging, making=MAKING, jobs=1
        )

    first = go()
    check_broken_and_good(first, 90)
    assert len(work) == 98
    work.clear()
    assert without_time(go()) == without_time(first)
    assert work == []


def test_a_run_that_was_stopped_goes_on(run: Run, work: list[str]) -> None:
    def stop(_what: str, done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_progress=stop)
    begun = list(work)
    assert len(begun) == 3
    work.clear()
    seen: list[tuple[str, int, int]] = []
    check_broken_and_good(run(on_progress=lambda *done: seen.append(done)), 5)
    assert len(work) == 10 and not set(work) & set(begun)
    assert seen == [("videos", done, 13) for done in range(3, 14)]


@pytest.mark.usefixtures("done")
def test_lost_and_damaged_videos_are_made_again(run: Run, work: list[str], tmp_path: Path) -> None:
    lost, damaged, *_ = sorted((tmp_path / "out" / VIDEOS_FOLDER / "tiny").iterdir())
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    check_broken_and_good(run(), 5)
    assert sorted(work) == sorted([lost.name, damaged.name])


@pytest.mark.usefixtures("done")
def test_one_more_system_costs_only_its_own_work(run: Run, weights: Path, work: list[str]) -> None:
    result = run(open_systems([str(weights)]))
    assert [system.system for system in result.systems] == [UNSYNCED, "tiny", REAL]
    unsynced, tiny, real = (system.rows for system in result.systems)
    # Of the real videos those of all lines are scored, each once: five good ones, three dark, the mute, the cut.
    assert len(work) == 13 + 9
    first = unsynced[0]
    assert first.output is not None and real[0].output is not None and tiny[0].output is not None
    before, laid_over, changed = (
        np.stack([frame.image for frame in read_frames(path)]).astype(int)
        for path in (real[0].output, first.output, tiny[0].output)
    )
    assert before.shape == laid_over.shape == changed.shape
    # Coding twice, and a generator that paints.
    assert np.abs(laid_over - before).mean() < 2 < np.abs(changed - before)[:, 60:100, 48:112].mean()
    # A real video needs no speech.
    kinds = {(row.video, row.audio): row.score.failure_kind for row in real}
    assert kinds[("v_3.mp4", "gone.wav")] is None and kinds[("gone.mp4", "v_0.mp4")] == "missing"


@pytest.mark.usefixtures("done")
def test_other_options_and_another_judge(run: Run, judging: Judging, work: list[str]) -> None:
    # The same videos judged otherwise: none is made anew.
    result = run(judging=dataclasses.replace(judging, protocol="whole-clip"))
    assert len(work) == 5 and result.scorer["protocol"] == "whole-clip"
    system = System("tiny", "somewhere", "0" * 64)
    keys = {
        system.key("1", "2", MAKING),
        system.key("1", "2", dataclasses.replace(MAKING, length="cut")),
        system.key("2", "1", MAKING),
        dataclasses.replace(system, digest="1" * 64).key("1", "2", MAKING),
        dataclasses.replace(system, facts=(("articulation", 1.5),)).key("1", "2", MAKING),
        System(UNSYNCED).key("1", "2", MAKING),
    }
    assert len(keys) == 6
    assert dataclasses.replace(system, name="other").key("1", "2", MAKING) in keys
    assert system.key("1", "2", dataclasses.replace(MAKING, threads=7)) in keys


@pytest.mark.usefixtures("done")
def test_an_error_of_lipsmith_is_a_row_and_is_tried_again(
    run: Run, work: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = benchmark.make_video

    def sometimes(system, video, *rest):
        if video.name == "v_1.mp4":
            raise ZeroDivisionError("oh")
        return whole(system, video, *rest)

    monkeypatch.setattr(benchmark, "make_video", sometimes)
    for path in (tmp_path / "out" / VIDEOS_FOLDER / "tiny").glob("v_1__*"):
        path.unlink()
    rows = {(row.video, row.audio): row for row in run().systems[0].rows}
    failed = rows[("v_1.mp4", "v_2.mp4")].score
    assert failed.failure_kind == "failed" and "ZeroDivisionError: oh" in (failed.failure or "")
    monkeypatch.setattr(benchmark, "make_video", whole)
    work.clear()
    check_broken_and_good(run(), 5)
    assert len(work) == 1


def test_what_is_of_the_machine_ends_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutputError("There is no room left.")

    monkeypatch.setattr(benchmark, "make_video", full)
    with pytest.raises(OutputError, match=r"no room left. 0 of 13 videos are done"):
        run()


@pytest.mark.usefixtures("done")
def test_quality_beside_the_video(run: Run, work: list[str]) -> None:
    result = run(quality=QualityFiles(detector="daylight"))
    made = [row for row in result.systems[0].rows if row.output is not None]
    assert len(work) == len(made) == 5
    for row in made:
        assert set(row.quality) == {"unchanged_difference", "flicker"}
        assert row.quality["unchanged_difference"] < 2
    work.clear()
    assert without_time(run(quality=QualityFiles(detector="daylight"))) == without_time(result)
    assert work == []


@pytest.mark.usefixtures("done")
def test_fid_of_every_system(run: Run, weights: Path) -> None:
    class MeanColour:
        name, digest, is_standard = "mean colour", "0" * 64, False
        num_calls = 0

        def features(self, pictures):
            self.num_calls += 1
            return np.stack([picture.mean(axis=(0, 1)) for picture in pictures]).astype(np.float32)

    network = MeanColour()
    systems = open_systems([str(weights)], [UNSYNCED])
    result = run(systems, features=network)
    assert result.features is not None and result.features["network"] == "mean colour"
    fids = {system.system: system.fid for system in result.systems}
    assert fids["real"] is None
    assert fids["tiny"] is not None and fids["tiny"] > 1
    calls = network.num_calls
    again = run(systems, features=network)
    assert without_time(again) == without_time(result) and network.num_calls == calls


class PicklingRay:
    """As much of Ray as is used: on the spot, from another working folder, with everything sent as bytes."""

    def __init__(self, elsewhere: Path) -> None:
        self.elsewhere = elsewhere

    def init(self, **_options: object) -> None: ...

    def shutdown(self) -> None: ...

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}

    def remote(self, function):
        def send(*arguments):
            sent = pickle.dumps((function, arguments))

            def work():
                with contextlib.chdir(self.elsewhere):
                    called, given = pickle.loads(sent)
                    return pickle.dumps(called(*given))

            return work

        return SimpleNamespace(remote=send)

    def wait(self, running):
        return running[:1], running[1:]

    def get(self, complete):
        return [pickle.loads(work()) for work in complete]


def test_a_cluster_works_from_any_folder(
    footage: tuple[Path, PairList],
    weights: Path,
    judging: Judging,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, listed = footage
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setitem(sys.modules, "ray", PicklingRay(tmp_path / "elsewhere"))
    for name, target in (("set", root), ("weights", weights), ("expert", judging.judge)):
        (tmp_path / name).symlink_to(str(target).removeprefix("expert="))
    monkeypatch.chdir(tmp_path)
    two = dataclasses.replace(listed, pairs=listed.pairs[:3])
    result = run_benchmark(
        two,
        "set",
        open_systems(["weights"], [UNSYNCED, REAL]),
        "out",
        judging=dataclasses.replace(judging, judge="expert=expert"),
        making=MAKING,
        ray="auto",
    )
    assert [row.score.failure_kind for row in result.systems[0].rows] == [None, None, "no face"]
    assert BenchmarkResult.read(tmp_path / "out") == result
    assert result.systems[0].rows[0].output is not None
    assert not result.systems[0].rows[0].output.is_absolute()


def test_speakers_of_a_manifest(run: Run, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("file,speaker\nsomewhere/v_0.mp4,anna\nv_1.mpg,bert\n")
    rows = run(open_systems([], [UNSYNCED]), manifest=manifest).systems[0].rows
    speakers = {row.video: row.speaker for row in rows}
    assert (speakers["v_0.mp4"], speakers["v_1.mp4"], speakers["v_2.mp4"]) == ("anna", "bert", None)


def test_systems_by_name(weights: Path, tmp_path: Path) -> None:
    (system,) = open_systems([f"other={weights}"], [UNSYNCED, REAL])
    assert (system.name, system.model) == ("other", str(weights)) and len(system.digest or "") == 64
    with pytest.raises(UsageError, match="Two systems are called 'tiny'"):
        open_systems([str(weights), str(weights)])
    with pytest.raises(WeightsError, match="no weights and no file"):
        open_systems(["nobody"])
    with pytest.raises(UsageError, match="no system to be scored"):
        open_systems([], [UNSYNCED, REAL])
    with pytest.raises(UsageError, match="cannot be left out"):
        open_systems([], ["tiny"])


def test_a_root_that_is_none(run: Run, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        run_benchmark(PairList("a", ()), tmp_path / "gone", [System(REAL)], tmp_path / "out")
