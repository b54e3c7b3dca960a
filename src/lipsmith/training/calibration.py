"""What a generator is given at inference, from which the ranges of 8-bit numbers are found and judged.

Three sources: prepared clips, a person's videos, drawn people. Each batch holds frames of one clip, in order.
"""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from importlib import resources
from pathlib import Path

import numpy as np

from lipsmith.conditioning import NUM_REFERENCES, ReferenceForm, generator_faces, visibility
from lipsmith.data.clips import Clip, ClipRecord, load_clip
from lipsmith.errors import NoFaceError, UsageError
from lipsmith.faces.detect import FaceDetector, resolve_detector
from lipsmith.geometry import Image
from lipsmith.media.probe import probe
from lipsmith.media.read import first_frame_time, read_frames, read_samples
from lipsmith.pipeline import LipSyncer
from lipsmith.reference import clip_references
from lipsmith.runtime.base import FloatArray
from lipsmith.weights.card import WeightCard

Batch = tuple[FloatArray, FloatArray]
"""Mels (n, 1, 80, 16) and faces (n, 6 or 9, S, S), as `lipsmith.runtime.GeneratorRuntime.generate` takes them."""

DRAWN = "drawn"
"""In place of a video: people that Lipsmith draws."""

# A few hundred samples of many people fix the ranges of 8-bit numbers; more of them change nothing.
CALIBRATION_CLIPS = 96
_CALIBRATION_FRAMES = 4
_VIDEO_SECONDS = 40  # of a video that are looked at
_VIDEO_BATCHES = 48  # of all videos together that are kept
_DRAWN_SPEAKERS = 24


def calibration_batches(
    data: Path, records: Sequence[ClipRecord], face_size: int, reference: ReferenceForm = "frame"
) -> Iterator[Batch]:
    """What the generator is given at inference, from clips all over `records`.

    References are those of inference. Every second clip hears the clip before it, as a video that is dubbed does.
    """
    chosen = [
        records[i] for i in np.linspace(0, len(records) - 1, min(CALIBRATION_CLIPS, len(records))).astype(int)
    ]
    heard: Clip | None = None
    for number, record in enumerate(chosen):
        if record.face_size != face_size:
            raise UsageError(
                f"{data} holds faces of {record.face_size} pixels, the generator takes {face_size}: "
                f"prepare with --face-size {face_size}."
            )
        clip = load_clip(record, data)
        count = min(_CALIBRATION_FRAMES, len(clip))
        # From all over the clip: beside a neighbour of the frame, a kept reference would leave nothing to be moved.
        places = np.linspace(0, len(clip) - 1, count + 1).astype(int)
        pictures = np.concatenate([clip.faces(place, 1) for place in places.tolist()])
        pictures, kept = pictures[1:], clip_references(reference, pictures)[1:]
        shown, references = (
            images.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255) for images in (pictures, kept)
        )
        speech = heard if number % 2 and heard is not None else clip
        windows = speech.windows()[np.linspace(0, len(speech) - 1, count + 1).astype(int)[1:]]
        faces = generator_faces(shown, references, visibility(shown))
        yield windows, faces[: len(windows)]
        heard = clip


def drawn_batches(face_size: int, reference: ReferenceForm = "frame") -> list[Batch]:
    """Batches of drawn people who speak (`lipsmith.data.synthetic`)."""
    from lipsmith.data.synthetic import prepare_synthetic

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        records = prepare_synthetic(
            folder, num_speakers=_DRAWN_SPEAKERS, clips_per_speaker=1, seconds=1, face_size=face_size
        )
        return list(calibration_batches(folder, records, face_size, reference))


def video_batches(
    videos: Sequence[Path], card: WeightCard, detector: FaceDetector | None = None
) -> list[Batch]:
    """What `lipsmith sync` would give the generator of `card` when it syncs each of `videos` to its own sound.

    The pipeline itself is run, with a recorder in the generator's place. A video without sound hears the demo's speech.

    Args:
        videos: Talking faces; the first 40 s of each are looked at.
        card: Of the generator: how faces are cropped, what is shown as the reference, when a window of sound begins.
        detector: Of faces; the default one if None.

    Raises:
        InputError: One cannot be read, or has no picture.
        NoFaceError: One shows no face.
    """
    detector = detector or resolve_detector("mtcnn")
    most = max(1, _VIDEO_BATCHES // len(videos))
    return [batch for video in videos for batch in _batches_of_video(Path(video), card, detector, most)]


def _batches_of_video(video: Path, card: WeightCard, detector: FaceDetector, most: int) -> list[Batch]:
    info = probe(video)
    if info.video is None:
        raise UsageError(f"{video} has no picture: give --calibrate a video of a talking face.")
    rate = info.video.rate

    def images() -> Iterator[Image]:
        return itertools.islice(
            (frame.image for frame in read_frames(video)), max(1, int(_VIDEO_SECONDS * rate))
        )

    recorder = _Recorder(card.face_size, card.reference)
    syncer = LipSyncer(card, recorder, detector)
    track = syncer.track(images(), rate=rate)
    num_faces = sum(box is not None for box in track)
    if not num_faces:
        raise NoFaceError(
            f"No face found in the first {len(track)} frames of {video}: calibrate with a video of a talking face."
        )
    if info.audio is None:
        with resources.as_file(resources.files("lipsmith.assets") / "speech.flac") as speech:
            samples = read_samples(speech)
    else:
        samples = read_samples(video, origin=first_frame_time(video))
    recorder.every = max(1, num_faces // (_Recorder.ROWS * most))
    for _ in syncer.render(images(), track, samples, Fraction(rate)):
        if len(recorder.batches) == most:
            break
    return recorder.batches


class _Recorder:
    """A runtime that keeps some of what it is given, and gives the reference back."""

    name = "recorder"
    device = "cpu"
    ROWS = 8
    """Most rows of a batch that are kept."""

    def __init__(self, face_size: int, reference: ReferenceForm) -> None:
        self.face_size = face_size
        self.num_references = NUM_REFERENCES[reference]
        self.every = 1
        """One call in so many is kept."""
        self.batches: list[Batch] = []
        self._calls = 0

    def generate(self, mels: FloatArray, faces: FloatArray) -> FloatArray:
        """(n, 1, 80, 16), (n, 6 or 9, S, S) → (n, 3, S, S)."""
        if len(faces) and self._calls % self.every == 0:
            self.batches.append((mels[: self.ROWS].copy(), faces[: self.ROWS].copy()))
        self._calls += 1
        return faces[:, 3:6].copy()

    def close(self) -> None:
        """Nothing is held open."""
