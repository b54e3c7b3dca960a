"""LSE-D, LSE-C and AV offset of video files, with a row for every file: a score, or the reason why there is none.

Two protocols share the name LSE, and give other numbers:

* **whole-clip**, of LRS2, LRS3 and LRW, whose clips are face crops: each whole frame, stretched to what the judge sees;
* **tracked-crop**, of real videos: split into shots, the faces of each shot followed, each face cropped around its box,
  and every track of at least `ScoreSettings.min_track_frames` scored by itself, with its own stretch of the sound. The
  score of the file is that of the **most present** track: the one whose face has the largest area, summed over its
  frames. It is the face that `lipsmith sync` repaints, and never an average over people who do not speak.

In both the picture is taken at 25 frames a second, from any rate: at each tick the nearest frame. The sound is lined up
with the first frame by the file's own time stamps.
"""

import dataclasses
import functools
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from lipsmith.data.sources import VIDEO_SUFFIXES
from lipsmith.errors import InputError, LipsmithError, RuntimeUnavailableError, UsageError
from lipsmith.evaluation.judges import FileJudge, Stretch, resolve_judge
from lipsmith.evaluation.line_store import LineStore
from lipsmith.evaluation.lse import LseScore
from lipsmith.evaluation.sync_score import Interval, bootstrap_ratio
from lipsmith.faces.detect import FaceDetector, resolve_detector
from lipsmith.faces.track import FaceTrack, FaceTracker
from lipsmith.media.probe import probe
from lipsmith.media.read import Frame, first_frame_time, read_frames, read_samples
from lipsmith.timebase import TRAINING_RATE_HZ
from lipsmith.weights.store import file_sha256

logger = logging.getLogger(__name__)

