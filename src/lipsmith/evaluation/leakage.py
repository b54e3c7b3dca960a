"""Leakage: what is left of the words that a video said, once it is made to say other words, or nothing.

A generator that is shown the mouth that it is to replace may copy it. LSE does not tell: a mouth that says both old and
new words still scores well. Each video is lip-synced twice, to foreign speech and to silence, and the mouths of the two
outputs are held against the original. In brackets the names of the two outputs' numbers, as in `held_out`:

* **Old words** ("old words", "old words in silence"): the share of windows of the output's mouth that prefer the
  *original's* sound at their own time to the original's sound at another time (`sync_score`). Chance is 0.5; the most
  that could be left is what the judge says of the original itself ("real").
* **Kept motion** (the same two): the correlation over time of how much the mouth changes from frame to frame in the
  output and in the original. A head that moves changes both, so what the change of the original's upper face predicts
  is taken out of both first (partial correlation). **Chance** is the same with the original's moved in time by a second
  or more: its mean, and the 95th percentile over all such moves of the clip.
* **Motion in silence**: `mouth.mouth_variation` of the silent output over that of the speaking one, as in `held_out`.

The face is that of the most present track of the original, cropped where it is in the original, at 25 frames a second.
"""

import csv
import dataclasses
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import resources
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lipsmith.audio.mel import mel_spectrogram
from lipsmith.audio.windows import window_batch
from lipsmith.data.synthetic import write_wav
from lipsmith.errors import InputError, LipsmithError, NoFaceError, RuntimeUnavailableError, UsageError
from lipsmith.evaluation.file_score import CannotScoreError, FailureKind, frames_at_rate, sound_of
from lipsmith.evaluation.held_out import LEAKAGE, score_conditions
from lipsmith.evaluation.judges import ExpertJudge
from lipsmith.evaluation.mouth import image_motion, mouth_motion, mouth_variation
from lipsmith.evaluation.sync_score import Interval, SyncScore, SyncSummary, bootstrap_ratio, summarise
from lipsmith.faces.crop import CropRule
from lipsmith.faces.detect import FaceDetector, resolve_detector
from lipsmith.faces.track import FaceTrack, FaceTracker
from lipsmith.geometry import Crop, Image
from lipsmith.media.read import read_frames, read_samples
from lipsmith.timebase import SAMPLE_RATE_HZ, TRAINING_RATE_HZ, expert_lead, window_start

if TYPE_CHECKING:
    from lipsmith.pipeline import LipSyncer

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
Faces = NDArray[np.uint8]

SPEECH_FOLDER, SILENCE_FOLDER = "speech", "silence"
"""Where the outputs lie: FOLDER/speech/NAME.mp4 and FOLDER/silence/NAME.mp4."""
LEAST_FRAMES = 65
"""2.6 seconds: in less there are too few moves of a second or more for a chance level."""
LEAST_MOVE_FRAMES = 25
DEFAULT_SECONDS = 20.0
_CHANCE_PERCENTILE = 95
_STILL = 1e-9  # variance of motion, in grey levels squared, that is none


@dataclass(frozen=True, slots=True)
class KeptMotion:
    """How far the mouth's motion follows the original's over time; see the module."""

    correlation: float
    """−1 to 1; 0 where one of the two does not move."""
    chance: float
    """Mean over the original's moved in time."""
    chance_high: float
    """95th percentile of the same."""

    def to_dict(self) -> dict[str, float]:
        """As JSON-ready values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class LeakageRow:
    """One video: its numbers, or why there are none.

    `scores` and `motion` are by condition, see `held_out.CONDITIONS` and `LEAKAGE`; the variations are grey levels.
    """

    path: Path
    failure: str | None = None
    failure_kind: FailureKind | None = None
    num_frames: int = 0
    scores: dict[str, SyncScore] = field(default_factory=dict)
    motion: dict[str, KeptMotion] = field(default_factory=dict)
    variation_real: float = float("nan")
    variation_speech: float = float("nan")
    variation_silence: float = float("nan")

    @property
    def is_scored(self) -> bool:
        """Whether there are numbers."""
        return self.failure is None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values; what is no number as None."""
        variations = {
            name: getattr(self, name) for name in ("variation_real", "variation_speech", "variation_silence")
        }
        return {
            "path": str(self.path),
            "failure": self.failure,
            "failure_kind": self.failure_kind,
            "num_frames": self.num_frames,
            "scores": {name: score.to_dict() for name, score in self.scores.items()},
            "motion": {name: motion.to_dict() for name, motion in self.motion.items()},
            **{name: value if np.isfinite(value) else None for name, value in variations.items()},
        }


