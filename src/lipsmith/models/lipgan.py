"""LipGAN, the baseline of the paper with a discriminator that is trained along (sections 2.2 and 3.2).

The generator sees what Wav2Lip's does — the target with its lower half masked, and a reference — but joins the codes of
face and sound before it grows the face. The discriminator embeds one face and its sound; how far the embeddings are
apart says how far the two are from being in sync. It learns with the generator, from generated faces too: the design
that the paper argues against.

Both hear the windows of 80 × 16 mel values that Wav2Lip hears, where the original took 12 × 35 MFCC: a comparison is
then one of what is generated and how it is judged, not of sound features.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsmith.models.blocks import (
    ConvBlock,
    UpBlock,
    audio_encoder,
    halved_sides,
    residual_blocks,
    scale_channels,
)
from lipsmith.models.wav2lip import FACE_SIZES

# By resolution, full resolution first; deeper levels repeat the last.
FACE_CHANNELS = (32, 64, 128, 256, 512, 512)
CODE_CHANNELS = 512


def _levels(face_size: int, width: float) -> tuple[list[int], list[int]]:
    """Sides of the resolutions, and their channels."""
    if face_size not in FACE_SIZES:
        raise ValueError(f"face_size is {face_size}; it can be {', '.join(map(str, FACE_SIZES))}")
    sides = halved_sides(face_size)
    counts = [
        scale_channels(FACE_CHANNELS[min(level, len(FACE_CHANNELS) - 1)], width)
        for level in range(len(sides))
    ]
    return sides, counts


class LipGan(nn.Module):
    """Repaints the lower half of a face so that its mouth says a window of speech.

    Args:
        width: channels relative to the original, each rounded to a multiple of 8 and at least 16.
        face_size: side of the face crop in pixels, one of `FACE_SIZES`.
    """

    num_references = 1

    def __init__(self, width: float = 1.0, face_size: int = 96) -> None:
        super().__init__()
        sides, counts = _levels(face_size, width)
        self.width, self.face_size = width, face_size
        code, kernel = scale_channels(CODE_CHANNELS, width), sides[-1]
        encoder = [nn.Sequential(ConvBlock(6, counts[0], 7, 1, 3))]
        for before, after in pairwise(counts):
            encoder.append(nn.Sequential(ConvBlock(before, after, 3, 2, 1), *residual_blocks(after, 1)))
        self.face_encoder_blocks = nn.ModuleList(encoder)
        self.face_code = nn.Sequential(ConvBlock(counts[-1], code, kernel), ConvBlock(code, code, 1))
        self.audio_encoder = audio_encoder(width, num_deep_residuals=1)
        decoder = [nn.Sequential(UpBlock(2 * code, counts[-1], kernel, 1, 0))]
        for level in range(len(sides) - 2, -1, -1):
            up = UpBlock(2 * counts[level + 1], counts[level], 3, 2, 1, output_padding=1 - sides[level] % 2)
            decoder.append(nn.Sequential(up, *residual_blocks(counts[level], 1)))
        self.face_decoder_blocks = nn.ModuleList(decoder)
        self.output_block = nn.Sequential(
            ConvBlock(2 * counts[0], counts[0], 3, 1, 1), nn.Conv2d(counts[0], 3, 1), nn.Sigmoid()
        )

    @property
    def sound_code(self) -> nn.Module:
        """See `lipsmith.models.articulation.Articulated`."""
        return self.audio_encoder

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """Generate one face for each window of sound; see `lipsmith.models.wav2lip.Wav2Lip.forward`.

        Args:
            mel: (n, 1, 80, 16), -4 to 4.
            faces: (n, 6, S, S), BGR 0 to 1: the target with its lower half zeroed, then the reference.

        Returns:
            (n, 3, S, S), BGR 0 to 1.
        """
        encoded = []
        x = faces
        for block in self.face_encoder_blocks:
            x = block(x)  # (n, C, S / 2^level, S / 2^level)
            encoded.append(x)
        x = torch.cat((self.face_code(x), self.audio_encoder(mel)), dim=1)  # (n, 2 C, 1, 1)
        for block in self.face_decoder_blocks:
            x = torch.cat((block(x), encoded.pop()), dim=1)
        return self.output_block(x)


class LipGanDiscriminator(nn.Module):
    """Embeds a whole face and a window of sound as unit vectors that are near each other when in sync.

    Args:
        width: channels relative to the original, each rounded to a multiple of 8 and at least 16.
        face_size: side of the faces in pixels, one of `FACE_SIZES`.
    """

    def __init__(self, width: float = 1.0, face_size: int = 96) -> None:
        super().__init__()
        sides, counts = _levels(face_size, width)
        code = scale_channels(CODE_CHANNELS, width)
        layers: list[nn.Module] = [ConvBlock(3, counts[0], 7, 1, 3)]
        for before, after in pairwise(counts):
            layers += [ConvBlock(before, after, 3, 2, 1), *residual_blocks(after, 1)]
        self.face_encoder = nn.Sequential(
            *layers, ConvBlock(counts[-1], code, sides[-1]), nn.Conv2d(code, code, 1)
        )
        self.audio_encoder = audio_encoder(width, num_deep_residuals=1)
        self.audio_code = nn.Conv2d(code, code, 1)

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """Mel windows (n, 1, 80, 16) and faces (n, 3, S, S), BGR 0 to 1 → Euclidean distances (n,), 0 to 2."""
        face = F.normalize(self.face_encoder(faces).flatten(1).float(), dim=1)
        sound = F.normalize(self.audio_code(self.audio_encoder(mel)).flatten(1).float(), dim=1)
        # The norm has no slope at 0.
        return ((face - sound).square().sum(dim=1) + 1e-8).sqrt()
