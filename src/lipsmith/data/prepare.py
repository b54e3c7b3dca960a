"""Raw videos → prepared clips: one face track per clip, crops with a margin, the mel, exact times, an index.

Nothing is corrected silently: what is left out is written to `dropped.jsonl` with its reason and counted in the report.
A run that was cut off goes on where it stopped.
"""

import csv
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lipsmith.audio.mel import mel_from_blocks
from lipsmith.data.clips import (
    DROPPED_NAME,
    INDEX_NAME,
    MARGIN_SHARE,
    Clip,
    ClipRecord,
    encode_crop,
    mel_slice,
    save_clip,
    stored_size,
)
from lipsmith.errors import DataError, LipsmithError
from lipsmith.faces.crop import CropRule
from lipsmith.faces.detect import FaceDetector, resolve_detector
from lipsmith.faces.track import FaceTrack, FaceTracker
from lipsmith.geometry import Crop
from lipsmith.media.probe import probe
from lipsmith.media.read import first_frame_time, read_frames, read_samples
from lipsmith.timebase import SAMPLE_RATE_HZ, TRAINING_RATE_HZ

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".mkv", ".mov", ".avi", ".webm", ".flv", ".mpg", ".mpeg", ".m4v", ".ts", ".wmv", ".3gp")
)

# Names of the manifest's columns that other people's lists use, and ours.
_MANIFEST_COLUMNS = {
    "speaker": ("speaker", "speaker_id"),
    "licence": ("licence", "license", "content_licence_guess"),
    "use": ("use",),
    "collection": ("collection", "class"),
    "origin": ("origin", "source", "source_repo", "url"),
}
_NEVER_FOR_SYNC = ("faces-only", "test-only")  # values of `use` whose sound does not belong to the lips


