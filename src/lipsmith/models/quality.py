"""Discriminators of visual quality: is this lower half face real?

The paper's (section 3.5), and one that looks at patches, which says more about sharpness per hour of training.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lipsmith.conditioning import lower_half
from lipsmith.models.blocks import CriticBlock, halved_sides, scale_channels

# Channels and kernel by resolution of the square that the lower half becomes; deeper levels repeat the last.
LEVELS = ((64, 5), (128, 5), (256, 5), (512, 3))


class VisualQualityDiscriminator(nn.Module):
    """Gives each frame the probability that it is real, from its lower half alone.

    Args:
        width: channels relative to the published network, each rounded to a multiple of 8 and at least 16.
        face_size: side of the faces in pixels; 96 is the published layout.

    Parameters: 14.1 million at width 1, 0.9 at 0.25.
    """

    def __init__(self, width: float = 1.0, face_size: int = 96) -> None:
        super().__init__()
        self.width = width
        self.face_size = face_size
        channels = scale_channels(32, width)
        blocks = [nn.Sequential(CriticBlock(3, channels, 7, 1, 3))]  # S/2 × S
        sides = halved_sides(face_size // 2)
        for level in range(len(sides)):
            count, kernel = LEVELS[min(level, len(LEVELS) - 1)]
            before, channels = channels, scale_channels(count, width)
            stride = (1, 2) if level == 0 else 2  # S/2 × S/2, then halved
            blocks.append(
                nn.Sequential(
                    CriticBlock(before, channels, kernel, stride, kernel // 2),
                    CriticBlock(channels, channels, kernel, 1, kernel // 2),
                )
            )
        blocks.append(
            nn.Sequential(CriticBlock(channels, channels, sides[-1]), CriticBlock(channels, channels, 1))
        )
        self.face_encoder_blocks = nn.ModuleList(blocks)
        self.binary_pred = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, faces: Tensor) -> Tensor:
        """Whole faces (n, 3, T, S, S), BGR 0 to 1 → (T·n, 1), probability of being real.

        The batch axis of the result is time-major: frame 0 of all clips, then frame 1.
        """
        x = lower_half(torch.cat(faces.unbind(2)))  # (T·n, 3, S/2, S)
        for block in self.face_encoder_blocks:
            x = block(x)
        return self.binary_pred(x).flatten(1)


class PatchDiscriminator(nn.Module):
    """Scores every patch of 26 pixels of a lower half face, beside the reference that the generator was shown.

    With the reference at hand, the cheapest way to tell a generated mouth is that it is softer than the reference's:
    just what the generator is to learn. Spectral norm keeps the slopes bounded.

    Args:
        width: channels relative to 64, 128, 256; each rounded to a multiple of 8 and at least 16.
    """

    def __init__(self, width: float = 0.5) -> None:
        super().__init__()
        counts = [6, *(scale_channels(count, width) for count in (64, 128, 256))]
        shapes = ((4, 2), (4, 2), (3, 1))
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, kernel, stride, padding=1))
            for before, after, (kernel, stride) in zip(counts[:-1], counts[1:], shapes, strict=True)
        )
        self.score = spectral_norm(nn.Conv2d(counts[-1], 1, 3, padding=1))

    def forward(self, faces: Tensor, references: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Faces and references (n, 3, S, S), BGR 0 to 1 → scores (n, 1, S/8, S/4), above 0 if real; all features."""
        x = torch.cat([lower_half(faces), lower_half(references)], dim=1) * 2 - 1
        features = []
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.score(x), features
