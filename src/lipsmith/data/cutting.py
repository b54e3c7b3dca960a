"""One video, or one folder of pictures, → its clips: faces followed, cropped, with the mel and exact times.

Nothing is corrected silently: what is left out comes back as a row with its reason.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.audio.mel import mel_from_blocks
from lipsmith.data.clips import (
    CLIPS_FOLDER,
    MARGIN_SHARE,
    Clip,
    ClipRecord,
    clip_bytes,
    digest_of,
    encode_crop,
    mel_slice,
    stored_size,
)
from lipsmith.data.sources import SOUND_NAME, Source
from lipsmith.data.storage import write_whole
from lipsmith.errors import LipsmithError, OutputError
from lipsmith.faces.crop import CropRule
from lipsmith.faces.detect import FaceDetector, resolve_detector
from lipsmith.faces.track import FaceTrack, FaceTracker
from lipsmith.geometry import Crop, resize
from lipsmith.media.probe import probe
from lipsmith.media.read import first_frame_time, read_frames, read_samples
from lipsmith.timebase import SAMPLE_RATE_HZ, TRAINING_RATE_HZ, frame_time

logger = logging.getLogger(__name__)

NOT_FOR_SYNC = "not for sync"
NEVER_FOR_SYNC = ("faces-only", "test-only")  # values of `use` whose sound does not belong to the lips


@dataclass(frozen=True)
class PrepareOptions:
    """What becomes a clip, and how it is cut.

    Attributes:
        face_size: Side of the face crop that the networks see, pixels.
        min_face_pixels: Least median side of a face in the video.
        min_seconds: Least length of a clip.
        max_seconds: A longer track becomes several clips of equal length.
        min_sharpness: Least median variance of the Laplacian of the face crop's luma; 0 for any.
        crop: Padding of the face box; must be the one of the weights to be trained.
        detector: Name in `lipsmith.faces.detect.DETECTORS`.
    """

    face_size: int = 96
    min_face_pixels: float = 48.0
    min_seconds: float = 1.0
    max_seconds: float = 30.0
    min_sharpness: float = 0.0
    crop: CropRule = field(default_factory=CropRule)
    detector: str = "mtcnn"


@dataclass(frozen=True)
class Outcome:
    """What became of a source: records of its clips, and rows of what was left out (source, reason, detail)."""

    source: str
    records: list[ClipRecord]
    dropped: list[dict[str, str]]


class _Drops:
    """Rows of what is left out of one source."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.rows: list[dict[str, str]] = []

    def add(self, reason: str, detail: str) -> None:
        self.rows.append({"source": self.source, "reason": reason, "detail": detail})


@cache
def _detector(name: str) -> FaceDetector:
    return resolve_detector(name)


def cut_source(source: Source, output: Path, options: PrepareOptions) -> Outcome:
    """Write the clips of `source` as files under `output`.

    A source that cannot be used is a row of what was dropped, not the end of the run.

    Raises:
        OutputError: No room, or not writable.
    """
    drops = _Drops(source.name)
    if source.facts.get("use") in NEVER_FOR_SYNC:
        drops.add(NOT_FOR_SYNC, f"the manifest says {source.facts['use']}")
        return Outcome(source.name, [], drops.rows)
    records = []
    cut = _cut_video if source.kind == "video" else _cut_pictures
    try:
        for clip in cut(source, options, drops):
            if clip.record.sharpness < options.min_sharpness:
                drops.add("not sharp", f"{clip.record.id}: {clip.record.sharpness}")
                continue
            content = clip_bytes(clip)
            write_whole(output / CLIPS_FOLDER / f"{clip.record.id}.npz", content)
            records.append(replace(clip.record, digest=digest_of(content)))
    except OutputError:
        raise
    except LipsmithError as error:
        drops.add("unreadable", str(error))
    except Exception as error:
        # One strange file must not end a night's work; the row and the log say what to report.
        logger.exception("Preparing %s failed", source.path)
        drops.add("failed", f"{type(error).__name__}: {error}")
    return Outcome(source.name, records, drops.rows)


# Videos.


@dataclass(frozen=True)
class _Piece:
    """Frames of one track that become one clip."""

    track: FaceTrack
    indices: list[int]
    face_pixels: float


