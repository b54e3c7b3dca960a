"""A pair list → videos by every system → scores: resumable, on several processes or a cluster, failures as rows.

Everything is kept as soon as it is there, under what it depends on: a video under the contents of the two files it is
made of, the weights and the options (`made.jsonl`), a score under the contents of the video and the judge
(`scores.jsonl`). So a run goes on where it stopped, a longer list or one more system costs only what is new, and a file
that was lost, damaged or exchanged is made again. What Lipsmith itself did wrong is tried again, too.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import lipsmith
from lipsmith.data.journal import alone_in
from lipsmith.data.sources import VIDEO_SUFFIXES, read_manifest
from lipsmith.data.storage import room_for
from lipsmith.errors import (
    DataError,
    LipsmithError,
    OutputError,
    ProvenanceError,
    RuntimeUnavailableError,
    UsageError,
    WeightsError,
)
from lipsmith.evaluation.benchmark_result import REAL, BenchmarkResult, BenchmarkRow, SystemRows
from lipsmith.evaluation.fid import FeatureExtractor, FeatureStatistics, frechet_distance
from lipsmith.evaluation.file_score import (
    FailureKind,
    FileScore,
    FileScorer,
    Protocol,
    ScoreSettings,
    ScoreStore,
)
from lipsmith.evaluation.image_quality import (
    IdentityNetwork,
    PairNetwork,
    QualityTools,
    compare_files,
    fit_videos,
)
from lipsmith.evaluation.line_store import LineStore
from lipsmith.evaluation.pairs import SOUND_SUFFIXES, ListedPair, PairList, find_media
from lipsmith.evaluation.systems import CannotMakeError, Made, MakingOptions, System, make_video
from lipsmith.faces.detect import resolve_detector
from lipsmith.machine import usable_cores
from lipsmith.provenance.identity import load_or_create_identity
from lipsmith.spread import spread_work
from lipsmith.training.environment import package_commit
from lipsmith.weights.store import file_sha256

logger = logging.getLogger(__name__)

MADE_NAME, SCORES_NAME, QUALITY_NAME, FID_NAME = "made.jsonl", "scores.jsonl", "quality.jsonl", "fid.jsonl"
VIDEOS_FOLDER = "videos"
# Beside the video it was made of, a generated one should equal it but for the mouth: these numbers say so whatever it
# says. The others compare mouths, and mean something where both say the same words.
_OF_ANY_WORDS = ("identity_similarity", "unchanged_difference", "flicker")
_OF_THE_SAME_WORDS = (*_OF_ANY_WORDS, "psnr_lower", "ssim_lower", "lpips_lower", "mouth_distance")
QUALITY_FORMAT = 1  # part of the key of what is kept of pictures: raise it when the numbers change
Progress = Callable[[str, int, int], None] | None
_PACKAGES = ("av", "numpy", "opencv-python-headless", "openvino", "torch")


@dataclass(frozen=True)
class Judging:
    """What scores the videos, in a form that can be sent to other processes; see `FileScorer.open`."""

    judge: str | None = None
    protocol: Protocol = "tracked-crop"
    settings: ScoreSettings = field(default_factory=ScoreSettings)
    device: str = "auto"
    threads: int | None = None
    download: bool = False


@dataclass(frozen=True)
class QualityFiles:
    """What looks at pictures: networks beside the measures that need none; see `image_quality.QualityTools`."""

    identity: Path | None = None
    perceptual: Path | None = None
    device: str = "cpu"
    detector: str = "mtcnn"


@dataclass(frozen=True)
class _Place:
    """A row to be: one pair by one system.

    `key` is what its video is kept under. `made` is known from the start where nothing is to be made: because the
    system makes nothing, or because there is no such file, and then no key either.
    """

    system: System
    pair: ListedPair
    video: Path
    audio: Path
    key: str | None
    made: Made | None = None


@dataclass(frozen=True)
class _Task:
    """What is missing of one video: to be made, to be scored, to be compared with what it was made of; None: is not.

    `file` is the video, or where it is to be; `name` is its path in the benchmark's folder.
    """

    key: str
    system: System
    video: Path
    audio: Path
    file: Path
    name: str
    making: MakingOptions | None
    judging: Judging | None
    quality: QualityFiles | None


@dataclass(frozen=True)
class _Outcome:
    """What became of a task; None of what was not asked for, or could not be tried."""

    task: _Task
    made: Made | None = None
    score: FileScore | None = None
    quality: dict[str, float] | None = None


def run_benchmark(
    listed: PairList,
    root: Path | str,
    systems: Sequence[System],
    output: Path | str,
    *,
    audio_root: Path | str | None = None,
    judging: Judging | None = None,
    making: MakingOptions | None = None,
    quality: QualityFiles | None = None,
    features: FeatureExtractor | None = None,
    manifest: Path | str | None = None,
    jobs: int | None = None,
    ray: str | None = None,
    command: str = "",
    on_progress: Progress = None,
) -> BenchmarkResult:
    """Make and score every pair by every system, and write the result into `output`; see the module.

    Args:
        listed: which face says which speech.
        root: folder that the list's names are relative to, see `pairs.find_media`.
        systems: see `systems.open_systems`.
        output: folder of videos, of what is kept, and of `benchmark.json` and `benchmark.csv`. No video in it is
            replaced that was made of something else.
        audio_root: the same of the sounds; None: `root`.
        judging, making: how.
        quality: also compare every video with the one it was made of; None: not.
        features: also the FID of every system's face crops and the real videos', by this network; None: not.
        manifest: table of speakers, for the rows.
        jobs: processes; None: one a core, or 1 where the runtime is not on the CPU.
        ray: address of a Ray cluster to work on instead; its machines must see all files at the same paths.
        command: that asked for it, kept with the result.
        on_progress: called with (what is counted, how many are done, how many there are).

    Raises:
        WeightsError, RuntimeUnavailableError, UsageError: of judge, weights and options, before any long work.
        OutputError: no room, or another run is writing the folder. What was finished stays.
    """
    root, output = Path(root), Path(output)
    making, judging = making or MakingOptions(), judging or Judging()
    if not root.is_dir():
        raise UsageError(
            f"The root {root} is no folder: give the folder that the list's names are relative to."
        )
    scorer = _scorer(judging)
    judging = dataclasses.replace(judging, download=False)  # done, if it was asked for
    speakers = _speakers(listed, manifest)
    with room_for(output):
        output.mkdir(parents=True, exist_ok=True)
    with alone_in(output, "evaluate benchmark"):
        for partial in output.glob(f"{VIDEOS_FOLDER}/*/.*.partial-*"):
            partial.unlink(missing_ok=True)
        bench = _Bench(output, scorer, making, quality)
        places = bench.places(listed, root, root if audio_root is None else Path(audio_root), systems)
        tasks = bench.missing(places, judging)
        if any(task.making is not None and task.system.model is not None for task in tasks):
            load_or_create_identity()  # before several processes would each make one
        total = len({place.key for place in places if place.key is not None})
        done = total - len(tasks)
        if on_progress:
            on_progress("videos", done, total)
        work = _spread(tasks, _num_processes(jobs, making, len(tasks)), ray)
        try:
            with contextlib.closing(work) as outcomes:
                for outcome in outcomes:
                    bench.note(outcome)
                    done += 1
                    if on_progress:
                        on_progress("videos", done, total)
        except OutputError as error:
            raise OutputError(
                f"{error} {done} of {total} videos are done; the same command goes on."
            ) from error
        tables = [
            SystemRows(
                system.name,
                system.digest,
                tuple(
                    bench.row(place, speakers.get(place.pair.video))
                    for place in places
                    if place.system == system
                ),
                facts=dict(system.facts),
            )
            for system in systems
        ]
        if features is not None:
            tables = [
                dataclasses.replace(
                    table,
                    fid=bench.fid(
                        table, [place for place in places if place.system == system], features, on_progress
                    ),
                )
                for system, table in zip(systems, tables, strict=True)
            ]
        result = BenchmarkResult(
            name=listed.name,
            list_digest=listed.digest,
            num_pairs=len(listed.pairs),
            systems=tuple(tables),
            scorer=scorer.to_dict(),
            versions=_versions(),
            machine=_machine(),
            features=None if features is None else _features(features),
            options={**making.to_dict(), "command": command},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        result.write(output)
    return result


class _Bench:
    """What is known of a benchmark's folder."""

    def __init__(
        self, output: Path, scorer: FileScorer, making: MakingOptions, quality: QualityFiles | None
    ) -> None:
        self._output, self._scorer, self._making, self._quality = output, scorer, making, quality
        self._made = LineStore[Made](output / MADE_NAME, "made", Made.to_json, Made.from_json)
        self._scores = ScoreStore(output / SCORES_NAME)
        self._qualities = LineStore[dict[str, float]](output / QUALITY_NAME, "quality", dict, dict)
        self._fids = LineStore[float](output / FID_NAME, "fid", float, float)
        # Of this run alone: what went wrong in Lipsmith itself is not kept, and so tried again the next time.
        self._made_now: dict[str, Made] = {}
        self._scores_now: dict[str, FileScore] = {}
        self._digests: dict[Path, str] = {}
        self._real_faces: dict[tuple[Path, ...], FeatureStatistics] = {}

    def places(
        self, listed: PairList, root: Path, audio_root: Path, systems: Sequence[System]
    ) -> list[_Place]:
        """All rows to be, by system and pair."""
        found = [
            (pair, find_media(root, pair.video, "video"), find_media(audio_root, pair.audio, "audio"))
            for pair in listed.pairs
        ]
        return [self._place(system, *given) for system in systems for given in found]

    def _place(self, system: System, pair: ListedPair, video: Path, audio: Path) -> _Place:
        kind: FailureKind
        for path in (video, audio) if system.is_made else (video,):
            try:
                self._digest(path)
            except OSError as error:
                is_missing = isinstance(error, FileNotFoundError)
                kind, sentence = "unreadable", f"{path} cannot be read: {error.strerror or error}."
                if is_missing:
                    kind, sentence = "missing", f"There is no file {path}."
                return _Place(system, pair, video, audio, None, Made(failure=sentence, failure_kind=kind))
        if not system.is_made:
            made = Made(str(video), self._digest(video))
            return _Place(system, pair, video, audio, f"{REAL} {made.digest}", made)
        key = system.key(self._digest(video), self._digest(audio), self._making)
        return _Place(system, pair, video, audio, key)

    def _digest(self, path: Path) -> str:
        """SHA-256 of a file's content, computed once."""
        if path not in self._digests:
            self._digests[path] = file_sha256(path)
        return self._digests[path]

    def _file(self, place: _Place, made: Made) -> Path:
        assert made.file is not None
        return self._output / made.file if place.system.is_made else Path(made.file)

    def made(self, place: _Place) -> Made | None:
        """What is known of a row's video; None where it is to be made."""
        if place.made is not None or place.key is None:
            return place.made
        kept = self._made_now.get(place.key) or self._made.get(place.key)
        if kept is None or kept.file is None:
            return kept
        try:
            return kept if self._digest(self._file(place, kept)) == kept.digest else None
        except OSError:
            return None

    def missing(self, places: Sequence[_Place], judging: Judging) -> list[_Task]:
        """What is to be done, each thing once."""
        tasks: dict[str, _Task] = {}
        for place in places:
            if place.key is None or place.key in tasks:
                continue
            made = self.made(place)
            if made is None:
                name = f"{_plain(place.pair.video)}__{_plain(place.pair.audio)}.{place.key[:8]}.mp4"
                name = f"{VIDEOS_FOLDER}/{place.system.name}/{name}"
                file = self._output / name
                is_scored = is_compared = False
            elif made.file is None or made.digest is None:
                continue
            else:
                name, file = made.file, self._file(place, made)
                is_scored = self._scores.get(self._scorer.key(made.digest)) is not None
                is_compared = self._qualities.get(self._quality_key(place.video, made.digest)) is not None
            wants_quality = self._quality is not None and place.system.is_made and not is_compared
            if made is None or not is_scored or wants_quality:
                tasks[place.key] = _Task(
                    place.key,
                    place.system,
                    place.video,
                    place.audio,
                    file,
                    name,
                    making=self._making if made is None else None,
                    judging=None if is_scored else judging,
                    quality=self._quality if wants_quality else None,
                )
        return list(tasks.values())

    def note(self, outcome: _Outcome) -> None:
        """Keep what was found."""
        task, made, score = outcome.task, outcome.made, outcome.score
        if made is not None:
            self._made_now[task.key] = made
            if made.digest is not None:
                self._digests[task.file] = made.digest
            if made.failure_kind != "failed":
                self._made.keep(task.key, made)
        if score is not None:
            self._scores_now[task.key] = score
            if score.digest is not None and score.failure_kind != "failed":
                self._scores.keep(self._scorer.key(score.digest), score)
        if outcome.quality is not None:
            self._qualities.keep(self._quality_key(task.video, self._digest(task.file)), outcome.quality)

    def row(self, place: _Place, speaker: str | None) -> BenchmarkRow:
        """A row of the result, when everything is done."""
        made = self.made(place)
        output: Path | None = None
        quality: dict[str, float] | None = None
        if made is None or made.digest is None:
            made = made or Made(failure="The video vanished while it was scored.", failure_kind="failed")
            score = self._scorer.failed(place.video, made.failure_kind or "failed", made.failure or "")
        else:
            output = self._file(place, made)
            score = self._scores.get(self._scorer.key(made.digest)) or self._scores_now[place.key or ""]
            score = dataclasses.replace(score, path=output)
            if self._quality is not None:
                quality = self._qualities.get(self._quality_key(place.video, made.digest))
        return BenchmarkRow(
            video=place.pair.video,
            audio=place.pair.audio,
            output=output,
            score=score,
            quality=quality or {},
            seconds=made.seconds,
            speaker=speaker,
        )

    def fid(
        self, table: SystemRows, places: Sequence[_Place], features: FeatureExtractor, progress: Progress
    ) -> float | None:
        """Of the faces that a system made and those of the videos it made them of; None of a system without weights."""
        if table.model_digest is None:
            return None
        rows = [
            (row.output, place.video)
            for row, place in zip(table.rows, places, strict=True)
            if row.output is not None
        ]
        made = tuple(dict.fromkeys(path for path, _ in rows))
        real = tuple(dict.fromkeys(path for _, path in rows))
        digests = [[self._digest(path) for path in paths] for paths in (made, real)]
        key = hashlib.sha256(json.dumps([features.digest, *digests]).encode()).hexdigest()
        kept = self._fids.get(key)
        if kept is not None:
            return kept
        shown = f"faces of {table.system}"
        try:
            if real not in self._real_faces:
                self._real_faces[real] = self._fit(real, features, "real faces", progress)
            value = frechet_distance(self._fit(made, features, shown, progress), self._real_faces[real])
        except DataError as error:
            logger.warning("%s has no FID: %s", table.system, error)
            return None
        self._fids.keep(key, value)
        return value

    def _fit(
        self, paths: Sequence[Path], features: FeatureExtractor, shown: str, progress: Progress
    ) -> FeatureStatistics:
        def show(done: int, total: int) -> None:
            if progress:
                progress(shown, done, total)

        def leave_out(path: Path, reason: str) -> None:
            logger.warning("%s is in no FID: %s", path, reason)

        detector = resolve_detector(self._making.detector)
        return fit_videos(paths, features, detector, on_failure=leave_out, on_progress=show)

    def _quality_key(self, video: Path, digest: str) -> str:
        files = self._quality or QualityFiles()
        networks = [
            None if path is None else self._digest(path) for path in (files.identity, files.perceptual)
        ]
        parts = json.dumps([QUALITY_FORMAT, self._digest(video), digest, networks])
        return hashlib.sha256(parts.encode()).hexdigest()


