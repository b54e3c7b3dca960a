"""Fréchet distances between sets of pictures: FID, with the features that everybody's numbers are made of.

FID (Heusel et al., 2017) is the squared Fréchet distance of two normal distributions that are fitted to the features
of two sets of pictures: |m₁ − m₂|² + tr(C₁ + C₂ − 2 √(C₁ C₂)).

The standard features are the 2048 numbers before the last layer of the Inception network of 2015-12-05, in the
TorchScript file that StyleGAN's and clean-fid's metrics use (`published.INCEPTION`). Any TorchScript network that maps
pictures to features may stand in its place; then the numbers compare only with one another.

**What is compared here** is the tracked face crop of the project (`faces.crop.CropRule`, the padded face box that the
generators repaint), cut out of each frame and resampled once to 299 × 299: area average when it shrinks, cubic when it
grows, without the aliasing that makes FIDs of different resizers differ. Numbers of whole frames, or of other crops,
are other numbers; so are those of few pictures: FID falls as their number grows, so compare sets of equal size.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lipsmith.errors import DataError, WeightsError
from lipsmith.evaluation.published import INCEPTION, fetch
from lipsmith.geometry import Image, resize
from lipsmith.weights.store import file_sha256

Floats = NDArray[np.float64]

FEATURE_FACE_SIZE = 299
_BATCH = 16


@dataclass(frozen=True)
class FeatureStatistics:
    """A normal distribution fitted to features.

    Attributes:
        mean: (D,).
        covariance: (D, D), of the sample (divided by count − 1).
        count: how many pictures it was fitted to.
    """

    mean: Floats
    covariance: Floats
    count: int


class FeatureExtractor(Protocol):
    """Pictures to features."""

    name: str
    digest: str
    """SHA-256 of the file."""
    is_standard: bool
    """Whether it is the Inception network that published FIDs were computed with."""

    def features(self, pictures: Sequence[Image]) -> NDArray[np.float32]:
        """(n, D) of n uint8 BGR pictures of any one size."""
        ...


class FeatureStatisticsBuilder:
    """Sums up features as they come, in memory that does not grow with their number."""

    def __init__(self) -> None:
        self._count = 0
        self._origin: Floats | None = None
        self._sum: Floats = np.zeros(0)
        self._products: Floats = np.zeros((0, 0))

    def add(self, features: NDArray[np.floating]) -> None:
        """Take more features, (n, D)."""
        rows = np.asarray(features, np.float64)
        if not len(rows):
            return
        if self._origin is None:
            # Sums of squares around a mean, instead of zero, do not lose small differences between pictures.
            self._origin = rows.mean(axis=0)
            self._sum = np.zeros(rows.shape[1])
            self._products = np.zeros((rows.shape[1],) * 2)
        rows = rows - self._origin
        self._count += len(rows)
        self._sum += rows.sum(axis=0)
        self._products += rows.T @ rows

    def finish(self) -> FeatureStatistics:
        """The distribution; `DataError` with fewer than two rows."""
        if self._count < 2 or self._origin is None:
            raise DataError(
                f"{self._count} pictures are too few for a Fréchet distance: it needs two at the very least, and "
                "thousands to compare with published numbers."
            )
        mean = self._sum / self._count
        covariance = (self._products - self._count * np.outer(mean, mean)) / (self._count - 1)
        return FeatureStatistics(self._origin + mean, covariance, self._count)


def fit_features(features: NDArray[np.floating]) -> FeatureStatistics:
    """The normal distribution of features (n, D), n ≥ 2."""
    builder = FeatureStatisticsBuilder()
    builder.add(features)
    return builder.finish()


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two normal distributions, at least 0.

    Covariances of any rank will do. The trace of √(C₁ C₂) is that of the symmetric √(√C₁ C₂ √C₁), so that all
    numbers are real and no square root of a general matrix is needed.

    Raises:
        ValueError: features of different numbers of dimensions.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features of {first.mean.size} and of {second.mean.size} numbers do not compare")
    between = float(((first.mean - second.mean) ** 2).sum())
    root = _symmetric_root(first.covariance)
    product = root @ second.covariance @ root
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0.0)).sum()
    spread = np.trace(first.covariance) + np.trace(second.covariance) - 2 * shared
    return max(0.0, between + float(spread))


class TorchScriptFeatures:
    """A TorchScript network from a file, as a `FeatureExtractor`.

    The standard file (recognised by its sha256) is given 299 × 299 pictures past its own resizing, as
    clean-fid does. Another network is given RGB pictures (n, 3, 299, 299) from 0 to 255 in float32.

    TorchScript is a program: a file other than the standard one is run on the user's word.

    Args:
        path: the file.
        device: of PyTorch's; "auto" takes a GPU where one is present.

    Raises:
        WeightsError: missing, or no TorchScript.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = load_torchscript(path, device)
        self._device = device
        self.digest = file_sha256(path)
        self.is_standard = self.digest == INCEPTION.sha256
        self.name = "Inception 2015-12-05" if self.is_standard else path.name

    def features(self, pictures: Sequence[Image]) -> NDArray[np.float32]:
        """(n, D) of n uint8 BGR pictures; they are resampled to 299 × 299."""
        parts = []
        for batch in _batches(pictures, _BATCH):
            with torch.inference_mode():
                inputs = network_pictures(batch, FEATURE_FACE_SIZE).to(self._device)
                if self.is_standard:
                    made: Any = self._network.layers((inputs - 128) / 128)
                else:
                    made = self._network(inputs)
            parts.append(as_rows(made, self.name))
        return np.concatenate(parts)


