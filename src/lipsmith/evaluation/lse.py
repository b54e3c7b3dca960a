"""LSE-D and LSE-C: how far lips and sound are apart for SyncNet, which was in nobody's loss (paper, 4.1).

For every shift k = −15 … 15 the distance of the lips at window i and of the sound at window i + k is averaged
over time. LSE-D is the least of the 31 means, LSE-C their median minus the least, and the offset is the shift
of the least with its sign turned: positive when the sound comes too early.

**A constant lag is invisible to LSE-D and LSE-C**, which take the best shift whichever it is: always report
the offset beside them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipsmith.audio.mfcc import MFCC_RATE_HZ, mfcc, to_int16
from lipsmith.geometry import Image
from lipsmith.timebase import EXPERT_FRAMES, SAMPLE_RATE_HZ, TRAINING_RATE_HZ

MAX_SHIFT_FRAMES = 15
FACE_SIZE = 224
_SAMPLES_PER_FRAME = int(SAMPLE_RATE_HZ / TRAINING_RATE_HZ)
_MFCC_PER_FRAME = int(MFCC_RATE_HZ / TRAINING_RATE_HZ)
_MFCC_PER_WINDOW = _MFCC_PER_FRAME * EXPERT_FRAMES
_BATCH_WINDOWS = 16
_DISTANCE_EPSILON = 1e-6


@dataclass(frozen=True)
class LseScore:
    """How well one clip is in sync, by SyncNet."""

    lse_d: float
    """Least mean distance: smaller is better; 6.7 for the real clips of LRS2."""
    lse_c: float
    """Median minus least mean distance: larger is better; 7.8 for the real clips of LRS2."""
    av_offset_frames: int
    """Frames of 40 ms by which the sound comes too early."""
    num_windows: int
    mean_distance: NDArray[np.float64]
    """(31,) mean distance at the shifts −15 … 15."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "lse_d": self.lse_d,
            "lse_c": self.lse_c,
            "av_offset_frames": self.av_offset_frames,
            "num_windows": self.num_windows,
            "mean_distance": self.mean_distance.tolist(),
        }


class SyncNetwork(Protocol):
    """What `lipsmith.models.syncnet.SyncNet` offers."""

    def embed_lips(self, frames: Tensor) -> Tensor:
        """Faces (n, 3, 5, 224, 224), BGR 0–255, to (n, D)."""
        ...

    def embed_sound(self, mfcc: Tensor) -> Tensor:
        """MFCC (n, 1, 13, 20) to (n, D)."""
        ...


def shifted_distances(
    lip: NDArray[np.floating], sound: NDArray[np.floating], max_shift: int = MAX_SHIFT_FRAMES
) -> NDArray[np.float64]:
    """Euclidean distance of every lip embedding to the sounds around it.

    Args:
        lip, sound: (N, D), one row per window.

    Returns:
        (N, 2 · max_shift + 1): column k + max_shift is the distance of lips i to sound i + k.
    """
    if lip.ndim != 2 or lip.shape != sound.shape or len(lip) == 0:
        raise ValueError(
            f"lip {lip.shape} and sound {sound.shape} must be of one shape (windows, dimensions)"
        )
    num_windows = len(lip)
    lip, sound = lip.astype(np.float64), sound.astype(np.float64)
    # Parity: beyond the ends stand zero vectors, whose distance is the length of the lip embedding. Leaving
    # them out would be sounder, but LSE would not compare with published numbers on short clips.
    padded = np.pad(sound, ((max_shift, max_shift), (0, 0)))
    distances = np.empty((num_windows, 2 * max_shift + 1))
    for column in range(2 * max_shift + 1):
        # Parity: the published distance adds 1e-6 to every difference.
        difference = lip - padded[column : column + num_windows] + _DISTANCE_EPSILON
        distances[:, column] = np.sqrt((difference**2).sum(axis=1))
    return distances


def score_embeddings(lip: NDArray[np.floating], sound: NDArray[np.floating]) -> LseScore:
    """The score of a clip from its two embedding sequences, each (N, D), one row per window."""
    mean_distance = shifted_distances(lip, sound).mean(axis=0)
    best = int(mean_distance.argmin())
    least = float(mean_distance[best])
    return LseScore(
        lse_d=least,
        lse_c=float(np.median(mean_distance)) - least,
        av_offset_frames=MAX_SHIFT_FRAMES - best,
        num_windows=len(lip),
        mean_distance=mean_distance,
    )


