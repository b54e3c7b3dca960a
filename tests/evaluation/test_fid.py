from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipsmith.errors import DataError, WeightsError
from lipsmith.evaluation import fid
from lipsmith.evaluation.fid import (
    FeatureStatistics,
    FeatureStatisticsBuilder,
    TorchScriptFeatures,
    fit_features,
    frechet_distance,
    open_features,
)
from lipsmith.evaluation.published import PublishedFile


def normal(mean: object, covariance: object) -> FeatureStatistics:
    return FeatureStatistics(np.array(mean, np.float64), np.array(covariance, np.float64), 100)


class TestFrechetDistance:
    def test_only_the_means_differ(self) -> None:
        covariance = [[2, 0.5], [0.5, 1]]
        assert frechet_distance(normal([1, 2], covariance), normal([4, -2], covariance)) == pytest.approx(25)

    def test_one_dimension(self) -> None:
        # (m1 − m2)² + (s1 − s2)²
        assert frechet_distance(normal([1], [[9]]), normal([3], [[4]])) == pytest.approx(4 + 1)

    def test_covariances_that_commute(self) -> None:
        rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
        first, second = np.array([1.0, 4, 9, 0]), np.array([4.0, 4, 0, 1])
        expected = ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
        one = normal(np.zeros(4), rotation @ np.diag(first) @ rotation.T)
        other = normal(np.zeros(4), rotation @ np.diag(second) @ rotation.T)
        assert frechet_distance(one, other) == pytest.approx(expected)

    def test_covariances_that_do_not_commute(self) -> None:
        # For 2 × 2: tr √M = √(tr M + 2 √det M), with M = C1 C2.
        first, second = np.array([[2.0, 1], [1, 3]]), np.array([[1.0, -0.5], [-0.5, 2]])
        product = first @ second
        shared = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
        expected = np.trace(first) + np.trace(second) - 2 * shared
        assert frechet_distance(normal([0, 0], first), normal([0, 0], second)) == pytest.approx(expected)

    def test_symmetric_and_zero_for_equal(self) -> None:
        rng = np.random.default_rng(1)
        one, other = fit_features(rng.normal(size=(50, 8))), fit_features(rng.normal(1, 2, size=(60, 8)))
        assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))
        assert frechet_distance(one, other) > 1
        assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)

    def test_fewer_pictures_than_dimensions(self) -> None:
        """Covariances without full rank, as of every small set: the distance of two lines, each in its own plane."""
        first, second = np.diag([4.0, 0, 0]), np.diag([0.0, 9, 0])
        assert frechet_distance(normal(np.zeros(3), first), normal(np.zeros(3), second)) == pytest.approx(13)

    def test_drawn_samples_come_near_the_closed_form(self) -> None:
        rng = np.random.default_rng(2)
        one = fit_features(rng.normal(0, 1, size=(40_000, 3)))
        other = fit_features(rng.normal([1, 0, 0], [1, 2, 1], size=(40_000, 3)))
        assert frechet_distance(one, other) == pytest.approx(1 + 1, abs=0.05)

    def test_other_dimensions_are_refused(self) -> None:
        with pytest.raises(ValueError, match="do not compare"):
            frechet_distance(normal([0], [[1]]), normal([0, 0], np.eye(2)))


class TestStatistics:
    def test_pieces_give_what_the_whole_gives(self) -> None:
        rows = np.random.default_rng(0).normal(1000, 0.01, size=(37, 5))
        builder = FeatureStatisticsBuilder()
        for start in range(0, 37, 10):
            builder.add(rows[start : start + 10])
        found = builder.finish()
        assert found.count == 37
        np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(rows.T), rtol=1e-8)

    def test_one_picture_is_too_few(self) -> None:
        with pytest.raises(DataError, match="1 pictures are too few"):
            fit_features(np.zeros((1, 4)))


class MeanColour(nn.Module):
    """The mean of each colour: features with known values."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.mean(dim=(2, 3))


class Standard(nn.Module):
    """With the way in that the standard file has."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = MeanColour()

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "features.pt"
    torch.jit.script(Standard()).save(str(path))
    return path


class TestFeatures:
    def test_any_network_sees_rgb_of_299_pixels(self, network: Path) -> None:
        picture = np.zeros((50, 60, 3), np.uint8)
        picture[:] = (10, 20, 30)
        extractor = TorchScriptFeatures(network)
        assert not extractor.is_standard and extractor.name == "features.pt"
        found = extractor.features([picture] * 20)
        np.testing.assert_allclose(found, [[30, 20, 10]] * 20)

    def test_the_standard_one_is_known_by_its_hash_and_sees_minus_one_to_one(
        self, network: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = PublishedFile(network.name, "", fid.file_sha256(network), "")
        monkeypatch.setattr(fid, "INCEPTION", known)
        extractor = TorchScriptFeatures(network)
        assert extractor.is_standard
        found = extractor.features([np.full((299, 299, 3), 192, np.uint8)])
        np.testing.assert_allclose(found, [[0.5, 0.5, 0.5]])

    def test_what_is_missing_or_no_network_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LIPSMITH_CACHE", str(tmp_path))
        with pytest.raises(WeightsError, match="--download"):
            open_features()
        with pytest.raises(WeightsError, match="There is no file"):
            open_features(tmp_path / "nothing.pt")
        (tmp_path / "text.pt").write_text("<html>")
        with pytest.raises(WeightsError, match="is no TorchScript network"):
            open_features(tmp_path / "text.pt")
        (tmp_path / "checkpoints/published").mkdir(parents=True)
        (tmp_path / "checkpoints/published" / fid.INCEPTION.name).write_text("cut")
        with pytest.raises(WeightsError, match="is damaged"):
            open_features()