def _cut_video(source: Source, options: PrepareOptions, drops: _Drops) -> Iterator[Clip]:
    info = probe(source.path)
    if info.video is None or info.is_image:
        drops.add("no picture", "the file has no video stream")
        return
    if info.audio is None:
        drops.add("no sound", "the file has no audio stream")
        return
    tracker = FaceTracker(
        _detector(options.detector), rate=info.video.rate, pixel_aspect=info.video.pixel_aspect
    )
    times: list[Fraction] = []
    for frame in read_frames(source.path):
        tracker.add(frame.image)
        times.append(frame.time)
    tracks = _one_at_a_time(tracker.finish())
    if not tracks:
        drops.add("no face", f"no face in {len(times)} frames")
        return
    samples = read_samples(source.path, origin=first_frame_time(source.path))
    if not np.any(np.abs(samples) > 1e-4):
        drops.add("silent", "the sound is digital silence")
        return
    sound_seconds = Fraction(len(samples), SAMPLE_RATE_HZ)
    mel = mel_from_blocks([samples])
    pieces: list[_Piece] = []
    for track in tracks:
        indices = _frames_at_training_rate(track, times, sound_seconds)
        boxes = track.boxes
        side = float(np.median(np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))))
        where = f"frames {track.first_frame}–{track.last_frame}"
        if _long_enough(indices, where, options, drops):
            if side < options.min_face_pixels:
                drops.add("face too small", f"{where}: {side:.0f} pixels")
            else:
                pieces += [_Piece(track, part, side) for part in _parts(indices, options)]
    yield from _crop_pieces(source, pieces, times, mel, float(info.video.rate), options)


def _long_enough(indices: list[int], where: str, options: PrepareOptions, drops: _Drops) -> bool:
    seconds = len(indices) / float(TRAINING_RATE_HZ)
    if not indices:
        drops.add("no sound", f"{where}: the sound ends before")
    elif seconds < options.min_seconds:
        drops.add("too short", f"{where}: {seconds:.2f} s of face with sound")
    else:
        return True
    return False


def _parts(indices: list[int], options: PrepareOptions) -> list[list[int]]:
    """`indices` in as few equal parts as the greatest length allows."""
    most = max(1, int(options.max_seconds * TRAINING_RATE_HZ))
    count = -(-len(indices) // most)
    edges = [round(len(indices) * i / count) for i in range(count + 1)]
    return [indices[first:last] for first, last in pairwise(edges)]


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


def _crop_pieces(
    source: Source,
    pieces: list[_Piece],
    times: list[Fraction],
    mel: NDArray[np.float32],
    rate: float,
    options: PrepareOptions,
) -> Iterator[Clip]:
    """Second pass over the video: the crops of the chosen tracks, one clip in memory at a time."""
    if not pieces:
        return
    side = stored_size(options.face_size)
    margin = float(MARGIN_SHARE)
    wanted: dict[int, int] = {}  # frame → position in `pieces`
    for position, piece in enumerate(pieces):
        wanted.update(dict.fromkeys(piece.indices, position))
    crops: dict[int, NDArray[np.uint8]] = {}
    sharpness: dict[int, float] = {}
    current = 0

    def finished() -> Iterator[Clip]:
        piece = pieces[current]
        indices = [index for index in piece.indices if index in crops]
        if indices:
            own_times = [times[index] for index in indices]
            sharp = float(np.median([sharpness[index] for index in set(indices)]))
            record = _record(source, current, len(indices), rate, piece.face_pixels, sharp, options)
            yield Clip(record, [crops[index] for index in indices], own_times, *mel_slice(mel, own_times))

    for frame in read_frames(source.path):
        position = wanted.get(frame.index, -1)
        if position < 0:
            continue
        if position != current:
            yield from finished()
            crops, sharpness, current = {}, {}, position
        box = pieces[position].track.box(frame.index)
        assert box is not None
        tight = options.crop.crop(box)
        stored = Crop.around(tight.box.padded(margin, margin, margin, margin), side).extract(frame.image)
        crops[frame.index] = encode_crop(stored)
        margin_pixels = (side - options.face_size) // 2
        sharpness[frame.index] = _sharpness(
            stored[margin_pixels:-margin_pixels, margin_pixels:-margin_pixels]
        )
    yield from finished()


def _sharpness(face: NDArray[np.uint8]) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())


