"""The layers that all networks of the paper are made of, and the rule that scales their channels.

Attribute names (`conv_block`) and the order inside the sequences give the tensor names of the published
checkpoints, so they are part of the file format.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

Size = int | tuple[int, int]

MIN_CHANNELS = 16
CHANNEL_STEP = 8


def scale_channels(channels: int, width: float) -> int:
    """`channels` of the published network at relative `width`: a multiple of 8, at least 16.

    Multiples of 8 fill vector registers. The floor leaves a narrow generator enough channels at full
    resolution, where there are only 16 to 64 of them and where the sharpness of its output is made. At
    width 1 nothing changes.
    """
    return max(CHANNEL_STEP * round(channels * width / CHANNEL_STEP), MIN_CHANNELS)


def halved_sides(side: int) -> list[int]:
    """`side`, then what each halving (rounded up) leaves of it until at most 4: `[96, 48, 24, 12, 6, 3]`."""
    sides = [side]
    while sides[-1] > 4:
        sides.append((sides[-1] + 1) // 2)
    return sides


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU; with `residual` the input is added before the ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Size,
        stride: Size = 1,
        padding: Size = 0,
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        # Parity: the bias is redundant before a batch norm, but the published checkpoints have it.
        self.conv_block = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding), nn.BatchNorm2d(out_channels)
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, h, w) → (n, out_channels, h', w')."""
        out = self.conv_block(x)
        if self.residual:
            out += x
        return torch.relu_(out)


class UpBlock(nn.Module):
    """Transposed convolution, batch norm, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        padding: int,
        output_padding: int = 0,
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ConvTranspose2d(in_channels, out_channels, kernel, stride, padding, output_padding),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, h, w) → (n, out_channels, h', w')."""
        return torch.relu_(self.conv_block(x))


class CriticBlock(nn.Module):
    """Convolution and leaky ReLU (slope 0.01); no norm, which would mix real with generated samples."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Size, stride: Size = 1, padding: Size = 0
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, h, w) → (n, out_channels, h', w')."""
        return nn.functional.leaky_relu_(self.conv_block(x), 0.01)


def residual_blocks(channels: int, count: int) -> list[ConvBlock]:
    """`count` residual 3×3 blocks that keep the channels and the resolution."""
    return [ConvBlock(channels, channels, 3, 1, 1, residual=True) for _ in range(count)]


def audio_encoder(width: float, *, num_deep_residuals: int) -> nn.Sequential:
    """The audio encoder that generator and expert share: (n, 1, 80, 16) → (n, 512·width, 1, 1).

    `num_deep_residuals` is the number of residual blocks after the 256-channel layer: 1 in the generator, 2
    in the expert. The kernel shapes hold for 80 mel bands × 16 columns only.
    """
    strides: list[Size] = [1, (3, 1), 3, (3, 2)]
    num_residuals = [2, 2, 2, num_deep_residuals]
    channels = [1, *(scale_channels(count, width) for count in (32, 64, 128, 256))]
    layers: list[nn.Module] = []
    for (before, after), stride, count in zip(pairwise(channels), strides, num_residuals, strict=True):
        layers += [ConvBlock(before, after, 3, stride, 1), *residual_blocks(after, count)]
    code = scale_channels(512, width)
    return nn.Sequential(*layers, ConvBlock(channels[-1], code, 3), ConvBlock(code, code, 1))
