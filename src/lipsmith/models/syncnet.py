"""SyncNet v2, the network that measures lip-sync (LSE-D, LSE-C): Chung and Zisserman, "Out of time", 2016.

Used for evaluation only: it never teaches the generator.
"""

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