def _record(
    source: Source,
    position: int,
    num_frames: int,
    rate: float,
    face_pixels: float,
    sharpness: float,
    options: PrepareOptions,
) -> ClipRecord:
    # Corpora call a hundred thousand videos 00001.mp4: of eight digits some would be the same.
    digest = hashlib.sha256(f"{source.name}#{position}".encode()).hexdigest()[:16]
    name = Path(source.name)
    stem = name.stem if source.kind == "video" else f"{name.parent.name}-{name.name}".strip("-")
    facts = source.facts
    return ClipRecord(
        id=f"{stem}-{digest}",
        source=source.name,
        speaker=facts.get("speaker") or stem,
        num_frames=num_frames,
        face_size=options.face_size,
        rate_hz=rate,
        face_pixels=round(face_pixels, 1),
        sharpness=round(sharpness, 1),
        licence=facts.get("licence") or "unknown",
        use=facts.get("use") or "unknown",
        collection=facts.get("collection") or "",
        origin=facts.get("origin") or "",
        split=facts.get("split") or "",
        crop="given" if source.kind == "pictures" else "tracked",
    )


# Folders of pictures, as the published preprocessing leaves them.


def _cut_pictures(source: Source, options: PrepareOptions, drops: _Drops) -> Iterator[Clip]:
    """Numbered face crops at 25 frames a second, number 0 at the beginning of the sound.

    The published preprocessing leaves numbers out where it saw no face: a gap ends a clip.
    """
    if not (source.path / SOUND_NAME).is_file():
        drops.add("no sound", f"the folder has no {SOUND_NAME}")
        return
    samples = read_samples(source.path / SOUND_NAME)
    if not np.any(np.abs(samples) > 1e-4):
        drops.add("silent", "the sound is digital silence")
        return
    mel = mel_from_blocks([samples])
    heard = int(Fraction(len(samples), SAMPLE_RATE_HZ) * TRAINING_RATE_HZ)
    pictures = _read_pictures(source.path, drops)
    margin = (stored_size(options.face_size) - options.face_size) // 2
    position = 0
    for run in _runs(sorted(pictures)):
        indices = [number for number in run if number <= heard]
        if not _long_enough(indices, f"frames {run[0]}–{run[-1]}", options, drops):
            continue
        for part in _parts(indices, options):
            crops, sides, sharpness = [], [], []
            for number in part:
                picture = cv2.imdecode(pictures[number], cv2.IMREAD_COLOR)
                if picture is None:
                    break
                face = resize(picture.astype(np.uint8, copy=False), options.face_size, options.face_size)
                sides.append(float(np.sqrt(picture.shape[0] * picture.shape[1])))
                sharpness.append(_sharpness(face))
                # Outside of the crop nothing is known: the border repeats, as in a crop at a picture's edge.
                stored = cv2.copyMakeBorder(face, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
                crops.append(encode_crop(np.asarray(stored, np.uint8)))
            where = f"frames {part[0]}–{part[-1]}"
            if len(crops) < len(part):
                drops.add("damaged picture", f"{where}: {part[len(crops)]}.jpg cannot be read")
            elif np.median(sides) < options.min_face_pixels:
                drops.add("face too small", f"{where}: {np.median(sides):.0f} pixels")
            else:
                times = [frame_time(number, TRAINING_RATE_HZ) for number in part]
                record = _record(
                    source,
                    position,
                    len(part),
                    float(TRAINING_RATE_HZ),
                    float(np.median(sides)),
                    float(np.median(sharpness)),
                    options,
                )
                yield Clip(record, crops, times, *mel_slice(mel, times))
            position += 1


def _read_pictures(folder: Path, drops: _Drops) -> dict[int, NDArray[np.uint8]]:
    """Number → JPEG of the folder's pictures; one that was cut off is as good as none."""
    pictures: dict[int, NDArray[np.uint8]] = {}
    damaged = []
    for path in folder.glob("*.jpg"):
        if path.stem.isdecimal():
            content = path.read_bytes()
            if content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9"):
                pictures[int(path.stem)] = np.frombuffer(content, np.uint8)
            else:
                damaged.append(int(path.stem))
    if damaged:
        drops.add("damaged picture", f"{len(damaged)} of them, the first {min(damaged)}.jpg")
    return pictures


def _runs(numbers: list[int]) -> Iterator[list[int]]:
    """Stretches of numbers without a gap."""
    run: list[int] = []
    for number in numbers:
        if run and number != run[-1] + 1:
            yield run
            run = []
        run.append(number)
    if run:
        yield run