def open_features(
    path: Path | None = None, *, download: bool = False, device: str = "auto"
) -> TorchScriptFeatures:
    """The feature network of a file, or the standard one.

    Args:
        path: a TorchScript file; None: the standard Inception network from the cache.
        download: fetch the standard one from its authors' address where it is not in the cache.
        device: see `TorchScriptFeatures`.

    Raises:
        WeightsError: there is none; it cannot be fetched or read.
    """
    if path is None:
        from lipsmith.weights.store import cache_folder

        path = cache_folder() / "published" / INCEPTION.name
        if download:
            path = fetch(INCEPTION)
        elif not path.is_file():
            raise WeightsError(
                f"FID needs the features of {INCEPTION.name}: fetch it from its authors with --download, or give a "
                "TorchScript file."
            )
        elif file_sha256(path) != INCEPTION.sha256:
            raise WeightsError(
                f"{path} is damaged (its sha256 differs): delete it, and fetch it with --download."
            )
    return TorchScriptFeatures(path, device)


def load_torchscript(path: Path, device: str = "cpu") -> Any:
    """The TorchScript network in a file, in evaluation mode; `WeightsError` where there is none."""
    if not path.is_file():
        raise WeightsError(f"There is no file {path}; give the path of a TorchScript network.")
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} is no TorchScript network ({reason}).") from error


def network_pictures(pictures: Sequence[Image], size: int) -> torch.Tensor:
    """uint8 BGR pictures as float32 (n, 3, size, size), RGB 0 to 255."""
    resized = np.stack([resize(picture, size, size) for picture in pictures])
    return torch.from_numpy(np.ascontiguousarray(resized[..., ::-1].transpose(0, 3, 1, 2), np.float32))


def as_rows(made: Any, name: str) -> NDArray[np.float32]:
    """What a network returned as (n, D); `WeightsError` where it is no tensor of numbers."""
    if not isinstance(made, torch.Tensor):
        raise WeightsError(f"{name} returns a {type(made).__name__}, not a tensor of features.")
    rows = made.float().cpu()
    return (rows.reshape(1, 1) if rows.ndim == 0 else rows.reshape(len(rows), -1)).numpy()


def _symmetric_root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _batches(pictures: Iterable[Image], size: int) -> Iterator[list[Image]]:
    waiting = iter(pictures)
    while batch := list(islice(waiting, size)):
        yield batch
