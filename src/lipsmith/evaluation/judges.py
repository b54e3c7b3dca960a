"""Who judges whether the lips of a video file belong to its sound: SyncNet, or the project's own expert.

A judge says which part of a frame it sees, hears the whole sound of the file once, and scores stretches of
consecutive frames at 25 a second. Several stretches are scored side by side while the frames go by.

* `SyncNetJudge`: SyncNet v2, whose numbers compare with everybody's who used it.
* `ExpertJudge`: an expert of `lipsmith train`. It sees the face crop of the project's generators, and each frame with
  the sound at that frame's own exact time. Its numbers compare only with numbers of the very same expert.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lipsmith.audio.mel import mel_spectrogram
from lipsmith.audio.windows import window_batch
from lipsmith.conditioning import lower_half
from lipsmith.errors import UsageError, WeightsError
from lipsmith.evaluation.lse import FACE_SIZE, ClipEmbedder, LseScore, SyncNetwork, score_embeddings
from lipsmith.evaluation.sync_score import LEAST_PAIRS, MAX_OFFSET_FRAMES, SyncJudge, SyncScore
from lipsmith.faces.crop import CropRule
from lipsmith.geometry import Box, Image, resize
from lipsmith.timebase import (
    EXPERT_FRAMES,
    SAMPLE_RATE_HZ,
    TRAINING_RATE_HZ,
    WINDOW_COLUMNS,
    expert_lead,
    window_start,
)
from lipsmith.weights.store import file_sha256, load_card, network_file, weights_folder

Samples = NDArray[np.float32]

SYNCNET_NAME = "syncnet-v2"
"""Name of SyncNet's weights among the installed ones."""
SYNCNET_COMPARES = "LSE by SyncNet v2, the field's judge."
EXPERT_COMPARES = (
    "LSE with the distances of this project's own expert in the place of SyncNet's: these numbers compare only "
    "with one another, never with SyncNet's or with another expert's."
)
CROP_SCALE = 0.40
"""How much of a face's half side SyncNet's crop adds on each side of it, and below it twice."""
_CROP_GREY = 110  # Parity: what the published crop shows beyond the frame's edge
_SAMPLES_PER_FRAME = int(SAMPLE_RATE_HZ / TRAINING_RATE_HZ)
_EXPERT_STRETCH = 64  # windows that an expert embeds at once
_PUBLISHED_EXPERT_PADDING = (0.0, 0.08, 0.0, 0.0)

JudgeKind = Literal["syncnet", "expert"]


class Stretch(Protocol):
    """A run of consecutive frames that is being scored."""

    def add(self, face: Image, time: Fraction) -> None:
        """Take the next frame's crop, uint8 BGR as `FileJudge.crop` gives it, and its own time in seconds."""
        ...

    def finish(self) -> LseScore:
        """The score; `ValueError`, in a few words, where the stretch or its sound is too short for one."""
        ...


class FileJudge(Protocol):
    """What scores video files; see `SyncNetJudge` and `ExpertJudge`."""

    name: str
    kind: JudgeKind
    digest: str
    """SHA-256 of the weights."""
    compares: str
    """A sentence about what its numbers compare with."""
    runtime: str
    least_frames: int
    """Fewest frames at 25 a second that can be scored."""

    def crop(self, image: Image, box: Box | None) -> Image:
        """What the judge sees of a frame: around a tracked face, or, without a box, the whole frame."""
        ...

    def hear(self, samples: Samples) -> Callable[[int, int], Stretch]:
        """Take the sound of a file, 16 kHz mono from the first frame on.

        Returns:
            A function of the first frame of a stretch, counted at 25 a second from the file's first, and of its
            number of frames, that begins to score the stretch.
        """
        ...


