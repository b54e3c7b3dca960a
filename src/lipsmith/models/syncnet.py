"""SyncNet v2, the network that measures lip-sync (LSE-D, LSE-C): Chung and Zisserman, "Out of time", 2016.

Used for evaluation only: it never teaches the generator.
"""

from typing import cast

from torch import Tensor, nn


class SyncNet(nn.Module):
    """Embeds five frames of a face, and the 0.2 s of sound beside them, in one space of 1024 dimensions.

    The distance of the two is Euclidean; embeddings are not normalised. The attribute names are those of
    the published checkpoint. Parameters: 13.6 million.
    """

    def __init__(self) -> None:
        super().__init__()
        pool = ((1, 3, 3), (1, 2, 2))
        self.netcnnlip = nn.Sequential(  # 3 × 5 × 224 × 224
            nn.Conv3d(3, 96, (5, 7, 7), (1, 2, 2)),  # 1 × 109 × 109
            nn.BatchNorm3d(96),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(*pool),  # 54 × 54
            nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),  # 26 × 26
            nn.BatchNorm3d(256),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(*pool, (0, 1, 1)),  # 13 × 13
            nn.Conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            nn.BatchNorm3d(256),
            nn.ReLU(inplace=True),
            nn.Conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            nn.BatchNorm3d(256),
            nn.ReLU(inplace=True),
            nn.Conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            nn.BatchNorm3d(256),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(*pool),  # 6 × 6
            nn.Conv3d(256, 512, (1, 6, 6)),  # 1 × 1
            nn.BatchNorm3d(512),
            nn.ReLU(inplace=True),
        )
        self.netcnnaud = nn.Sequential(  # 1 × 13 × 20
            nn.Conv2d(1, 64, 3, 1, 1),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(1),  # Parity: does nothing, but the numbers of the layers behind it count it
            nn.Conv2d(64, 192, 3, 1, 1),
            nn.BatchNorm2d(192),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, (1, 2)),  # 11 × 9
            nn.Conv2d(192, 384, 3, 1, 1),
            nn.BatchNorm2d(384),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, 1, 1),
            nn.BatchNorm2d(256),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, 1, 1),
            nn.BatchNorm2d(256),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),  # 5 × 4
            nn.Conv2d(256, 512, (5, 4)),  # 1 × 1
            nn.BatchNorm2d(512),
            nn.ReLU(inplace=True),
        )
        self.netfclip = self._projection()
        self.netfcaud = self._projection()

    @staticmethod
    def _projection() -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, 1024)
        )

    def embed_lips(self, frames: Tensor) -> Tensor:
        """Whole faces (n, 3, 5, 224, 224), BGR 0 to 255 → (n, 1024)."""
        return self.netfclip(self.netcnnlip(frames).flatten(1))

    def embed_sound(self, mfcc: Tensor) -> Tensor:
        """MFCC windows (n, 1, 13, 20), 100 columns a second → (n, 1024)."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))


class FlatLipTower(nn.Module):
    """SyncNet's lip tower as two-dimensional layers, with the same numbers: what CPU runtimes compute fastest.

    Only the tower's first kernel reaches over time, and it reaches over all five frames: that is a plain
    convolution over 15 channels.
    """

    def __init__(self, syncnet: SyncNet) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_flattened(layer) for layer in syncnet.netcnnlip))
        self.projection = syncnet.netfclip

    def forward(self, frames: Tensor) -> Tensor:
        """Whole faces (n, 3, 5, 224, 224), BGR 0 to 255 → (n, 1024)."""
        return self.projection(self.layers(frames.flatten(1, 2)).flatten(1))  # 15 × 224 × 224


class SoundTower(nn.Module):
    """SyncNet's sound tower by itself."""

    def __init__(self, syncnet: SyncNet) -> None:
        super().__init__()
        self.layers, self.projection = syncnet.netcnnaud, syncnet.netfcaud

    def forward(self, mfcc: Tensor) -> Tensor:
        """MFCC windows (n, 1, 13, 20) → (n, 1024)."""
        return self.projection(self.layers(mfcc).flatten(1))


def _flattened(layer: nn.Module) -> nn.Module:
    """A layer of the lip tower without its axis of time."""
    if isinstance(layer, nn.Conv3d):
        # All frames that a kernel sees become channels: five of the first layer's, one of all others'.
        weight = layer.weight.detach().flatten(1, 2)
        flat = nn.Conv2d(
            weight.shape[1],
            weight.shape[0],
            _in_plane(layer.kernel_size),
            _in_plane(layer.stride),
            _in_plane(cast("tuple[int, ...]", layer.padding)),
        )
        assert layer.bias is not None
        flat.load_state_dict({"weight": weight, "bias": layer.bias.detach()})
        return flat
    if isinstance(layer, nn.BatchNorm3d):
        norm = nn.BatchNorm2d(layer.num_features, eps=layer.eps)
        norm.load_state_dict(layer.state_dict())
        return norm.train(layer.training)
    if isinstance(layer, nn.MaxPool3d):
        return nn.MaxPool2d(_in_plane(layer.kernel_size), _in_plane(layer.stride), _in_plane(layer.padding))
    return layer


def _in_plane(sizes: int | tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a size in time, height and width."""
    if isinstance(sizes, int):
        return sizes, sizes
    _, height, width = sizes
    return height, width
