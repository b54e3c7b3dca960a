"""How good the pictures of a lip-synced video are, beside the video that it was made of or should equal.

All numbers are of frames at 25 a second, matched by time, at the box in which the face is tracked **in the reference**:

* **psnr_lower**, **ssim_lower**, **lpips_lower**: of the lower half of the face crop (`faces.crop.CropRule`), both
  resampled to 224 × 224. They say something where the reference shows the same words: the real video of the speech.
* **mouth_distance**: of the mouth corners that the detector finds in both, in distances between the eyes. MTCNN gives
  two points of a mouth, not twenty: it sees a mouth that is misplaced, too wide or too narrow, hardly one that should
  be open. Landmarks of generated faces are rough themselves (paper, 4.1.4).
* **identity_similarity**: cosine of two embeddings of the face, by a network of the caller's.
* **unchanged_difference**, **flicker**: outside of the face, where nothing may change: mean absolute difference to the
  reference in grey levels (0 to 255), and the mean absolute change of that difference from frame to frame. Encoding
  twice leaves about one grey level of both; more than `MOST_CODING_NOISE` is no coding noise. A visible mark changes
  that region on purpose.

FID compares sets of videos: `fid_of_videos`, see `lipsmith.evaluation.fid`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from lipsmith.errors import DataError, InputError, LipsmithError, RuntimeUnavailableError, UsageError
from lipsmith.evaluation.fid import (
    FEATURE_FACE_SIZE,
    FeatureExtractor,
    FeatureStatistics,
    FeatureStatisticsBuilder,
    as_rows,
    frechet_distance,
    load_torchscript,
    network_pictures,
)
from lipsmith.evaluation.file_score import frames_at_rate
from lipsmith.evaluation.mouth import ssim
from lipsmith.faces.crop import CropRule
from lipsmith.faces.detect import FaceDetector, resolve_detector
from lipsmith.faces.track import FaceTracker, primary_boxes
from lipsmith.geometry import LUMA_BGR, Box, Crop, Image
from lipsmith.media.read import read_frames
from lipsmith.timebase import TRAINING_RATE_HZ

MOST_CODING_NOISE = 2.0
"""Grey levels of mean absolute difference outside of the face that encoding twice explains."""
MOST_PSNR = 100.0  # dB, of equal pictures, so that averages and JSON have a number
_FACE_SIZE = 224
_IDENTITY_SIZE = 112
_LOOK_EVERY = 5  # frames: landmarks and identity change slowly, and finding them takes long
_FACE_MARGIN = 0.25  # of the face crop's sides, around it: what feathering and tracking may touch
_LEAST_OUTSIDE = 0.05  # share of the picture that must lie outside of the face for the region to say anything
_LUMA = np.array(LUMA_BGR, np.float32)

FailureKind = Literal["no reference", "unreadable", "other size", "no face", "failed"]


class PairNetwork:
    """A TorchScript network of two pictures, such as LPIPS: (n, 3, H, W) RGB −1 to 1, twice, to n distances.

    TorchScript is a program: the file is run on the user's word. `WeightsError` where it is none.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self._network, self._device, self.name = load_torchscript(path, device), device, path.name

    def distance(self, first: Image, second: Image) -> float:
        """Of two uint8 BGR pictures of one size."""
        inputs = [
            torch.from_numpy(np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1), np.float32))[None]
            for picture in (first, second)
        ]
        with torch.inference_mode():
            made = self._network(*(picture.to(self._device) / 127.5 - 1 for picture in inputs))
        return float(as_rows(made, self.name).mean())