class SyncNetJudge:
    """SyncNet v2 (Chung and Zisserman, "Out of time", 2016).

    Args:
        network: embeds lips and sound.
        digest: SHA-256 of its weights.
        runtime: what computes it, for reports.
    """

    name = "SyncNet v2"
    kind: JudgeKind = "syncnet"
    compares = SYNCNET_COMPARES
    least_frames = EXPERT_FRAMES + 1

    def __init__(self, network: SyncNetwork, digest: str, runtime: str = "torch") -> None:
        self.network, self.digest, self.runtime = network, digest, runtime

    def crop(self, image: Image, box: Box | None) -> Image:
        """(224, 224, 3) uint8; see `syncnet_crop`."""
        if box is None:
            return np.asarray(cv2.resize(image, (FACE_SIZE, FACE_SIZE)), np.uint8)
        return syncnet_crop(image, box)

    def hear(self, samples: Samples) -> Callable[[int, int], Stretch]:
        """See `FileJudge`. As in the published pipeline a stretch hears nothing from before or after it."""

        def begin(first: int, num_frames: int) -> Stretch:
            sound = samples[first * _SAMPLES_PER_FRAME : (first + num_frames) * _SAMPLES_PER_FRAME]
            return _SyncNetStretch(ClipEmbedder(self.network, sound))

        return begin


class ExpertJudge:
    """An expert of `lipsmith train`, or one of the published layout.

    Args:
        expert: embeds lips and sound as unit vectors; a module in evaluation mode.
        digest: SHA-256 of its weights.
        crop_rule: the face crop that it was trained on.
    """

    kind: JudgeKind = "expert"
    compares = EXPERT_COMPARES
    runtime = "torch"

    def __init__(
        self, expert: SyncJudge, digest: str, crop_rule: CropRule | None = None, name: str = "expert"
    ) -> None:
        self.expert, self.digest, self.name = expert, digest, name
        self.crop_rule = crop_rule or CropRule()
        # With fewer windows than this the curve has no three points to compare (`sync_score.score_similarity`).
        self.least_frames = expert.frames + LEAST_PAIRS + 1

    def crop(self, image: Image, box: Box | None) -> Image:
        """(S, S, 3) uint8. A whole frame is stretched to the crop: it should be a face crop already."""
        if box is None:
            return np.asarray(resize(image, self.crop_rule.face_size, self.crop_rule.face_size), np.uint8)
        return self.crop_rule.crop(box).extract(image)

    def hear(self, samples: Samples) -> Callable[[int, int], Stretch]:
        """See `FileJudge`."""
        mel = mel_spectrogram(samples)

        def begin(_first: int, _num_frames: int) -> Stretch:
            return _ExpertStretch(self.expert, mel)

        return begin


def syncnet_crop(image: Image, box: Box) -> Image:
    """SyncNet's view of a tracked face, (224, 224, 3) uint8 BGR.

    With half a side s of the square around the box, the crop reaches 1.4 · s to the left and right of the
    box's middle, s above and 1.8 · s below it (crop scale 0.40); beyond the frame it is grey.
    """
    # Parity: truncated to whole pixels, grey beyond the edge, bilinear even when shrinking, as published.
    half = max(box.width, box.height, 2.0) / 2
    x, y = box.center
    margin = int(half * (1 + 2 * CROP_SCALE))
    top, bottom = int(y + margin - half), int(y + margin + half * (1 + 2 * CROP_SCALE))
    left = int(x + margin - half * (1 + CROP_SCALE))
    right = int(x + margin + half * (1 + CROP_SCALE))
    rows, columns = image.shape[:2]
    face = np.full((bottom - top, right - left, 3), _CROP_GREY, np.uint8)
    top, bottom, left, right = top - margin, bottom - margin, left - margin, right - margin
    seen_rows, seen_columns = (
        slice(max(top, 0), min(bottom, rows)),
        slice(max(left, 0), min(right, columns)),
    )
    if seen_rows.start < seen_rows.stop and seen_columns.start < seen_columns.stop:
        face[
            seen_rows.start - top : seen_rows.stop - top,
            seen_columns.start - left : seen_columns.stop - left,
        ] = image[seen_rows, seen_columns]
    return np.asarray(cv2.resize(face, (FACE_SIZE, FACE_SIZE)), np.uint8)


