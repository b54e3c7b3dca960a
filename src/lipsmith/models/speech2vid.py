"""Speech2Vid, the baseline of the paper without a pose prior (section 2.2): a still face that is made to speak.

It hears the windows of 80 × 16 mel values that Wav2Lip hears, where the original took 12 × 35 MFCC.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from lipsmith.models.blocks import ConvBlock, UpBlock, audio_encoder, halved_sides, scale_channels
from lipsmith.models.wav2lip import FACE_SIZES

# By resolution, full resolution first; deeper levels repeat the last.
FACE_CHANNELS = (32, 64, 128, 256, 512, 512)
SOUND_CHANNELS = 512
CODE_CHANNELS = 256


class Speech2Vid(nn.Module):
    """Paints a whole face from a still one and a window of speech.

    The target is not looked at: pose and background are the still face's.

    Args:
        width: channels relative to the original, each rounded to a multiple of 8 and at least 16.
        face_size: side of the face crop in pixels, one of `lipsmith.models.wav2lip.FACE_SIZES`.
    """

    num_references = 1

    def __init__(self, width: float = 1.0, face_size: int = 96) -> None:
        if face_size not in FACE_SIZES:
            raise ValueError(f"face_size is {face_size}; it can be {', '.join(map(str, FACE_SIZES))}")
        super().__init__()
        self.width, self.face_size = width, face_size
        sides = halved_sides(face_size)
        counts = [
            scale_channels(FACE_CHANNELS[min(level, len(FACE_CHANNELS) - 1)], width)
            for level in range(len(sides))
        ]
        code, kernel = scale_channels(CODE_CHANNELS, width), sides[-1]
        encoder = [ConvBlock(3, counts[0], 7, 1, 3)]
        encoder += [ConvBlock(before, after, 3, 2, 1) for before, after in pairwise(counts)]
        self.identity_encoder_blocks = nn.ModuleList(encoder)
        self.identity_code = ConvBlock(counts[-1], code, kernel)
        self.audio_encoder = audio_encoder(width, num_deep_residuals=1)
        self.audio_code = ConvBlock(scale_channels(SOUND_CHANNELS, width), code, 1)
        decoder = [UpBlock(2 * code, counts[-1], kernel, 1, 0)]
        for level in range(len(sides) - 2, -1, -1):
            decoder.append(
                UpBlock(2 * counts[level + 1], counts[level], 3, 2, 1, output_padding=1 - sides[level] % 2)
            )
        self.face_decoder_blocks = nn.ModuleList(decoder)
        self.output_block = nn.Sequential(
            ConvBlock(2 * counts[0], counts[0], 3, 1, 1), nn.Conv2d(counts[0], 3, 1), nn.Sigmoid()
        )

    @property
    def sound_code(self) -> nn.Module:
        """See `lipsmith.models.articulation.Articulated`."""
        return self.audio_code

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """Generate one face for each window of sound.

        Args:
            mel: (n, 1, 80, 16), -4 to 4.
            faces: (n, 6, S, S), BGR 0 to 1, of which only the last three channels, the reference, are looked at.

        Returns:
            (n, 3, S, S), BGR 0 to 1.
        """
        encoded = []
        x = faces[:, 3:]
        for block in self.identity_encoder_blocks:
            x = block(x)  # (n, C, S / 2^level, S / 2^level)
            encoded.append(x)
        x = torch.cat((self.identity_code(x), self.audio_code(self.audio_encoder(mel))), dim=1)
        for block in self.face_decoder_blocks:
            x = torch.cat((block(x), encoded.pop()), dim=1)
        return self.output_block(x)
