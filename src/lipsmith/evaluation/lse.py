"""LSE-D and LSE-C: how far lips and sound are apart for SyncNet, which was in nobody's loss (paper, 4.1).

For every shift k = −15 … 15 the distance of the lips at window i and of the sound at window i + k is averaged
over time. LSE-D is the least of the 31 means, LSE-C their median minus the least, and the offset is the shift
of the least with its sign turned: positive when the sound comes too early.

**A constant lag is invisible to LSE-D and LSE-C**, which take the best shift whichever it is: always report
the offset beside them.
"""

from collections.abc import Iterable, Iterator
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
    features = mfcc(to_int16(samples))
    # Parity: one window fewer than fit, as published.
    most_windows = len(samples) // _SAMPLES_PER_FRAME - EXPERT_FRAMES
    device, was_training = torch.device("cpu"), False
    if isinstance(syncnet, nn.Module):
        device, was_training = next(syncnet.parameters()).device, syncnet.training
        syncnet.eval()
    lips: list[NDArray[np.float32]] = []
    sounds: list[NDArray[np.float32]] = []
    num_windows = 0
    try:
        with torch.inference_mode():
            for stack in _window_batches(faces, most_windows):
                sound = np.stack(
                    [
                        features[start * _MFCC_PER_FRAME : start * _MFCC_PER_FRAME + _MFCC_PER_WINDOW].T
                        for start in range(num_windows, num_windows + len(stack))
                    ]
                )[:, None]
                num_windows += len(stack)
                lips.append(syncnet.embed_lips(torch.from_numpy(stack).to(device)).cpu().numpy())
                sounds.append(syncnet.embed_sound(torch.from_numpy(sound).to(device)).cpu().numpy())
    finally:
        if isinstance(syncnet, nn.Module):
            syncnet.train(was_training)
    if not lips:
        raise ValueError(f"picture and sound must last {EXPERT_FRAMES + 1} frames (0.24 s) for SyncNet")
    return np.concatenate(lips), np.concatenate(sounds)


def score_clip(syncnet: SyncNetwork, faces: Iterable[Image], samples: NDArray[np.float32]) -> LseScore:
    """LSE-D, LSE-C and offset of one clip; arguments and errors as for `embed_clip`."""
    return score_embeddings(*embed_clip(syncnet, faces, samples))


def _window_batches(faces: Iterable[Image], most_windows: int) -> Iterator[NDArray[np.float32]]:
    """Five-frame windows (n, 3, 5, 224, 224), 0–255: one fewer than fit, at most `most_windows`."""
    held: list[NDArray[np.float32]] = []  # frames not yet in all of their windows
    sent = 0
    for face in faces:
        held.append(_network_face(face))
        ready = min(len(held) - EXPERT_FRAMES, most_windows - sent)
        if ready >= _BATCH_WINDOWS:
            yield _stack_windows(held, ready)
            del held[:ready]
            sent += ready
        if sent >= most_windows:
            return
    ready = min(len(held) - EXPERT_FRAMES, most_windows - sent)
    if ready > 0:
        yield _stack_windows(held, ready)


def _network_face(face: Image) -> NDArray[np.float32]:
    """(H, W, 3) uint8 → (3, 224, 224) float32, 0–255."""
    # Parity: bilinear even when shrinking, as published.
    resized = face if face.shape[:2] == (FACE_SIZE, FACE_SIZE) else cv2.resize(face, (FACE_SIZE, FACE_SIZE))
    return resized.transpose(2, 0, 1).astype(np.float32)


def _stack_windows(frames: list[NDArray[np.float32]], count: int) -> NDArray[np.float32]:
    return np.stack([np.stack(frames[start : start + EXPERT_FRAMES], axis=1) for start in range(count)])