def resolve_judge(
    judge: str | Path | FileJudge | None = None,
    *,
    device: str = "auto",
    threads: int | None = None,
    download: bool = False,
) -> FileJudge:
    """The judge that the user means.

    Args:
        judge: the path of SyncNet's weights, `"expert=NAME"` for an expert (installed weights, a weights or run folder,
            or a file), or None for SyncNet's installed weights.
        device: "auto", "cpu" or a device of PyTorch's.
        threads: most CPU threads; None: all cores.
        download: fetch SyncNet's weights from their authors' address where none are installed.

    Raises:
        WeightsError: there are none, they are damaged, or belong to another network.
        RuntimeUnavailableError: OpenVINO is missing, or the device is not there.
    """
    if judge is not None and not isinstance(judge, str | Path):
        return judge
    named = str(judge or "")
    if named.startswith("expert="):
        return _open_expert(named.removeprefix("expert="), device, threads)
    return _open_syncnet(_syncnet_file(judge, download), device, threads)


def _open_expert(wanted: str, device: str, threads: int | None) -> ExpertJudge:
    from safetensors import SafetensorError, safe_open

    from lipsmith.training.expert import load_expert

    file = network_file(wanted, "expert")
    expert = load_expert(file)
    try:
        with safe_open(file, "pt") as opened:
            is_own = "model" in (opened.metadata() or {})
    except (OSError, SafetensorError):
        is_own = False
    rule = CropRule() if is_own else CropRule(padding=_PUBLISHED_EXPERT_PADDING)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if threads is not None:
        torch.set_num_threads(threads)
    is_whole_folder = file.stem in ("best", "expert")  # of a run, or of weights
    name = f"expert {file.parent.name if is_whole_folder else file.stem}"
    return ExpertJudge(expert.to(device), file_sha256(file), rule, name)


def _open_syncnet(path: Path, device: str, threads: int | None) -> SyncNetJudge:
    from lipsmith.evaluation.syncnet_runtime import fast_syncnet
    from lipsmith.models.syncnet import SyncNet
    from lipsmith.weights.checkpoint import load_network

    network, _ = load_network(path, "syncnet")
    assert isinstance(network, SyncNet)
    fast = fast_syncnet(network, device=device, threads=threads)
    return SyncNetJudge(fast, file_sha256(path), fast.runtime)


def _syncnet_file(judge: str | Path | None, download: bool) -> Path:
    if judge is not None:
        return network_file(judge, "syncnet")
    try:
        card = load_card(SYNCNET_NAME)
    except WeightsError as error:
        if download:
            from lipsmith.evaluation.published import install_syncnet

            return install_syncnet() / "syncnet.safetensors"
        raise UsageError(
            "SyncNet's weights are not installed. Fetch them from their authors with --download, give their file "
            "with --judge FILE, or judge by the expert that comes with Lipsmith, --judge expert=judge, or by your own, "
            "--judge expert=RUN."
        ) from error
    return weights_folder(card) / "syncnet.safetensors"  # damaged ones are told as such, not as absent


class _SyncNetStretch:
    def __init__(self, embedder: ClipEmbedder) -> None:
        self._embedder = embedder

    def add(self, face: Image, time: Fraction) -> None:
        self._embedder.add(face)

    def finish(self) -> LseScore:
        return score_embeddings(*self._embedder.finish())