@dataclass(frozen=True)
class LeakageReport:
    """Many videos; intervals are 95 % bootstraps over videos, and videos without numbers are in no average."""

    rows: tuple[LeakageRow, ...]
    sync: dict[str, SyncSummary]
    """By condition."""
    motion: dict[str, Interval]
    """Mean kept motion, by kind of leakage."""
    chance: dict[str, Interval]
    """Mean of its chance level."""
    above_chance: dict[str, Interval]
    """Mean of kept motion minus chance: an interval that excludes zero is leakage."""
    motion_in_speech: Interval
    """Variation of the mouths made to speak over the original's."""
    motion_in_silence: Interval
    """Variation of the mouths made to be silent over that of those made to speak."""

    @property
    def num_failed(self) -> int:
        """Videos without numbers."""
        return sum(not row.is_scored for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "num_videos": len(self.rows),
            "num_failed": self.num_failed,
            "sync": {name: summary.to_dict() for name, summary in self.sync.items()},
            **{
                name: {kind: interval.to_dict() for kind, interval in getattr(self, name).items()}
                for name in ("motion", "chance", "above_chance")
            },
            "motion_in_speech": self.motion_in_speech.to_dict(),
            "motion_in_silence": self.motion_in_silence.to_dict(),
            "videos": [row.to_dict() for row in self.rows],
        }

    def to_csv(self) -> str:
        """A line for each video, with a header; empty where there is no number."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_COLUMNS)
        for row in self.rows:
            cells: list[Any] = [row.path, row.num_frames, row.failure_kind, row.failure]
            cells += [
                row.scores[name].preference_share if name in row.scores else None for name in _PREFERENCES
            ]
            for name in LEAKAGE:
                motion = row.motion.get(name)
                cells += [None] * 3 if motion is None else list(motion.to_dict().values())
            variations = (row.variation_real, row.variation_speech, row.variation_silence)
            table.writerow([*cells, *(value if np.isfinite(value) else None for value in variations)])
        return text.getvalue()


_PREFERENCES = ("real", "generated", *LEAKAGE)
_COLUMNS = (
    "path",
    "num_frames",
    "failure_kind",
    "failure",
    *(f"preference, {name}" for name in _PREFERENCES),
    *(f"{what}, {name}" for name in LEAKAGE for what in ("kept motion", "chance", "chance 95 %")),
    "variation_real",
    "variation_speech",
    "variation_silence",
)


def kept_motion(generated: Faces, real: Faces) -> KeptMotion:
    """How far the mouths of `generated` follow those of `real` over time.

    Args:
        generated, real: face crops (T, S, S, 3) BGR of the same frames, T ≥ `LEAST_FRAMES`.
    """
    if generated.shape != real.shape or len(real) < LEAST_FRAMES:
        raise ValueError(f"faces {generated.shape} and {real.shape}: of one shape, at least {LEAST_FRAMES}")
    head = image_motion(real[:, : real.shape[1] // 2])
    return correlate_motion(mouth_motion(generated), mouth_motion(real), head)


def correlate_motion(
    generated: NDArray[np.float64], real: NDArray[np.float64], head: NDArray[np.float64]
) -> KeptMotion:
    """`kept_motion` of what was measured: motion of both mouths and of the head, (n,) each."""
    one, other = _without(generated, head), _without(real, head)
    moves = range(LEAST_MOVE_FRAMES, len(other) - LEAST_MOVE_FRAMES + 1)
    chances = [_correlation(one, np.roll(other, move)) for move in moves]
    return KeptMotion(
        _correlation(one, other), float(np.mean(chances)), float(np.percentile(chances, _CHANCE_PERCENTILE))
    )


@dataclass
class LeakageMeter:
    """Measures leakage of videos by one judge.

    Attributes:
        judge: an expert that was in no loss of the generator.
        detector: of faces; None: the default one.
        seconds: longest stretch from a video's beginning.
    """

    judge: ExpertJudge
    detector: FaceDetector | None = None
    seconds: float = DEFAULT_SECONDS

    def __post_init__(self) -> None:
        if not self.seconds * TRAINING_RATE_HZ >= LEAST_FRAMES:  # NaN neither
            raise UsageError(
                f"{self.seconds} s of a video are too few: it must be at least "
                f"{float(LEAST_FRAMES / TRAINING_RATE_HZ)} s."
            )

    @property
    def num_frames(self) -> int:
        """Most frames at 25 a second."""
        return int(self.seconds * TRAINING_RATE_HZ)

    def measure(self, path: Path, speech: Path, silence: Path) -> LeakageRow:
        """The row of one video.

        Args:
            path: the video as it was.
            speech: the same made to say the sound that it now has.
            silence: the same made to say nothing.
        """
        return _told(path, lambda: self._measure(path, speech, silence))

    def to_dict(self) -> dict[str, Any]:
        """What measures, as JSON-ready values."""
        return {
            "judge": self.judge.name,
            "judge_digest": self.judge.digest,
            "compares": self.judge.compares,
            "seconds": self.seconds,
            "least_move_frames": LEAST_MOVE_FRAMES,
        }

    def _measure(self, path: Path, speech: Path, silence: Path) -> LeakageRow:
        own = sound_of(path)
        for output in (speech, silence):
            if not output.is_file():
                raise CannotScoreError("missing", f"There is no file {output}.")
        track, size = self._track(path)
        versions = [self._crops(video, track, size) for video in (path, speech, silence)]
        count = min(len(version.times) for version in versions)
        _require_length(path, float(count / TRAINING_RATE_HZ))
        real, generated, silent = (version.cut(count) for version in versions)
        scores = score_conditions(
            self.judge.expert,
            real.judged,
            generated.judged,
            silent.judged,
            self._windows(own, real.times),
            self._windows(sound_of(speech), generated.times),
        )
        return LeakageRow(
            path=path,
            num_frames=count,
            scores=scores,
            motion={
                "old words": kept_motion(generated.faces, real.faces),
                "old words in silence": kept_motion(silent.faces, real.faces),
            },
            variation_real=mouth_variation(real.faces),
            variation_speech=mouth_variation(generated.faces),
            variation_silence=mouth_variation(silent.faces),
        )

    def _track(self, path: Path) -> tuple[FaceTrack, tuple[int, int]]:
        tracker = FaceTracker(self.detector or resolve_detector("mtcnn"), rate=TRAINING_RATE_HZ)
        size, num_frames = (0, 0), 0
        for image, _ in self._frames(path):
            tracker.add(image)
            size, num_frames = image.shape[:2], num_frames + 1
        found = tracker.finish()
        if not found:
            raise CannotScoreError("no face", f"{path}: no face in {num_frames} frames.")
        return found[0], size

    def _crops(self, path: Path, track: FaceTrack, size: tuple[int, int]) -> "_Crops":
        found = _Crops([], [], [])
        for tick, (image, time) in enumerate(self._frames(path)):
            box = track.box(tick)
            if box is None:
                continue
            if image.shape[:2] != size:
                raise CannotScoreError(
                    "failed",
                    f"{path} has {image.shape[1]} × {image.shape[0]} pixels, the original {size[1]} × {size[0]}: "
                    "leakage is measured at the same place.",
                )
            crop: Crop = _RULE.crop(box)
            found.face_list.append(crop.extract(image))
            found.judged_list.append(self.judge.crop(image, box))
            found.times.append(time)
        return found

    def _frames(self, path: Path) -> Iterator[tuple[Image, Fraction]]:
        for frame in islice(frames_at_rate(read_frames(path)), self.num_frames):
            yield frame.image, frame.time

    def _windows(self, samples: FloatArray, times: Sequence[Fraction]) -> FloatArray:
        """What the judge hears of each of its windows of these frames."""
        num_frames = self.judge.expert.frames
        lead = expert_lead(num_frames)
        starts = [window_start(time, lead) for time in times[: len(times) - num_frames + 1]]
        return window_batch(mel_spectrogram(samples), starts)


def summarise_leakage(rows: Sequence[LeakageRow]) -> LeakageReport:
    """Put the rows of many videos together."""
    scored = [row for row in rows if row.is_scored]
    ones = np.ones(len(scored))
    labels = [str(place) for place in range(len(scored))]

    def mean(values: Sequence[float]) -> Interval:
        return bootstrap_ratio(np.array(values, np.float64), ones, labels)

    def ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
        return bootstrap_ratio(np.array(above, np.float64), np.array(below, np.float64), labels)

    def motion(value: Callable[[KeptMotion], float]) -> dict[str, Interval]:
        return {kind: mean([value(row.motion[kind]) for row in scored]) for kind in LEAKAGE}

    speech = [row.variation_speech for row in scored]
    return LeakageReport(
        rows=tuple(rows),
        sync={
            name: summarise([row.scores[name] for row in scored])
            for name in ("real", "laid over", "generated", *LEAKAGE)
        },
        motion=motion(lambda kept: kept.correlation),
        chance=motion(lambda kept: kept.chance),
        above_chance=motion(lambda kept: kept.correlation - kept.chance),
        motion_in_speech=ratio(speech, [row.variation_real for row in scored]),
        motion_in_silence=ratio([row.variation_silence for row in scored], speech),
    )


def leakage_of_model(
    paths: Sequence[Path],
    syncer: "LipSyncer",
    meter: LeakageMeter,
    *,
    speech: Path | None = None,
    keep: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[LeakageRow]:
    """Make each video say foreign speech and nothing, and measure what is left of its own words.

    Args:
        paths: videos of talking faces.
        syncer: what makes them speak.
        meter: what measures.
        speech: the foreign speech; None: the sound of the next of `paths` that has any, or, for a single video, the
            demo's.
        keep: a folder for the outputs, marked as synthetic; None: they are thrown away.
        on_progress: called with (videos done, videos in all).
    """
    from lipsmith.pipeline import SyncOptions

    options = SyncOptions(provenance=keep is not None, overwrite=True)
    rows = []
    with TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        for name in (SPEECH_FOLDER, SILENCE_FOLDER):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for done, path in enumerate(paths, 1):
            outputs = output_paths(folder, path)

            def made(
                path: Path = path, outputs: tuple[Path, Path] = outputs, place: int = done
            ) -> LeakageRow:
                count = min(len(sound_of(path)), int(meter.seconds * SAMPLE_RATE_HZ))
                _require_length(path, count / SAMPLE_RATE_HZ)
                foreign = _foreign_speech(paths, place, speech)
                sounds = (np.resize(foreign, count).astype(np.float32), np.zeros(count, np.float32))
                for samples, output in zip(sounds, outputs, strict=True):
                    sound = Path(scratch) / "sound.wav"
                    write_wav(sound, samples)
                    syncer.sync(path, sound, output, options=options)
                return meter.measure(path, *outputs)

            rows.append(_told(path, made))
            if keep is None:
                for output in outputs:
                    output.unlink(missing_ok=True)
            if on_progress:
                on_progress(done, len(paths))
    return rows


def output_paths(folder: Path, path: Path) -> tuple[Path, Path]:
    """Where the output for foreign speech and the one for silence of a video lie in `folder`."""
    return folder / SPEECH_FOLDER / f"{path.stem}.mp4", folder / SILENCE_FOLDER / f"{path.stem}.mp4"


def require_own_names(paths: Sequence[Path]) -> None:
    """`UsageError` where two videos would have the same outputs."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(path.stem, path)
        if other != path:
            raise UsageError(f"{other} and {path} have one name, and so have their outputs: rename one.")