Protocol = Literal["whole-clip", "tracked-crop"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
FailureKind = Literal[
    "missing", "unreadable", "no picture", "no sound", "no face", "too short", "not generated", "failed"
]
# Part of the key of kept scores: raise it when the same file and judge give other numbers than before.
SCORE_FORMAT = 1


@dataclass(frozen=True)
class ScoreSettings:
    """What of a video is scored in the tracked-crop protocol.

    Attributes:
        min_track_frames: shorter tracks, at 25 frames a second, are left out. The published pipeline
            leaves out those of less than 100.
        detector: name in `lipsmith.faces.detect.DETECTORS`.
    """

    min_track_frames: int = 25
    detector: str = "mtcnn"

    def __post_init__(self) -> None:
        if self.min_track_frames < 1:
            raise UsageError(f"A least track of {self.min_track_frames} frames: it must be at least 1.")


@dataclass(frozen=True)
class TrackScore:
    """The score of one face over one stretch of a video; frames are counted at 25 a second."""

    first_frame: int
    num_frames: int
    face_pixels: float
    """Median of the longer side of the face's box in the video."""
    failure: str | None
    lse_d: float | None
    lse_c: float | None
    av_offset_frames: int | None
    num_windows: int
    mean_distance: tuple[float | None, ...] = ()
    """Mean distance of the lips to the sound at each shift of the sound by −15 … 15 frames; None where too few meet."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(**{**values, "mean_distance": tuple(values["mean_distance"])})


@dataclass(frozen=True)
class FileScore:
    """One row: a file's score, or why it has none.

    Attributes:
        path: the file as it was named.
        failure: None, or a sentence that says why there is no score.
        failure_kind: the same in a word or two, to count by.
        lse_d, lse_c, av_offset_frames, num_windows: of the most present track, or of the whole clip. A positive offset
            means that the sound comes too early, in frames of 40 ms.
        duration_seconds: of the picture; None where it could not be read.
        tracks: every scored track, the most present first; of a whole clip its only one.
        protocol: see the module.
        judge: name of the judge.
        judge_digest: SHA-256 of its weights.
        digest: SHA-256 of the file; None where it could not be read.
        seconds: time spent on it.
    """

    path: Path
    failure: str | None
    failure_kind: FailureKind | None
    lse_d: float | None
    lse_c: float | None
    av_offset_frames: int | None
    num_windows: int
    duration_seconds: float | None
    tracks: tuple[TrackScore, ...]
    protocol: Protocol
    judge: str
    judge_digest: str
    digest: str | None
    seconds: float

    @property
    def is_scored(self) -> bool:
        """Whether there is a score."""
        return self.failure is None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return {**values, "path": str(self.path), "tracks": [track.to_dict() for track in self.tracks]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        tracks = tuple(TrackScore.from_dict(track) for track in values["tracks"])
        return cls(**{**values, "path": Path(values["path"]), "tracks": tracks})


@dataclass(frozen=True)
class FileSummary:
    """Many rows in a few numbers. Files without a score are in no average, and are counted beside it."""

    num_files: int
    num_scored: int
    failures: dict[str, int]
    """Kind of failure → number of files."""
    lse_d: Interval
    """Mean over the scored files, each counted once, with a 95 % bootstrap interval over files."""
    lse_c: Interval
    offsets: dict[int, int]
    """AV offset in frames → number of files."""
    av_offset_frames: Interval
    """Mean over the scored files; early and late ones cancel, so look at `offsets` too."""
    offset_within_one_share: Interval
    """Share of the scored files whose offset is −1, 0 or 1."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values; NaN as None."""
        return {
            "num_files": self.num_files,
            "num_scored": self.num_scored,
            "failures": self.failures,
            "lse_d": self.lse_d.to_dict(),
            "lse_c": self.lse_c.to_dict(),
            "offsets": {str(offset): count for offset, count in self.offsets.items()},
            "av_offset_frames": self.av_offset_frames.to_dict(),
            "offset_within_one_share": self.offset_within_one_share.to_dict(),
        }


def summarise_files(scores: Iterable[FileScore]) -> FileSummary:
    """Put the rows of many files together."""
    rows = list(scores)
    scored = [row for row in rows if row.is_scored]

    def mean(values: Sequence[float | None]) -> Interval:
        numbers = np.array(values, np.float64)
        return bootstrap_ratio(numbers, np.ones(len(numbers)), [str(place) for place in range(len(numbers))])

    found = [row.av_offset_frames for row in scored if row.av_offset_frames is not None]
    return FileSummary(
        num_files=len(rows),
        num_scored=len(scored),
        failures=dict(sorted(Counter(row.failure_kind for row in rows if row.failure_kind).items())),
        lse_d=mean([row.lse_d for row in scored]),
        lse_c=mean([row.lse_c for row in scored]),
        offsets=dict(sorted(Counter(found).items())),
        av_offset_frames=mean(found),
        offset_within_one_share=mean([abs(offset) <= 1 for offset in found]),
    )


class ScoreStore(LineStore[FileScore]):
    """Scores that were computed before; see `LineStore`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "score", FileScore.to_dict, FileScore.from_dict)


@dataclass
class FileScorer:
    """Scores video files by one judge and one protocol.

    Attributes:
        judge: see `lipsmith.evaluation.judges`.
        protocol: "whole-clip" or "tracked-crop".
        settings: of the tracked-crop protocol.
        store: where scores are looked up and kept; None: nowhere.
        detector: of faces; None: the settings' own.
    """

    judge: FileJudge
    protocol: Protocol = "tracked-crop"
    settings: ScoreSettings = field(default_factory=ScoreSettings)
    store: ScoreStore | None = None
    detector: FaceDetector | None = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UsageError(
                f"There is no protocol {self.protocol!r}; choose one of: {', '.join(PROTOCOLS)}."
            )

    @classmethod
    def open(
        cls,
        judge: str | Path | FileJudge | None = None,
        protocol: Protocol = "tracked-crop",
        *,
        settings: ScoreSettings | None = None,
        store: Path | ScoreStore | None = None,
        device: str = "auto",
        threads: int | None = None,
        download: bool = False,
    ) -> Self:
        """A scorer by the names that the command line takes.

        Args:
            judge, device, threads, download: see `lipsmith.evaluation.judges.resolve_judge`.
            protocol, settings: see `FileScorer`.
            store: a `.jsonl` file to keep scores in.
        """
        kept = ScoreStore(store) if isinstance(store, Path) else store
        opened = resolve_judge(judge, device=device, threads=threads, download=download)
        return cls(opened, protocol, settings or ScoreSettings(), kept)

    def key(self, digest: str) -> str:
        """What a score of a file with this SHA-256 is kept under: it names the file, the judge and the protocol."""
        parts = [f"format {SCORE_FORMAT}", digest, self.judge.kind, self.judge.digest, self.protocol]
        if self.protocol == "tracked-crop":
            parts += [str(self.settings.min_track_frames), self.settings.detector]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def score(self, path: str | Path) -> FileScore:
        """The row of one file. A file that cannot be scored is a row with a reason, never an exception."""
        path = Path(path)
        begun = time.perf_counter()
        digest = None
        try:
            if path.is_file():
                digest = file_sha256(path)
                kept = self.store.get(self.key(digest)) if self.store is not None else None
                if kept is not None:
                    return dataclasses.replace(kept, path=path)
            score = self._scored(path)
        except CannotScoreError as error:
            score = self.failed(path, error.kind, str(error), duration_seconds=error.duration_seconds)
        except OSError as error:
            score = self.failed(path, "unreadable", f"{path} cannot be read: {error.strerror or error}.")
        except RuntimeUnavailableError:
            raise  # of this machine, not of the file
        except LipsmithError as error:
            kind: FailureKind = "unreadable" if isinstance(error, InputError) else "failed"
            score = self.failed(path, kind, str(error))
        except Exception as error:
            # One strange file must not end a night's work; the row and the log say what to report.
            logger.exception("Scoring %s failed", path)
            score = self.failed(
                path, "failed", f"An error in Lipsmith itself: {type(error).__name__}: {error}."
            )
        score = dataclasses.replace(score, digest=digest, seconds=time.perf_counter() - begun)
        if self.store is not None and digest is not None and score.failure_kind != "failed":
            self.store.keep(self.key(digest), score)
        return score

    def score_all(
        self, paths: Sequence[str | Path], on_progress: Callable[[int, int], None] | None = None
    ) -> Iterator[FileScore]:
        """The row of each of `paths`, in their order; `on_progress` is called with (files done, files in all)."""
        for done, path in enumerate(paths, 1):
            yield self.score(path)
            if on_progress:
                on_progress(done, len(paths))

    def failed(
        self, path: Path, kind: FailureKind, failure: str, *, duration_seconds: float | None = None
    ) -> FileScore:
        """A row without a score, in the same table as the others."""
        return FileScore(
            path=path,
            failure=failure,
            failure_kind=kind,
            lse_d=None,
            lse_c=None,
            av_offset_frames=None,
            num_windows=0,
            duration_seconds=duration_seconds,
            tracks=(),
            protocol=self.protocol,
            judge=self.judge.name,
            judge_digest=self.judge.digest,
            digest=None,
            seconds=0.0,
        )

    def to_dict(self) -> dict[str, Any]:
        """What scores: judge, protocol and settings, as JSON-ready values."""
        return {
            "judge": self.judge.name,
            "judge_digest": self.judge.digest,
            "compares": self.judge.compares,
            "runtime": self.judge.runtime,
            "protocol": self.protocol,
            "rule": PROTOCOL_RULES[self.protocol],
            "settings": dataclasses.asdict(self.settings),
        }

    def _scored(self, path: Path) -> FileScore:
        samples = sound_of(path)
        score = self._whole(path, samples) if self.protocol == "whole-clip" else self._tracked(path, samples)
        best = score.tracks[0]
        if best.failure is not None:
            raise CannotScoreError("too short", f"{path}: {best.failure}.", score.duration_seconds)
        return dataclasses.replace(
            score,
            failure=None,
            failure_kind=None,
            lse_d=best.lse_d,
            lse_c=best.lse_c,
            av_offset_frames=best.av_offset_frames,
            num_windows=best.num_windows,
        )

    def _whole(self, path: Path, samples: NDArray[np.float32]) -> FileScore:
        stretch = self.judge.hear(samples)(0, len(samples))
        num_frames, side = 0, 0
        for frame in frames_at_rate(read_frames(path)):
            stretch.add(self.judge.crop(frame.image, None), frame.time)
            num_frames += 1
            side = max(frame.image.shape[:2])
        track = _finish(stretch, 0, num_frames, float(side))
        return dataclasses.replace(
            self.failed(path, "too short", ""), duration_seconds=_seconds(num_frames), tracks=(track,)
        )

    def _tracked(self, path: Path, samples: NDArray[np.float32]) -> FileScore:
        detector = self.detector or _detector(self.settings.detector)
        tracker = FaceTracker(detector, rate=TRAINING_RATE_HZ)
        num_frames = 0
        for frame in frames_at_rate(read_frames(path)):
            tracker.add(frame.image)
            num_frames += 1
        found = tracker.finish()
        seconds = _seconds(num_frames)
        if not found:
            raise CannotScoreError("no face", f"{path}: no face in {num_frames} frames.", seconds)
        least = max(self.settings.min_track_frames, self.judge.least_frames)
        tracks = [track for track in found if track.num_frames >= least]
        if not tracks:
            longest = max(track.num_frames for track in found)
            raise CannotScoreError(
                "too short",
                f"{path}: no face stays for {_seconds(least):.2f} s; the longest for {_seconds(longest):.2f} s.",
                seconds,
            )
        scores = self._score_tracks(path, tracks, samples)
        # Tracks come the most present first; for one that the sound does not reach the next one stands in.
        scores.sort(key=lambda score: score.failure is not None)
        return dataclasses.replace(
            self.failed(path, "too short", ""), duration_seconds=seconds, tracks=tuple(scores)
        )

    def _score_tracks(
        self, path: Path, tracks: list[FaceTrack], samples: NDArray[np.float32]
    ) -> list[TrackScore]:
        """Second pass over the video: every track's crops go to its own stretch as they come."""
        begin = self.judge.hear(samples)
        waiting = sorted(range(len(tracks)), key=lambda place: -tracks[place].first_frame)
        running: dict[int, Stretch] = {}
        scores: dict[int, TrackScore] = {}

        def end(place: int) -> None:
            scores[place] = _finish(
                running.pop(place), tracks[place].first_frame, tracks[place].num_frames, _side(tracks[place])
            )

        for tick, frame in enumerate(frames_at_rate(read_frames(path))):
            while waiting and tracks[waiting[-1]].first_frame <= tick:
                place = waiting.pop()
                running[place] = begin(tracks[place].first_frame, tracks[place].num_frames)
            for place in list(running):
                box = tracks[place].box(tick)
                if box is None:
                    end(place)
                else:
                    running[place].add(self.judge.crop(frame.image, box), frame.time)
            if not running and not waiting:
                break
        for place in list(running):
            end(place)
        return [scores[place] for place in sorted(scores)]


PROTOCOL_RULES: dict[Protocol, str] = {
    "whole-clip": "the whole frame at 25 frames a second, one score for the clip",
    "tracked-crop": "shots split, faces tracked and cropped at 25 frames a second, one score for each track; "
    "the file's is that of the face with the largest area, summed over its frames",
}


def find_videos(paths: Iterable[str | Path]) -> list[Path]:
    """The files meant by `paths`: every video in a folder and below it, by name; files as they are, absent ones too.

    Raises:
        InputError: a folder without any video.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(
            file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()
        )
        if not inside:
            raise InputError(f"There is no video in {path} ({', '.join(sorted(VIDEO_SUFFIXES))}).")
        found += inside
    return list(dict.fromkeys(found))


def frames_at_rate(frames: Iterable[Frame], rate: Fraction = TRAINING_RATE_HZ) -> Iterator[Frame]:
    """Of a video's `frames` the one nearest to each tick of `rate`, from 0 to the end of its last; the earlier of two.

    A frame keeps its own index and time; it is given twice where the video is slower than `rate`. A video at `rate`
    comes out as it is.
    """
    before: Frame | None = None
    tick = count = 0
    for frame in frames:
        while before is not None and (due := tick / rate) < frame.time:
            if due - before.time > frame.time - due:
                break
            yield before
            tick += 1
        before = frame
        count += 1
    if before is None:
        return
    shown = before.time / (count - 1) if count > 1 else 1 / rate
    # A quarter of a tick's grace: time stamps in whole milliseconds tremble.
    while tick / rate < before.time + shown - 1 / (4 * rate):
        yield before
        tick += 1


class CannotScoreError(Exception):
    """Why a file has no score."""

    def __init__(self, kind: FailureKind, sentence: str, duration_seconds: float | None = None) -> None:
        super().__init__(sentence)
        self.kind, self.duration_seconds = kind, duration_seconds


@functools.cache
def _detector(name: str) -> FaceDetector:
    return resolve_detector(name)


def sound_of(path: Path) -> NDArray[np.float32]:
    """The sound of a video from its first frame on, (n,) 16 kHz; `CannotScoreError` where it is none with sound."""
    if not path.exists():
        raise CannotScoreError("missing", f"There is no file {path}.")
    info = probe(path)
    if info.video is None or info.is_image:
        raise CannotScoreError("no picture", f"{path} is no video: it has no moving picture.")
    if info.audio is None:
        raise CannotScoreError("no sound", f"{path} has no sound.")
    samples = read_samples(path, origin=first_frame_time(path))
    if len(samples) == 0:
        raise CannotScoreError("no sound", f"{path}: the sound ends before the picture begins.")
    return samples


def _finish(stretch: Stretch, first: int, num_frames: int, side: float) -> TrackScore:
    try:
        score: LseScore | None = stretch.finish()
        failure = None
    except ValueError as error:
        score, failure = None, str(error)
    return TrackScore(
        first_frame=first,
        num_frames=num_frames,
        face_pixels=round(side, 1),
        failure=failure,
        lse_d=None if score is None else score.lse_d,
        lse_c=None if score is None else score.lse_c,
        av_offset_frames=None if score is None else score.av_offset_frames,
        num_windows=0 if score is None else score.num_windows,
        mean_distance=()
        if score is None
        else tuple(float(value) if np.isfinite(value) else None for value in score.mean_distance),
    )


def _side(track: FaceTrack) -> float:
    size = track.boxes[:, 2:] - track.boxes[:, :2]
    return float(np.median(size.max(axis=1)))


def _seconds(num_frames: int) -> float:
    return float(num_frames / TRAINING_RATE_HZ)