class _ExpertStretch:
    """Embeds as many windows at a time as `_EXPERT_STRETCH`, so that memory holds embeddings, never all faces."""

    def __init__(self, expert: SyncJudge, mel: NDArray[np.float32]) -> None:
        self._expert, self._mel = expert, mel
        self._lead = expert_lead(expert.frames)
        parameter = next(expert.parameters(), None) if isinstance(expert, torch.nn.Module) else None
        self._device = torch.device("cpu") if parameter is None else parameter.device
        self._faces: list[NDArray[np.uint8]] = []  # lower halves not yet in all of their windows
        self._starts: list[int] = []  # of the sound of the window that begins with each of them
        self._lips: list[NDArray[np.float32]] = []
        self._sounds: list[NDArray[np.float32]] = []
        self._is_full = False

    def add(self, face: Image, time: Fraction) -> None:
        if self._is_full:
            return
        start = window_start(time, self._lead)
        self._faces.append(lower_half(face.transpose(2, 0, 1)).copy())
        # A window whose sound is not all there is none.
        if start + WINDOW_COLUMNS <= self._mel.shape[1]:
            self._starts.append(start)
        elif len(self._faces) - len(self._starts) >= self._expert.frames:
            self._is_full = True
        if len(self._faces) >= _EXPERT_STRETCH + self._expert.frames - 1:
            self._embed()

    def finish(self) -> LseScore:
        self._embed()
        if sum(map(len, self._lips)) < LEAST_PAIRS + 1:
            raise ValueError(
                f"picture and sound must last {self._expert.frames + LEAST_PAIRS + 1} frames for the expert"
            )
        return score_unit_embeddings(np.concatenate(self._lips), np.concatenate(self._sounds))

    def _embed(self) -> None:
        count = min(len(self._faces) - self._expert.frames + 1, len(self._starts))
        if count < 1:
            return
        faces = np.stack(self._faces[: count + self._expert.frames - 1]).astype(np.float32) / np.float32(255)
        windows = window_batch(self._mel, self._starts[:count])
        with torch.inference_mode():
            lips = self._expert.embed_lips(torch.from_numpy(faces)[None].to(self._device))
            sounds = self._expert.embed_sound(torch.from_numpy(windows)[None].to(self._device))
        self._lips.append(lips[0].float().cpu().numpy())
        self._sounds.append(sounds[0].float().cpu().numpy())
        del self._faces[:count], self._starts[:count]


def score_unit_embeddings(lip: NDArray[np.floating], sound: NDArray[np.floating]) -> LseScore:
    """The score of a clip from its unit embeddings (N, D) of lips and sound, by `sync_score`'s definitions.

    Equal to `sync_score.score_similarity(lip @ sound.T)`, in memory that grows with N instead of its square.
    `mean_distance` is SyncNet's way round: at the shifts −15 … 15 of the sound; NaN where too few windows meet.

    Raises:
        ValueError: fewer than three offsets at which enough windows meet.
    """
    if lip.shape != sound.shape or lip.ndim != 2:
        raise ValueError(
            f"lip {lip.shape} and sound {sound.shape} must be of one shape (windows, dimensions)"
        )
    curve = np.full(2 * MAX_OFFSET_FRAMES + 1, np.nan)
    for index, offset in enumerate(range(-MAX_OFFSET_FRAMES, MAX_OFFSET_FRAMES + 1)):
        count = len(lip) - abs(offset)
        if count >= LEAST_PAIRS:
            heard, seen = sound[max(-offset, 0) :][:count], lip[max(offset, 0) :][:count]
            curve[index] = np.einsum("nd,nd->n", seen, heard).mean(dtype=np.float64)
    if np.isfinite(curve).sum() < 3:
        raise ValueError(f"{len(lip)} windows are too few for an offset")
    score = SyncScore(
        num_windows=len(lip),
        preference_share=float("nan"),
        av_offset_frames=int(np.nanargmax(curve)) - MAX_OFFSET_FRAMES,
        confidence=float(np.nanmax(curve) - np.nanmedian(curve)),
        curve=curve,
    )
    return LseScore(
        lse_d=score.lse_d,
        lse_c=score.lse_c,
        av_offset_frames=score.av_offset_frames or 0,
        num_windows=len(lip),
        mean_distance=np.sqrt(np.maximum(0.0, 2 - 2 * curve))[::-1],
    )
