"""The expert's second form: lip features shared over a contiguous stretch of frames.

The paper's expert (`lipsmith.models.expert`) stacks the T_v frames of every window and runs its whole face encoder
again for the next one. Here every frame is encoded once and a temporal convolution over T_v frames makes the window's
embedding, so that a stretch of T frames gives T − T_v + 1 windows for the price of T frames. Each window hears the same
16 mel columns as in the paper. Both forms stand behind `lipsmith.models.expert.SyncExpert`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipsmith.models.expert import at_lips_size, sliding_windows
from lipsmith.timebase import EXPERT_FRAMES, NUM_MELS, WINDOW_COLUMNS


def _scaled(channels: int, width: float) -> int:
    return max(16, round(channels * width / 16) * 16)


class _Block(nn.Module):
    """Convolution, group norm, ReLU; the input is added first where shape and stride allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int | tuple[int, int] = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.GroupNorm(outputs // 16, outputs)
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return F.relu(y + x if self.residual else y)


class DenseLipSyncExpert(nn.Module):
    """Expert that embeds every window of T_v frames of a stretch of lower halves, and the sound of every window.

    Args:
        width: Scale of all channel counts.
        embedding: Size D of both embeddings.
        fusion: Where time is mixed. `"late"`: frames are encoded one by one, then T_v are joined. `"early"`: the first
            convolution spans T_v frames, so that the encoder sees motion (a different form for an independent judge).
        columns: How many of the 96 columns, from the middle, are looked at. Fewer than 96 keep cheeks and background
            out of reach of a generator that would rather paint specks there than move the mouth.
        dropout: Share of each tower's features dropped in training.
        frames: T_v, the number of frames in a window.
        positive: End both embeddings in a ReLU, as the paper's expert does: their cosine is then never negative and
            can be read as a probability (equation 1), which the cross-entropy needs. Without it a contrast learns
            faster.
    """

    def __init__(
        self,
        width: float = 1.0,
        embedding: int = 256,
        fusion: str = "late",
        columns: int = 96,
        dropout: float = 0.0,
        frames: int = EXPERT_FRAMES,
        positive: bool = False,
    ) -> None:
        super().__init__()
        if fusion not in ("late", "early"):
            raise ValueError(f"fusion is 'late' or 'early', not {fusion!r}")
        c32, c64, c128, c256 = (_scaled(c, width) for c in (32, 64, 128, 256))
        self.fusion = fusion
        self.columns = columns
        self.frames = frames
        self.positive = positive
        self.embedding_size = embedding
        self.stem = nn.Conv2d(3 * frames if fusion == "early" else 3, c32, 5, 2, 2)
        self.lip_encoder = nn.Sequential(  # (24, columns / 2) after the stem
            nn.GroupNorm(c32 // 16, c32),
            nn.ReLU(),
            _Block(c32, c64, stride=2),  # (12, columns / 4)
            _Block(c64, c64),
            _Block(c64, c128, stride=2),  # (6, columns / 8)
            _Block(c128, c128),
            _Block(c128, c256, stride=2),  # (3, columns / 16)
            _Block(c256, c256),
        )
        self.lip_feature = nn.Linear(c256 * 3 * -(-columns // 16), c256)
        kernel = frames if fusion == "late" else 1
        self.lip_time = nn.Conv1d(c256, c256, kernel)
        self.lip_head = nn.Linear(c256, embedding)
        self.sound_encoder = nn.Sequential(
            _Block(1, c32, stride=(2, 1)),  # (40, 16)
            _Block(c32, c64, stride=2),  # (20, 8)
            _Block(c64, c64),
            _Block(c64, c128, stride=2),  # (10, 4)
            _Block(c128, c128),
            _Block(c128, c256, stride=2),  # (5, 2)
        )
        self.sound_feature = nn.Linear(c256 * 5 * 2, c256)
        self.sound_head = nn.Linear(c256, embedding)
        self.dropout = nn.Dropout(dropout)

    def embed_lips(self, frames: Tensor) -> Tensor:
        """Lower halves (B, T, 3, 48, 96), BGR 0–1, T ≥ T_v → unit embeddings (B, T − T_v + 1, D), one a window.

        Those of another size are resampled to 48 × 96.
        """
        batch, length = frames.shape[:2]
        frames = at_lips_size(frames)
        margin = (frames.shape[-1] - self.columns) // 2
        x = frames[..., margin : margin + self.columns] * 2 - 1
        if self.fusion == "early":
            x = sliding_windows(x, self.frames)  # (B, T − T_v + 1, 3·T_v, 48, columns)
            length -= self.frames - 1
        x = self.stem(x.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        x = self.lip_encoder(x)
        x = F.relu(self.lip_feature(self.dropout(x.flatten(1))))
        x = F.relu(self.lip_time(x.view(batch, length, -1).transpose(1, 2))).transpose(1, 2)
        return self._unit(self.lip_head(x))

    def lip_features(self, frames: Tensor) -> list[Tensor]:
        """Activations of the late form's first stages for single lower halves (n, 3, 48, 96): a measure of likeness.

        Two maps, (n, C, 12, 24) and (n, C, 6, 12). `ValueError` for the early form, which sees no single frames.
        """
        if self.fusion != "late":
            raise ValueError("an expert of early fusion has no features of single frames")
        x = self.stem((frames * 2 - 1).contiguous(memory_format=torch.channels_last))
        fine = self.lip_encoder[:4](x)
        return [fine, self.lip_encoder[4:6](fine)]

    def embed_sound(self, windows: Tensor) -> Tensor:
        """Mel windows (B, N, 1, 80, 16) in [-4, 4] → unit embeddings (B, N, D)."""
        batch, count = windows.shape[:2]
        x = (windows / 4).reshape(batch * count, 1, NUM_MELS, WINDOW_COLUMNS)
        x = self.sound_encoder(x.contiguous(memory_format=torch.channels_last))
        x = F.relu(self.sound_feature(self.dropout(x.flatten(1))))
        return self._unit(self.sound_head(x)).view(batch, count, -1)

    def forward(self, mel: Tensor, lips: Tensor) -> tuple[Tensor, Tensor]:
        """One window per row, called like the paper's expert: mel (n, 1, 80, 16), lips (n, 3·T_v, 48, 96).

        Returns the sound's and the lips' unit embeddings, each (n, D).
        """
        frames = lips.unflatten(1, (self.frames, 3))
        return self.embed_sound(mel.unsqueeze(1))[:, 0], self.embed_lips(frames)[:, 0]

    def _unit(self, x: Tensor) -> Tensor:
        x = x.float()
        return F.normalize(F.relu(x) if self.positive else x, dim=-1)