def embed_clip(
    syncnet: SyncNetwork, faces: Iterable[Image], samples: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """SyncNet's embeddings of a clip's lips and sound, each (N, D).

    Args:
        syncnet: if it is a module it is asked in evaluation mode, on the device of its parameters.
        faces: consecutive BGR frames or face crops, uint8, of any one size, at 25 frames a second; only a few
            are held at a time.
        samples: the clip's sound from the first frame on, 16 kHz mono in [−1, 1].

    Raises:
        ValueError: picture or sound shorter than six frames (0.24 s).
    """
    was_training = isinstance(syncnet, nn.Module) and syncnet.training
    if isinstance(syncnet, nn.Module):
        syncnet.eval()
    try:
        embedder = ClipEmbedder(syncnet, samples)
        for face in faces:
            if embedder.is_full:
                break
            embedder.add(face)
        return embedder.finish()
    finally:
        if isinstance(syncnet, nn.Module):
            syncnet.train(was_training)


def score_clip(syncnet: SyncNetwork, faces: Iterable[Image], samples: NDArray[np.float32]) -> LseScore:
    """LSE-D, LSE-C and offset of one clip; arguments and errors as for `embed_clip`."""
    return score_embeddings(*embed_clip(syncnet, faces, samples))


class ClipEmbedder:
    """Embeds a clip whose frames come one by one, so that several clips of one video can be embedded side by side.

    Arguments as for `embed_clip`, but that a module must be in evaluation mode.
    """

    def __init__(self, syncnet: SyncNetwork, samples: NDArray[np.float32]) -> None:
        self._syncnet = syncnet
        self._device = (
            next(syncnet.parameters()).device if isinstance(syncnet, nn.Module) else torch.device("cpu")
        )
        self._features = mfcc(to_int16(samples))
        # Parity: one window fewer than fit, as published.
        self._most_windows = max(0, len(samples) // _SAMPLES_PER_FRAME - EXPERT_FRAMES)
        self._held: list[NDArray[np.float32]] = []  # frames not yet in all of their windows
        self._num_windows = 0
        self._lips: list[NDArray[np.float32]] = []
        self._sounds: list[NDArray[np.float32]] = []

    @property
    def is_full(self) -> bool:
        """Whether the sound is at its end, so that further frames change nothing."""
        return self._num_windows >= self._most_windows

    def add(self, face: Image) -> None:
        """Take the next frame or face crop, uint8 BGR of any one size."""
        if self.is_full:
            return
        self._held.append(_network_face(face))
        if self._num_ready >= _BATCH_WINDOWS:
            self._embed(self._num_ready)

    def finish(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The embeddings of lips and sound, each (N, D); raises `ValueError` as `embed_clip`."""
        if self._num_ready > 0:
            self._embed(self._num_ready)
        if not self._lips:
            raise ValueError(f"picture and sound must last {EXPERT_FRAMES + 1} frames (0.24 s) for SyncNet")
        return np.concatenate(self._lips), np.concatenate(self._sounds)

    @property
    def _num_ready(self) -> int:
        # Parity: as of the sound, one window fewer than fit.
        return min(len(self._held) - EXPERT_FRAMES, self._most_windows - self._num_windows)

    def _embed(self, count: int) -> None:
        frames = np.stack(
            [np.stack(self._held[start : start + EXPERT_FRAMES], axis=1) for start in range(count)]
        )
        starts = range(
            self._num_windows * _MFCC_PER_FRAME,
            (self._num_windows + count) * _MFCC_PER_FRAME,
            _MFCC_PER_FRAME,
        )
        sound = np.stack([self._features[start : start + _MFCC_PER_WINDOW].T for start in starts])[:, None]
        with torch.inference_mode():
            lip = self._syncnet.embed_lips(torch.from_numpy(frames).to(self._device))
            heard = self._syncnet.embed_sound(torch.from_numpy(sound).to(self._device))
        self._lips.append(lip.cpu().numpy())
        self._sounds.append(heard.cpu().numpy())
        self._num_windows += count
        del self._held[:count]


def _network_face(face: Image) -> NDArray[np.float32]:
    """(H, W, 3) uint8 → (3, 224, 224) float32, 0–255."""
    # Parity: bilinear even when shrinking, as published.
    resized = face if face.shape[:2] == (FACE_SIZE, FACE_SIZE) else cv2.resize(face, (FACE_SIZE, FACE_SIZE))
    return resized.transpose(2, 0, 1).astype(np.float32)