class IdentityNetwork:
    """A TorchScript network that embeds faces, such as ArcFace: (n, 3, 112, 112) RGB −1 to 1, to (n, D).

    It is shown the tracked face crop, which is not rotated upright. The file is run on the user's word. `WeightsError`
    where it is none.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self._network, self._device, self.name = load_torchscript(path, device), device, path.name

    def similarity(self, first: Image, second: Image) -> float:
        """Cosine of the embeddings of two face crops, uint8 BGR."""
        inputs = network_pictures([first, second], _IDENTITY_SIZE).to(self._device) / 127.5 - 1
        with torch.inference_mode():
            one, other = as_rows(self._network(inputs), self.name).astype(np.float64)
        lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
        return float(one @ other) / lengths if lengths > 0 else 0.0


@dataclass(frozen=True)
class QualityTools:
    """What quality is measured with; what is absent is left out.

    Attributes:
        detector: of faces and mouth corners.
        crop_rule: the face crop that is compared.
        identity: embeds faces.
        perceptual: LPIPS or alike.
    """

    detector: FaceDetector
    crop_rule: CropRule = field(default_factory=lambda: CropRule(face_size=_FACE_SIZE))
    identity: IdentityNetwork | None = None
    perceptual: PairNetwork | None = None


@dataclass(frozen=True)
class ImageQuality:
    """One row: the numbers of a video beside its reference, or why there are none. See the module for what they are.

    `num_frames` frames were compared, `num_faces` of them with a face; a number that could not be measured is None.
    """

    path: Path
    reference: Path | None
    failure: str | None = None
    failure_kind: FailureKind | None = None
    num_frames: int = 0
    num_faces: int = 0
    psnr_lower: float | None = None
    ssim_lower: float | None = None
    lpips_lower: float | None = None
    mouth_distance: float | None = None
    identity_similarity: float | None = None
    unchanged_difference: float | None = None
    flicker: float | None = None

    @property
    def is_scored(self) -> bool:
        """Whether there are numbers."""
        return self.failure is None

    @property
    def is_unchanged_outside(self) -> bool | None:
        """Whether coding noise explains the difference outside of the face; None where there is no outside."""
        if self.unchanged_difference is None:
            return None
        return self.unchanged_difference <= MOST_CODING_NOISE

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return {
            **values,
            "path": str(self.path),
            "reference": None if self.reference is None else str(self.reference),
            "is_unchanged_outside": self.is_unchanged_outside,
        }

    @classmethod
    def failed(cls, path: Path, reference: Path | None, kind: FailureKind, failure: str) -> Self:
        """A row without numbers."""
        return cls(path, reference, failure, kind)


def compare_files(path: str | Path, reference: str | Path | None, tools: QualityTools) -> ImageQuality:
    """The row of one video beside its reference; what cannot be compared is a row with a reason.

    The longer of the two is compared as far as the other goes.
    """
    path = Path(path)
    if reference is None:
        return ImageQuality.failed(path, None, "no reference", f"{path} has no reference of its name.")
    reference = Path(reference)
    try:
        boxes = face_boxes(reference, tools.detector)
        if not any(boxes):
            return ImageQuality.failed(path, reference, "no face", f"There is no face in {reference}.")
        frames = zip(
            (frame.image for frame in frames_at_rate(read_frames(path))),
            (frame.image for frame in frames_at_rate(read_frames(reference))),
            boxes,
            strict=False,
        )
        measured = compare_frames(frames, tools)
    except _SizeError as error:
        return ImageQuality.failed(path, reference, "other size", f"{path}: {error}.")
    except RuntimeUnavailableError:
        raise  # of this machine, not of the file
    except LipsmithError as error:
        kind: FailureKind = "unreadable" if isinstance(error, InputError) else "failed"
        return ImageQuality.failed(path, reference, kind, str(error))
    if not measured.num_faces:
        return ImageQuality.failed(path, reference, "no face", f"{path} ends before there is a face.")
    return dataclasses.replace(measured, path=path, reference=reference)


def compare_frames(frames: Iterable[tuple[Image, Image, Box | None]], tools: QualityTools) -> ImageQuality:
    """The numbers of consecutive frames: (picture, reference, box of the face in the reference or None)."""
    numbers: dict[str, list[float]] = {name: [] for name in _MEASURES}
    num_frames = num_faces = 0
    before: NDArray[np.float32] | None = None
    for picture, reference, box in frames:
        if picture.shape != reference.shape:
            raise _SizeError(
                f"its frames have {picture.shape[1]} × {picture.shape[0]} pixels, the reference's "
                f"{reference.shape[1]} × {reference.shape[0]}"
            )
        num_frames += 1
        if box is None:
            before = None
            continue
        crop = tools.crop_rule.crop(box)
        face, real = crop.extract(picture), crop.extract(reference)
        half = len(face) // 2
        numbers["error"].append(float(((face[half:].astype(np.float64) - real[half:]) ** 2).mean()))
        numbers["ssim_lower"].append(float(ssim(face[None, half:], real[None, half:])[0]))
        if tools.perceptual is not None:
            numbers["lpips_lower"].append(tools.perceptual.distance(face[half:], real[half:]))
        if num_faces % _LOOK_EVERY == 0:
            if tools.identity is not None:
                numbers["identity_similarity"].append(tools.identity.similarity(face, real))
            distance = mouth_distance(picture, reference, box, tools.detector)
            if distance is not None:
                numbers["mouth_distance"].append(distance)
        difference, outside = _outside_difference(picture, reference, crop)
        if outside.mean() >= _LEAST_OUTSIDE:
            numbers["unchanged_difference"].append(float(np.abs(difference[outside]).mean()))
            if before is not None:
                both = outside & np.isfinite(before)
                numbers["flicker"].append(float(np.abs(difference[both] - before[both]).mean()))
            before = np.where(outside, difference, np.nan)
        num_faces += 1
    means: dict[str, Any] = {name: float(np.mean(row)) if row else None for name, row in numbers.items()}
    error = means.pop("error")
    psnr = None if error is None else MOST_PSNR if error == 0 else 10 * math.log10(255**2 / error)
    return ImageQuality(
        Path(),
        None,
        num_frames=num_frames,
        num_faces=num_faces,
        psnr_lower=None if psnr is None else min(psnr, MOST_PSNR),
        **means,
    )


def mouth_distance(picture: Image, reference: Image, box: Box, detector: FaceDetector) -> float | None:
    """Mean distance of the mouth corners of two frames, in distances between the reference's eyes.

    None where the detector finds no landmarks of the face in `box` in either.
    """
    found = [_landmarks(image, box, detector) for image in (picture, reference)]
    points, real = found
    if points is None or real is None:
        return None
    eyes = float(np.linalg.norm(real[1] - real[0]))
    if eyes <= 0:
        return None
    return float(np.linalg.norm(points[3:] - real[3:], axis=1).mean()) / eyes


def face_boxes(path: str | Path, detector: FaceDetector) -> list[Box | None]:
    """The box of the largest face in each frame at 25 a second; None where there is none."""
    tracker = FaceTracker(detector, rate=TRAINING_RATE_HZ)
    num_frames = 0
    for frame in frames_at_rate(read_frames(path)):
        tracker.add(frame.image)
        num_frames += 1
    return primary_boxes(tracker.finish(), num_frames)


def face_crops(path: str | Path, detector: FaceDetector, *, size: int, every: int = 1) -> Iterator[Image]:
    """The tracked face crop of every so many frames of a video, (size, size, 3) uint8 BGR."""
    rule = CropRule(face_size=size + size % 2)
    boxes = face_boxes(path, detector)
    for place, (frame, box) in enumerate(zip(frames_at_rate(read_frames(path)), boxes, strict=False)):
        if box is not None and place % every == 0:
            crop = rule.crop(box)
            yield Crop(crop.left, crop.top, crop.right, crop.bottom, size).extract(frame.image)


def fit_videos(
    paths: Sequence[str | Path],
    extractor: FeatureExtractor,
    detector: FaceDetector | None = None,
    *,
    every: int = 5,
    on_failure: Callable[[Path, str], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> FeatureStatistics:
    """The distribution of the features of the face crops of a set of videos.

    Args:
        paths: the videos.
        extractor: see `lipsmith.evaluation.fid.open_features`.
        detector: of faces; None: the default one.
        every: one frame of so many, at 25 a second: neighbours are nearly the same picture.
        on_failure: called for each video that cannot be read, with the reason; None: it is raised.
        on_progress: called with (videos done, videos in all).

    Raises:
        DataError: fewer than two faces in all.
    """
    detector = detector or _default_detector()
    builder = FeatureStatisticsBuilder()
    for done, path in enumerate(map(Path, paths), 1):
        try:
            crops = list(face_crops(path, detector, size=FEATURE_FACE_SIZE, every=every))
            if not crops:
                raise DataError(f"There is no face in {path}.")
            builder.add(extractor.features(crops))
        except RuntimeUnavailableError:
            raise
        except LipsmithError as error:
            if on_failure is None:
                raise
            on_failure(path, str(error))
        if on_progress:
            on_progress(done, len(paths))
    return builder.finish()


def fid_of_videos(
    generated: Sequence[str | Path], real: Sequence[str | Path], extractor: FeatureExtractor, **options: Any
) -> float:
    """FID of the face crops of two sets of videos; `options` are those of `fit_videos`."""
    return frechet_distance(
        fit_videos(generated, extractor, **options), fit_videos(real, extractor, **options)
    )


def match_references(paths: Iterable[Path], reference: Path) -> list[tuple[Path, Path | None]]:
    """Each video with the reference of its name, whatever the suffix; None where there is none.

    Of several references of one name, such as `a/1.mp4` and `b/1.mp4`, it is the one in folders of the video's names.

    Args:
        paths: videos.
        reference: a folder, searched whole, or the one file that is everybody's reference.

    Raises:
        InputError: a folder without videos.
        UsageError: several references of a video's name, and no folder's name that tells which is meant.
    """
    from lipsmith.evaluation.file_score import find_videos

    if not reference.is_dir():
        return [(path, reference) for path in paths]
    by_name: dict[str, list[Path]] = {}
    for found in find_videos([reference]):
        by_name.setdefault(found.stem, []).append(found)
    return [(path, _meant(path, by_name.get(path.stem, []), reference)) for path in paths]


def _meant(path: Path, candidates: list[Path], folder: Path) -> Path | None:
    """Which of the references of its name in `folder` is that of a video."""
    if len({candidate.with_suffix("") for candidate in candidates}) > 1:
        ends = [candidate.relative_to(folder).with_suffix("").parts for candidate in candidates]
        own = path.with_suffix("").parts
        fitting = [
            candidate for candidate, end in zip(candidates, ends, strict=True) if own[-len(end) :] == end
        ]
        # Of `1.mp4` and `a/1.mp4`, which both fit, the one that shares more.
        most = max((len(candidate.parts) for candidate in fitting), default=0)
        candidates = [candidate for candidate in fitting if len(candidate.parts) == most] or candidates
        if len(candidates) > 1:
            raise UsageError(
                f"{candidates[0]} and {candidates[1]} could both be the reference of {path}: let them lie in folders "
                "of the same names, or compare one folder at a time."
            )
    return candidates[0] if candidates else None


_MEASURES = (
    "error",
    "ssim_lower",
    "lpips_lower",
    "mouth_distance",
    "identity_similarity",
    "unchanged_difference",
    "flicker",
)


class _SizeError(Exception):
    """Frames that do not compare."""


@functools.cache
def _default_detector() -> FaceDetector:
    return resolve_detector("mtcnn")


def _outside_difference(
    picture: Image, reference: Image, crop: Crop
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Difference of luma (H, W) in grey levels, and where it lies outside of the face."""
    outside = np.ones(picture.shape[:2], bool)
    face = crop.box.padded(*(_FACE_MARGIN,) * 4)
    rows = slice(max(0, math.floor(face.top)), max(0, math.ceil(face.bottom)))
    columns = slice(max(0, math.floor(face.left)), max(0, math.ceil(face.right)))
    outside[rows, columns] = False
    return (picture.astype(np.float32) - reference.astype(np.float32)) @ _LUMA, outside


def _landmarks(image: Image, box: Box, detector: FaceDetector) -> NDArray[np.float64] | None:
    """(5, 2) pixels of the frame, of the detected face that `box` fits best."""
    around = Crop.around(box.padded(0.5, 0.5, 0.5, 0.5), 2)
    faces = detector.detect(np.ascontiguousarray(around.source(image)))
    own = Box(box.left - around.left, box.top - around.top, box.right - around.left, box.bottom - around.top)
    best = max(faces, key=lambda face: face.box.iou(own), default=None)
    if best is None or best.landmarks is None or best.box.iou(own) < 0.3:
        return None
    return best.landmarks + np.array([around.left, around.top])