_RULE = CropRule()


@dataclass
class _Crops:
    """One version's crops: for motion, and as the judge sees them, with the times of their frames."""

    face_list: list[Image]
    judged_list: list[Image]
    times: list[Fraction]

    @property
    def faces(self) -> Faces:
        return np.stack(self.face_list)

    @property
    def judged(self) -> Faces:
        return np.stack(self.judged_list)

    def cut(self, count: int) -> "_Crops":
        return _Crops(self.face_list[:count], self.judged_list[:count], self.times[:count])


def _told(path: Path, work: Callable[[], LeakageRow]) -> LeakageRow:
    """The row that `work` gives, or a row with the reason why it could not."""
    try:
        return work()
    except CannotScoreError as error:
        return LeakageRow(path, str(error), error.kind)
    except NoFaceError as error:
        return LeakageRow(path, str(error), "no face")
    except RuntimeUnavailableError:
        raise  # of this machine, not of the video
    except LipsmithError as error:
        return LeakageRow(
            path, str(error), "unreadable" if isinstance(error, InputError) else "not generated"
        )


def _require_length(path: Path, seconds: float) -> None:
    least = float(LEAST_FRAMES / TRAINING_RATE_HZ)
    if seconds < least:
        raise CannotScoreError(
            "too short",
            f"{path}: one face with sound stays for {seconds:.2f} s in it and its outputs; {least} s are needed.",
        )


def _foreign_speech(paths: Sequence[Path], place: int, speech: Path | None) -> FloatArray:
    """What the video before `place` is to say."""
    if speech is not None:
        return read_samples(speech)
    for other in (paths[(place + step) % len(paths)] for step in range(len(paths) - 1)):
        try:
            return sound_of(other)
        except (CannotScoreError, LipsmithError):
            continue  # it has a row of its own that says why
    with resources.as_file(resources.files("lipsmith.assets") / "speech.flac") as demo:
        return read_samples(demo)


def _without(motion: NDArray[np.float64], head: NDArray[np.float64]) -> NDArray[np.float64]:
    """`motion` less its mean and less what `head` predicts of it linearly."""
    motion, head = motion - motion.mean(), head - head.mean()
    power = float(head @ head)
    return motion if power / len(head) < _STILL else motion - head * float(motion @ head) / power


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    lengths = float(np.sqrt((one @ one) * (other @ other)))
    return 0.0 if lengths / len(one) < _STILL else float(one @ other) / lengths
