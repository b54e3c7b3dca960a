"""The lip-sync expert of the paper (section 3.2): do these lips and this sound belong together?

`SyncExpert` is what the trainers and the evaluation need of an expert, whatever its form; `LipSyncExpert`
is the published form, which looks at each window of frames by itself. A window has T_v frames: five as published,
one or three in the ablation of the paper's table 3.
"""

from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from lipsmith.models.blocks import ConvBlock, audio_encoder, residual_blocks, scale_channels
from lipsmith.timebase import EXPERT_FRAMES

LIPS_HEIGHT, LIPS_WIDTH = 48, 96


class SyncExpert(Protocol):
    """Embeds T_v frames of lips, and 0.2 s of sound, as unit vectors that are alike when in sync.

    Every expert is an `nn.Module` with these members. The similarity of two embeddings is their dot
    product: the cosine. Window i of a stretch of frames covers frames i to i + T_v − 1, and belongs to the 16
    mel columns whose middle is the window's (`lipsmith.timebase.expert_lead`): for five frames they begin at
    the time of frame i.
    """

    @property
    def frames(self) -> int:
        """T_v, the number of frames in a window."""
        ...

    @property
    def embedding_size(self) -> int:
        """D, the length of an embedding."""
        ...

    def embed_lips(self, frames: Tensor) -> Tensor:
        """All windows of contiguous lower halves (B, T, 3, S/2, S), BGR 0 to 1 → (B, T − T_v + 1, D)."""
        ...

    def embed_sound(self, windows: Tensor) -> Tensor:
        """Mel windows (B, N, 1, 80, 16), -4 to 4 → (B, N, D)."""
        ...


def sliding_windows(frames: Tensor, length: int = EXPERT_FRAMES) -> Tensor:
    """Each `length` contiguous of (B, T, 3, h, w) on the channel axis, time-major: (B, T − length + 1, 3·length, h, w).

    `ValueError` for fewer frames than that.
    """
    batch, num_frames, channels, height, width = frames.shape
    if num_frames < length:
        raise ValueError(f"{num_frames} frames are too few: a window has {length}")
    windows = frames.unfold(1, length, 1)  # (B, T − length + 1, 3, h, w, length), a view
    windows = windows.permute(0, 1, 5, 2, 3, 4)
    return windows.reshape(batch, -1, length * channels, height, width)


def at_lips_size(frames: Tensor) -> Tensor:
    """Lower halves (B, T, 3, h, w) of faces of any size, resampled to the (B, T, 3, 48, 96) that experts look at."""
    if tuple(frames.shape[-2:]) == (LIPS_HEIGHT, LIPS_WIDTH):
        return frames
    resized = F.interpolate(frames.flatten(0, 1), (LIPS_HEIGHT, LIPS_WIDTH), mode="bilinear", antialias=True)
    return resized.unflatten(0, frames.shape[:2])


class LipSyncExpert(nn.Module):
    """The published expert: two encoders, one for 15 × 48 × 96 lips (3·T_v channels), one for a 80 × 16 mel window.

    Both end in a ReLU, so the cosine of two embeddings lies between 0 and 1 and is taken as the probability
    of being in sync (equation 2).

    Args:
        width: channels relative to the published network, each rounded to a multiple of 8 and at least 16.
        frames: T_v; 5 is the published network, other values change its first convolution alone.

    Parameters: 16.4 million at width 1, 4.1 at 0.5, 1.0 at 0.25. Multiply-adds per window: 1.21, 0.33 and
    0.14 billion.
    """

    def __init__(self, width: float = 1.0, frames: int = EXPERT_FRAMES) -> None:
        super().__init__()
        self.width = width
        self.frames = frames
        c32, c64, c128, c256, c512 = (scale_channels(count, width) for count in (32, 64, 128, 256, 512))
        self.face_encoder = nn.Sequential(  # 3·T_v × 48 × 96
            ConvBlock(3 * frames, c32, 7, 1, 3),
            ConvBlock(c32, c64, 5, (1, 2), 1),  # 46 × 47
            *residual_blocks(c64, 2),
            ConvBlock(c64, c128, 3, 2, 1),  # 23 × 24
            *residual_blocks(c128, 3),
            ConvBlock(c128, c256, 3, 2, 1),  # 12 × 12
            *residual_blocks(c256, 2),
            ConvBlock(c256, c512, 3, 2, 1),  # 6 × 6
            *residual_blocks(c512, 2),
            ConvBlock(c512, c512, 3, 2, 1),  # 3 × 3
            ConvBlock(c512, c512, 3),
            ConvBlock(c512, c512, 1),
        )
        self.audio_encoder = audio_encoder(width, num_deep_residuals=2)
        self.embedding_size = c512

    def forward(self, mel: Tensor, lips: Tensor) -> tuple[Tensor, Tensor]:
        """Embed n mel windows (n, 1, 80, 16) and n windows of lips (n, 3·T_v, 48, 96).

        The channels are T_v frames of three (BGR 0 to 1) in time order.

        Returns:
            (audio embedding, face embedding), each (n, 512·width) of unit length.
        """
        return self._embed(self.audio_encoder, mel), self._embed(self.face_encoder, lips)

    def embed_lips(self, frames: Tensor) -> Tensor:
        """See `SyncExpert.embed_lips`; lower halves of another size than 48 × 96 are resampled to it."""
        batch = frames.shape[0]
        windows = sliding_windows(at_lips_size(frames), self.frames)
        return self._embed(self.face_encoder, windows.flatten(0, 1)).unflatten(0, (batch, -1))

    def embed_sound(self, windows: Tensor) -> Tensor:
        """See `SyncExpert.embed_sound`."""
        return self._embed(self.audio_encoder, windows.flatten(0, 1)).unflatten(0, windows.shape[:2])

    @staticmethod
    def _embed(encoder: nn.Module, x: Tensor) -> Tensor:
        return F.normalize(encoder(x).flatten(1), dim=1)