@dataclass(frozen=True)
class PrepareOptions:
    """What becomes a clip, and how it is cut.

    Attributes:
        face_size: Side of the face crop that the networks see, pixels.
        min_face_pixels: Least median side of a face in the video.
        min_seconds: Least length of a clip.
        crop: Padding of the face box; must be the one of the weights to be trained.
        detector: Name in `lipsmith.faces.detect.DETECTORS`.
    """

    face_size: int = 96
    min_face_pixels: float = 48.0
    min_seconds: float = 1.0
    crop: CropRule = field(default_factory=CropRule)
    detector: str = "mtcnn"


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` found: counts of clips, frames and everything left out by reason."""

    output: Path
    num_videos: int
    num_clips: int
    num_frames: int
    seconds: float
    num_speakers: int
    dropped: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "output": str(self.output)}


@dataclass(frozen=True)
class _Job:
    path: Path
    name: str  # relative to its input folder
    facts: dict[str, str]


@dataclass(frozen=True)
class _Outcome:
    records: list[ClipRecord]
    dropped: list[dict[str, str]]


def find_videos(inputs: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Videos among `inputs` (files or folders, searched to any depth), each with its name relative to its input."""
    for given in inputs:
        if given.is_dir():
            for path in sorted(given.rglob("*")):
                if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
                    yield path, path.relative_to(given).as_posix()
        elif given.is_file():
            yield given, given.name
        else:
            raise DataError(f"{given} is neither a file nor a folder.")


def read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """Facts about videos from a table (TSV or CSV) with a column `file`: name without suffix → column → value.

    Known columns: speaker, licence, use, collection, origin, and the names other lists give them (`speaker_id`,
    `class`, `content_licence_guess` …). Files are matched without their suffix, since footage gets remuxed.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() != ".csv" else ","))
    if not rows or "file" not in rows[0]:
        raise DataError(f"{path} is not a manifest: it needs a header line with a column named `file`.")
    facts = {}
    for row in rows:
        known = {
            ours: next((row[name] for name in names if row.get(name)), "")
            for ours, names in _MANIFEST_COLUMNS.items()
        }
        facts[_stem(row["file"])] = known
    return facts


def _stem(name: str) -> str:
    return Path(name).with_suffix("").as_posix()


def prepare(
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    manifest: Path | str | None = None,
    options: PrepareOptions | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Turn videos into prepared clips under `output`; see the module's text for what is written.

    Args:
        inputs: Videos, or folders of videos.
        output: Folder to write; videos that it already knows are not done again.
        manifest: Table of speakers and licences, see `read_manifest`. Without one the speaker is the name of the folder
            that a video lies in, or the video's own name when it lies in none.
        options: Limits and crop.
        workers: Processes; as many as there are cores when None.
        on_progress: Called with (videos done, videos in all).

    Raises:
        DataError: No videos among the inputs, or not one usable clip.
    """
    options = options or PrepareOptions()
    output = Path(output)
    videos = list(find_videos(Path(given) for given in inputs))
    if not videos:
        raise DataError(f"No videos found in {', '.join(map(str, inputs))}.")
    facts = read_manifest(Path(manifest)) if manifest else None
    output.mkdir(parents=True, exist_ok=True)
    done = _already_done(output)
    jobs = []
    for path, name in videos:
        if name not in done:
            jobs.append(_Job(path, name, _facts_about(name, facts)))
    finished = len(videos) - len(jobs)
    if on_progress:
        on_progress(finished, len(videos))
    for outcome in _run(jobs, output, options, workers or os.cpu_count() or 1):
        _append(output / INDEX_NAME, [record.to_json() for record in outcome.records])
        _append(output / DROPPED_NAME, [json.dumps(row, ensure_ascii=False) for row in outcome.dropped])
        finished += 1
        if on_progress:
            on_progress(finished, len(videos))
    return _report(output, len(videos))


def _facts_about(name: str, facts: dict[str, dict[str, str]] | None) -> dict[str, str]:
    """What the manifest says of a video: by its whole name, or by its end where just one row ends like that."""
    stem = _stem(name)
    if facts is None:
        return _facts_from_path(name)
    if stem in facts:
        return facts[stem]
    ending = [known for listed, known in facts.items() if listed.endswith(f"/{stem}")]
    return ending[0] if len(ending) == 1 else _facts_from_path(name)


def _facts_from_path(name: str) -> dict[str, str]:
    path = Path(name)
    return {"speaker": path.parent.name or path.stem, "collection": path.parent.as_posix().strip(".")}


def _already_done(output: Path) -> set[str]:
    """Sources that stand in the index or in the list of what was dropped."""
    done = set()
    for name in (INDEX_NAME, DROPPED_NAME):
        path = output / name
        for line in path.read_text().splitlines() if path.is_file() else ():
            done.add(json.loads(line)["source"])
    return done


def _append(path: Path, lines: list[str]) -> None:
    if lines:
        with path.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))


def _run(jobs: list[_Job], output: Path, options: PrepareOptions, workers: int) -> Iterator[_Outcome]:
    """Outcomes in the order in which they finish, with no more than a few jobs handed out at a time."""
    if workers <= 1:
        _start_worker(options)
        yield from (_prepare_video(job, output, options) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(options,)
    ) as pool:
        waiting = iter(jobs)
        running: set[Future[_Outcome]] = set()
        try:
            while True:
                while len(running) < 2 * workers and (job := next(waiting, None)) is not None:
                    running.add(pool.submit(_prepare_video, job, output, options))
                if not running:
                    return
                complete, running = wait(running, return_when=FIRST_COMPLETED)
                for future in complete:
                    yield future.result()
        finally:
            for future in running:
                future.cancel()


_worker_detector: FaceDetector | None = None


def _start_worker(options: PrepareOptions) -> None:
    global _worker_detector
    cv2.setNumThreads(1)
    _worker_detector = resolve_detector(options.detector)


def _prepare_video(job: _Job, output: Path, options: PrepareOptions) -> _Outcome:
    """All clips of one video. A video that cannot be read is a row of what was dropped, not the end of the run."""
    dropped: list[dict[str, str]] = []

    def drop(reason: str, detail: str) -> None:
        dropped.append({"source": job.name, "reason": reason, "detail": detail})

    if job.facts.get("use") in _NEVER_FOR_SYNC:
        drop("not for sync", f"the manifest says {job.facts['use']}")
        return _Outcome([], dropped)
    try:
        info = probe(job.path)
        if info.video is None or info.is_image:
            drop("no picture", "the file has no video stream")
        elif info.audio is None:
            drop("no sound", "the file has no audio stream")
        if dropped:
            return _Outcome([], dropped)
        assert info.video is not None and _worker_detector is not None
        rate = info.video.rate
        tracker = FaceTracker(_worker_detector, rate=rate)
        times: list[Fraction] = []
        for frame in read_frames(job.path):
            tracker.add(frame.image)
            times.append(frame.time)
        tracks = _one_at_a_time(tracker.finish())
        if not tracks:
            drop("no face", f"no face in {len(times)} frames")
            return _Outcome([], dropped)
        samples = read_samples(job.path, origin=first_frame_time(job.path))
        sound_seconds = Fraction(len(samples), SAMPLE_RATE_HZ)
        if not np.any(np.abs(samples) > 1e-4):
            drop("silent", "the sound is digital silence")
            return _Outcome([], dropped)
        mel = mel_from_blocks([samples])
        chosen = []
        for track in tracks:
            indices = _frames_at_training_rate(track, times, sound_seconds)
            seconds = len(indices) / float(TRAINING_RATE_HZ)
            boxes = track.boxes
            side = float(np.median(np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))))
            where = f"frames {track.first_frame}–{track.last_frame}"
            if seconds < options.min_seconds:
                drop("too short", f"{where}: {seconds:.2f} s of face with sound")
            elif side < options.min_face_pixels:
                drop("face too small", f"{where}: {side:.0f} pixels")
            elif not indices:
                drop("no sound", f"{where}: the sound ends before")
            else:
                chosen.append((track, indices, side))
        records = []
        for clip in _cut(job, chosen, times, mel, float(rate), options):
            save_clip(clip, output)
            records.append(clip.record)
        return _Outcome(records, dropped)
    except LipsmithError as error:
        drop("unreadable", str(error))
        return _Outcome([], dropped)


def _one_at_a_time(tracks: list[FaceTrack]) -> list[FaceTrack]:
    """The largest track of every moment: which of two people speaks is not known, so the smaller ones are left."""
    chosen: list[FaceTrack] = []
    for track in tracks:  # the tracker returns the largest first
        if all(
            track.last_frame < other.first_frame or track.first_frame > other.last_frame for other in chosen
        ):
            chosen.append(track)
    return sorted(chosen, key=lambda track: track.first_frame)


def _frames_at_training_rate(track: FaceTrack, times: list[Fraction], sound_seconds: Fraction) -> list[int]:
    """Frames of `track` nearest to each tick of the training rate, as long as there is sound.

    A frame keeps its own exact time, so the choice adds no error between picture and sound; only the spacing of the
    frames varies, by half a source frame at most.
    """
    last = min(track.last_frame, len(times) - 1)
    own = times[track.first_frame : last + 1]
    if not own:
        return []
    seconds = np.array([float(t) for t in own])
    ticks = np.arange(
        float(own[0]), min(float(own[-1]), float(sound_seconds)) + 1e-9, 1 / float(TRAINING_RATE_HZ)
    )
    right = np.clip(np.searchsorted(seconds, ticks), 1, max(len(seconds) - 1, 1))
    if len(seconds) == 1:
        return [track.first_frame]
    nearest = np.where(ticks - seconds[right - 1] <= seconds[right] - ticks, right - 1, right)
    return [track.first_frame + int(i) for i in nearest]


def _cut(
    job: _Job,
    chosen: list[tuple[FaceTrack, list[int], float]],
    times: list[Fraction],
    mel: np.ndarray,
    rate: float,
    options: PrepareOptions,
) -> Iterator[Clip]:
    """Second pass over the video: the crops of the chosen tracks."""
    if not chosen:
        return
    side = stored_size(options.face_size)
    margin = float(MARGIN_SHARE)
    wanted: dict[int, int] = {}  # frame → position in `chosen`
    for position, (_, indices, _) in enumerate(chosen):
        wanted.update(dict.fromkeys(indices, position))
    crops: dict[int, np.ndarray] = {}
    sharpness: dict[int, float] = {}
    current = 0
    for frame in read_frames(job.path):
        position = wanted.get(frame.index, -1)
        if position < 0:
            continue
        if position != current:
            yield from _finish(job, chosen[current], current, crops, sharpness, times, mel, rate, options)
            crops, sharpness, current = {}, {}, position
        box = chosen[position][0].box(frame.index)
        assert box is not None
        tight = options.crop.crop(box)
        stored = Crop.around(tight.box.padded(margin, margin, margin, margin), side).extract(frame.image)
        crops[frame.index] = encode_crop(stored)
        margin_pixels = (side - options.face_size) // 2
        core = stored[margin_pixels:-margin_pixels, margin_pixels:-margin_pixels]
        sharpness[frame.index] = float(
            cv2.Laplacian(cv2.cvtColor(core, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var()
        )
    yield from _finish(job, chosen[current], current, crops, sharpness, times, mel, rate, options)


def _finish(
    job: _Job,
    choice: tuple[FaceTrack, list[int], float],
    position: int,
    crops: dict[int, np.ndarray],
    sharpness: dict[int, float],
    times: list[Fraction],
    mel: np.ndarray,
    rate: float,
    options: PrepareOptions,
) -> Iterator[Clip]:
    _, indices, face_pixels = choice
    indices = [index for index in indices if index in crops]
    if not indices:
        return
    own_times = [times[index] for index in indices]
    part, first = mel_slice(mel, own_times)
    digest = hashlib.sha256(f"{job.name}#{position}".encode()).hexdigest()[:8]
    record = ClipRecord(
        id=f"{Path(job.name).stem}-{digest}",
        source=job.name,
        speaker=job.facts.get("speaker") or Path(job.name).stem,
        num_frames=len(indices),
        face_size=options.face_size,
        rate_hz=rate,
        face_pixels=round(face_pixels, 1),
        sharpness=round(float(np.median([sharpness[index] for index in set(indices)])), 1),
        licence=job.facts.get("licence") or "unknown",
        use=job.facts.get("use") or "unknown",
        collection=job.facts.get("collection") or "",
        origin=job.facts.get("origin") or "",
    )
    yield Clip(record, [crops[index] for index in indices], own_times, part, first)


def _report(output: Path, num_videos: int) -> PrepareReport:
    from lipsmith.data.clips import dropped_counts, read_index

    dropped = dropped_counts(output)
    try:
        records = read_index(output)
    except DataError as error:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items()))
        raise DataError(f"None of {num_videos} videos gave a usable clip ({reasons}).") from error
    frames = sum(record.num_frames for record in records)
    return PrepareReport(
        output,
        num_videos,
        len(records),
        frames,
        frames / float(TRAINING_RATE_HZ),
        len({record.speaker for record in records}),
        dropped,
    )