def _spread(tasks: list[_Task], jobs: int, ray: str | None) -> Generator[_Outcome, None, None]:
    if ray is not None:
        tasks = [_with_threads(_for_cluster(task), 1) for task in tasks]
    elif jobs > 1:
        tasks = [_with_threads(task, max(1, usable_cores() // jobs)) for task in tasks]
    return spread_work(
        _work, tasks, jobs=jobs, ray=ray, name_of=lambda task: f"{task.video.name} by {task.system.name}"
    )


def _with_threads(task: _Task, threads: int) -> _Task:
    return dataclasses.replace(
        task,
        making=task.making and dataclasses.replace(task.making, threads=threads),
        judging=task.judging and dataclasses.replace(task.judging, threads=threads),
    )


def _for_cluster(task: _Task) -> _Task:
    """The same from any working folder."""
    judging, quality = task.judging, task.quality
    if judging is not None and judging.judge is not None:
        form, sign, path = judging.judge.rpartition("=")
        judging = dataclasses.replace(judging, judge=f"{form}{sign}{_absolute(path)}")
    if quality is not None:
        identity, perceptual = (path and path.resolve() for path in (quality.identity, quality.perceptual))
        quality = dataclasses.replace(quality, identity=identity, perceptual=perceptual)
    model = task.system.model
    return dataclasses.replace(
        task,
        system=dataclasses.replace(task.system, model=model and _absolute(model)),
        video=task.video.resolve(),
        audio=task.audio.resolve(),
        file=task.file.resolve(),
        judging=judging,
        quality=quality,
    )


def _absolute(name_or_path: str) -> str:
    path = Path(name_or_path).expanduser()
    return str(path.resolve()) if path.exists() else name_or_path


def _work(task: _Task) -> _Outcome:
    """Do what a task says; what is wrong with its files, and what Lipsmith does wrong, is part of the outcome."""
    made = None
    if task.making is not None:
        made = _make(task, task.making)
        if made.digest is None:
            return _Outcome(task, made)
    score = None if task.judging is None else _scorer(task.judging).score(task.file)
    return _Outcome(task, made, score, None if task.quality is None else _compare(task, task.quality))


def _make(task: _Task, making: MakingOptions) -> Made:
    try:
        seconds = make_video(task.system, task.video, task.audio, task.file, making)
        return Made(task.name, file_sha256(task.file), round(seconds, 3))
    except CannotMakeError as error:
        return Made(failure=str(error), failure_kind=error.kind)
    except (OutputError, RuntimeUnavailableError, WeightsError, UsageError, ProvenanceError):
        raise  # of this machine or of the options, not of the pair
    except LipsmithError as error:
        return Made(failure=str(error), failure_kind="not generated")
    except Exception as error:
        # One strange pair must not end a night's work; the row and the log say what to report.
        logger.exception("Making %s failed", task.file)
        sentence = f"An error in Lipsmith itself: {type(error).__name__}: {error}."
        return Made(failure=sentence, failure_kind="failed")


def _compare(task: _Task, files: QualityFiles) -> dict[str, float]:
    found = compare_files(task.file, task.video, _tools(files)).to_dict()
    names = _OF_THE_SAME_WORDS if task.audio.resolve() == task.video.resolve() else _OF_ANY_WORDS
    return {name: found[name] for name in names if found[name] is not None}


@functools.cache
def _scorer(judging: Judging) -> FileScorer:
    return FileScorer.open(
        judging.judge,
        judging.protocol,
        settings=judging.settings,
        device=judging.device,
        threads=judging.threads,
        download=judging.download,
    )


@functools.cache
def _tools(files: QualityFiles) -> QualityTools:
    return QualityTools(
        resolve_detector(files.detector),
        identity=None if files.identity is None else IdentityNetwork(files.identity, files.device),
        perceptual=None if files.perceptual is None else PairNetwork(files.perceptual, files.device),
    )


def _num_processes(jobs: int | None, making: MakingOptions, num_tasks: int) -> int:
    is_on_cpu = making.device == "cpu" or (making.device == "auto" and making.runtime == "openvino")
    wanted = jobs or (usable_cores() if is_on_cpu else 1)
    return max(1, min(wanted, num_tasks))


def _speakers(listed: PairList, manifest: Path | str | None) -> dict[str, str]:
    """Whose face each video of the list shows, as far as the manifest says."""
    if manifest is None:
        return {}
    known = read_manifest(Path(manifest))
    facts = {pair.video: known.row(pair.video) for pair in listed.pairs}
    return {video: row["speaker"] for video, row in facts.items() if row and row.get("speaker")}


def _plain(name: str) -> str:
    """A name of a list as part of a file's name."""
    stem = (
        Path(name).with_suffix("")
        if Path(name).suffix.lower() in VIDEO_SUFFIXES | SOUND_SUFFIXES
        else Path(name)
    )
    return re.sub(r"[^\w.+-]+", "_", stem.as_posix())[-60:].strip("._")


def _features(features: FeatureExtractor) -> dict[str, Any]:
    return {
        "network": features.name,
        "sha256": features.digest,
        "is_standard": features.is_standard,
        "crop": "tracked face crop, resampled to 299 × 299, every fifth frame at 25 a second",
    }


def _versions() -> dict[str, Any]:
    versions: dict[str, Any] = {
        "lipsmith": lipsmith.__version__,
        "commit": package_commit(Path(lipsmith.__file__).parent),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _machine() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
    }
