"""The systems of a benchmark: what makes a video for each pair of a face and a speech.

* weights, run by the real pipeline (`LipSyncer.sync`), exactly as `lipsmith sync` does;
* `unsynced`: the same pipeline with a generator that returns what it is shown, so that nothing but the sound changes:
  the same frames, the same encoder, the same length as every other system's;
* `real`: the video itself with its own sound. Nothing is made.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lipsmith
from lipsmith.errors import InputError, NoFaceError, UsageError, WeightsError
from lipsmith.evaluation.benchmark_result import REAL, UNSYNCED
from lipsmith.evaluation.file_score import FailureKind
from lipsmith.faces.detect import resolve_detector
from lipsmith.media.probe import probe
from lipsmith.pipeline import LipSyncer, SyncOptions
from lipsmith.timebase import WINDOW_SECONDS
from lipsmith.weights import resolve
from lipsmith.weights.card import WeightCard

# Part of the key of what was made: raise it when the same inputs and options give other videos than before.
MAKING_FORMAT = 4
_COPY_FACE_SIZE = 96


@dataclass(frozen=True)
class MakingOptions:
    """How videos are made of pairs: the options of `SyncOptions` that matter here.

    Attributes:
        runtime, device: what weights are run by, and where.
        detector: of faces.
        length: what happens where the speech is longer than the video.
        threads: most CPU threads; None: all cores. The videos do not depend on it.
    """

    runtime: str = "openvino"
    device: str = "auto"
    detector: str = "mtcnn"
    length: str = "auto"
    threads: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """What of it changes the videos, as JSON-ready values."""
        return {
            "runtime": self.runtime,
            "device": self.device,
            "detector": self.detector,
            "length": self.length,
        }


@dataclass(frozen=True)
class System:
    """One system, in a form that can be sent to other processes.

    Attributes:
        name: in tables and of its folder.
        model: what weights it runs, as `lipsmith.sync` takes them; None of a system without any.
        digest: SHA-256 of the weights' files; None of a system without any.
        facts: what its card says.
    """

    name: str
    model: str | None = None
    digest: str | None = None
    facts: tuple[tuple[str, Any], ...] = ()

    @property
    def is_made(self) -> bool:
        """Whether it makes videos."""
        return self.name != REAL

    def key(self, video_digest: str, audio_digest: str, options: MakingOptions) -> str:
        """What a video of it is kept under: weights, version and options, and the contents of both files."""
        if not self.is_made:
            return hashlib.sha256(f"{REAL}\n{video_digest}".encode()).hexdigest()
        chosen = json.dumps(options.to_dict(), sort_keys=True)
        version = f"format {MAKING_FORMAT}, version {lipsmith.__version__}"
        articulation = dict(self.facts).get("articulation", 1.0)
        weights = f"{self.digest or self.name}, articulation {articulation:g}"
        parts = [version, weights, video_digest, audio_digest, chosen]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Made:
    """What became of making a video: which file it is, or why there is none.

    Attributes:
        file: its path in the benchmark's folder, with `/`; None where there is none.
        digest: SHA-256 of it.
        seconds: that it took.
        failure, failure_kind: as in `FileScore`.
    """

    file: str | None = None
    digest: str | None = None
    seconds: float = 0.0
    failure: str | None = None
    failure_kind: FailureKind | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Made":
        """What `to_json` gave."""
        return cls(**values)


def open_systems(models: Iterable[str], without: Iterable[str] = ()) -> list[System]:
    """The systems of a benchmark in the order of its tables: unsynced, the models, real.

    Args:
        models: for each the name of weights, a weights folder, the run folder of a training, or a checkpoint file;
            `NAME=…` gives it another name in the tables.
        without: `UNSYNCED` or `REAL`, where they are not wanted.

    Raises:
        WeightsError: unknown or damaged weights, or not a generator's.
        UsageError: two systems of one name, or a name that cannot be a folder's.
    """
    left_out = set(without)
    if unknown := sorted(left_out - {UNSYNCED, REAL}):
        raise UsageError(f"{unknown[0]!r} cannot be left out; it can be {UNSYNCED} or {REAL}.")
    found = [] if UNSYNCED in left_out else [System(UNSYNCED)]
    for given in models:
        name, model = _named(given)
        card, _ = resolve(model)
        if card.kind != "generator":
            raise WeightsError(f"{model} is a {card.kind}, not a generator: it makes no videos.")
        facts = {
            "architecture": card.architecture,
            "face_size": card.face_size,
            "width": card.width,
            "reference": card.reference,
            "articulation": card.articulation,
            "description": card.description,
            "source": card.source,
            "use": card.use,
        }
        found.append(System(name, model, card.sha256, tuple(facts.items())))
    if REAL not in left_out:
        found.append(System(REAL))
    names = [system.name for system in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"Two systems are called {name!r}: give one of them another name, --model NAME={name}."
            )
    if not found:
        raise UsageError("There is no system to be scored: name weights with --model.")
    return found


def _named(given: str) -> tuple[str, str]:
    """Name and weights of what `--model` was given."""
    label, sign, rest = given.partition("=")
    if sign and rest and re.fullmatch(r"[\w.+-]+", label) and not Path(given).exists():
        return _folder_name(label), rest
    path = Path(given)
    # A run's best weights are called like everybody's.
    if path.stem in ("best", "last", "checkpoint", "generator") and path.is_file():
        return _folder_name(path.resolve().parent.name), given
    return _folder_name(
        path.resolve().name if path.is_dir() else path.stem if path.is_file() else given
    ), given


def _folder_name(name: str) -> str:
    plain = re.sub(r"[^\w.+-]+", "_", name).strip("._")
    if not plain:
        raise UsageError(f"{name!r} cannot name a system: use letters, digits, dots, dashes and underscores.")
    return plain


class _CopyingGenerator:
    """Returns the reference, which is the frame's own face: the pipeline then changes nothing at all."""

    name, device, face_size, num_references = "copy", "cpu", _COPY_FACE_SIZE, 1

    def generate(self, mels: NDArray[np.float32], faces: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `GeneratorRuntime.generate`."""
        return np.ascontiguousarray(faces[:, 3:])

    def close(self) -> None:
        """See `GeneratorRuntime.close`."""


@functools.cache
def _syncer(system: System, options: MakingOptions) -> LipSyncer:
    if system.model is None:
        card = WeightCard(
            name=UNSYNCED, kind="generator", architecture="none", width=0, face_size=_COPY_FACE_SIZE
        )
        return LipSyncer(card, _CopyingGenerator(), resolve_detector(options.detector))
    return LipSyncer.load(
        system.model,
        runtime=options.runtime,
        detector=options.detector,
        device=options.device,
        threads=options.threads,
    )


class CannotMakeError(Exception):
    """Why there is no video of a pair."""

    def __init__(self, kind: FailureKind, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


def make_video(system: System, video: Path, audio: Path, output: Path, options: MakingOptions) -> float:
    """Let `system` write what it makes of `video` and `audio`; the seconds that it took, without loading.

    Weights stay loaded for the next video.

    Raises:
        CannotMakeError: the pair is to blame.
        LipsmithError: something else is: weights, runtime, disk.
    """
    syncer = _syncer(system, options)
    _check_pair(video, audio)
    output.parent.mkdir(parents=True, exist_ok=True)
    settings = SyncOptions(
        length=options.length,
        # A sound laid over a video was made by no trained model.
        provenance=system.model is not None,
        overwrite=True,
    )
    try:
        report = syncer.sync(video, audio, output, options=settings)
    except NoFaceError as error:
        raise CannotMakeError("no face", str(error)) from error
    except InputError as error:
        raise CannotMakeError("unreadable", str(error)) from error
    return report.total_seconds


def _check_pair(video: Path, audio: Path) -> None:
    """Give the usual reasons their own names."""
    for path in (video, audio):
        if not path.exists():
            raise CannotMakeError("missing", f"There is no file {path}.")
    try:
        picture, sound = probe(video), probe(audio).audio
    except InputError as error:
        raise CannotMakeError("unreadable", str(error)) from error
    except OSError as error:
        raise CannotMakeError(
            "unreadable", f"{error.filename or video} cannot be read: {error.strerror}."
        ) from error
    if picture.video is None:
        raise CannotMakeError("no picture", f"{video} has no picture.")
    if sound is None:
        raise CannotMakeError("no sound", f"{audio} has no sound.")
    if sound.duration is not None and sound.duration < WINDOW_SECONDS:
        raise CannotMakeError(
            "too short",
            f"The sound of {audio} lasts {float(sound.duration):.2f} s; at least {float(WINDOW_SECONDS)} s are needed.",
        )
