from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipsmith.errors import InputError, UsageError, WeightsError
from lipsmith.evaluation.fid import TorchScriptFeatures
from lipsmith.evaluation.image_quality import (
    IdentityNetwork,
    PairNetwork,
    QualityTools,
    compare_files,
    compare_frames,
    face_crops,
    fid_of_videos,
    fit_videos,
    match_references,
    mouth_distance,
)
from lipsmith.faces.crop import CropRule
from lipsmith.faces.detect import Detection
from lipsmith.geometry import Box, Image
from lipsmith.media.write import VideoWriter

WIDTH, HEIGHT = 160, 120
FACE = Box(50, 20, 110, 100)


class FixedDetector:
    """Finds the same faces, without landmarks, in every frame."""

    name = "fixed"

    def __init__(self, *boxes: Box) -> None:
        self.boxes = boxes

    def detect(self, image: Image) -> list[Detection]:
        return [Detection(box, 1.0) for box in self.boxes]


class MarkDetector:
    """Finds a face of 60 × 80 whose eyes and mouth corners are single bright pixels, in reading order."""

    name = "marks"

    def detect(self, image: Image) -> list[Detection]:
        rows, columns = np.nonzero(image[..., 0] == 255)
        if len(rows) != 4:
            return []
        eyes, mouth = [(columns[i], rows[i]) for i in (0, 1)], [(columns[i], rows[i]) for i in (2, 3)]
        left, top = eyes[0][0] - 15, eyes[0][1] - 20
        points = np.array([*eyes, eyes[0], *mouth], np.float64)
        return [Detection(Box(left, top, left + 60, top + 80), 1.0, points)]


def tools(**others: object) -> QualityTools:
    return replace(
        QualityTools(FixedDetector(FACE), CropRule((0, 0, 0, 0), face_size=80)),
        **others,  # type: ignore[arg-type]
    )


def picture(seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(60, 190, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def write(path: Path, images: list[Image]) -> Path:
    with VideoWriter(path, width=images[0].shape[1], height=images[0].shape[0], rate=Fraction(25)) as writer:
        for index, image in enumerate(images):
            writer.write(image, Fraction(index, 25))
    return path


class TestFrames:
    def test_equal_pictures(self) -> None:
        images = [picture(seed) for seed in range(4)]
        found = compare_frames([(image, image, FACE) for image in images], tools())
        assert (found.num_frames, found.num_faces) == (4, 4)
        assert (found.psnr_lower, found.unchanged_difference, found.flicker) == (100.0, 0.0, 0.0)
        assert found.ssim_lower == pytest.approx(1)
        assert found.is_unchanged_outside
        assert found.mouth_distance is found.identity_similarity is found.lpips_lower is None

    def test_a_known_error_of_the_lower_half_alone(self) -> None:
        reference = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
        changed = reference.copy()
        changed[60:100, 50:110] += 10  # the lower half of the face
        found = compare_frames([(changed, reference, FACE)], tools())
        assert found.psnr_lower == pytest.approx(10 * np.log10(255**2 / 100), abs=1e-6)
        assert found.unchanged_difference == 0
        upper = reference.copy()
        upper[20:60, 50:110] += 10
        assert compare_frames([(upper, reference, FACE)], tools()).psnr_lower == 100.0

    def test_what_changes_outside_of_the_face_is_seen(self) -> None:
        reference = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
        brighter = reference + np.uint8(3)
        steady = compare_frames([(brighter, reference, FACE)] * 5, tools())
        assert steady.unchanged_difference == pytest.approx(3, abs=1e-4)
        assert steady.flicker == pytest.approx(0, abs=1e-4)
        assert steady.is_unchanged_outside is False
        frames = [(brighter if index % 2 else reference, reference, FACE) for index in range(5)]
        flickering = compare_frames(frames, tools())
        assert flickering.unchanged_difference == pytest.approx(3 * 2 / 5, abs=1e-4)
        assert flickering.flicker == pytest.approx(3, abs=1e-4)

    def test_a_face_that_fills_the_frame_has_no_outside(self) -> None:
        image = picture()
        found = compare_frames([(image, image, Box(0, 0, WIDTH, HEIGHT))], tools())
        assert found.unchanged_difference is found.flicker is found.is_unchanged_outside is None

    def test_frames_without_a_face_are_passed_over(self) -> None:
        image = picture()
        found = compare_frames([(image, image, None), (image, image, FACE)], tools())
        assert (found.num_frames, found.num_faces) == (2, 1)


class TestMouth:
    @staticmethod
    def marked(*mouth: tuple[int, int]) -> Image:
        image = np.full((HEIGHT, WIDTH, 3), 50, np.uint8)
        for x, y in ((65, 40), (85, 40), *mouth):
            image[y, x] = 255
        return image

    def test_distance_of_the_corners_in_distances_of_the_eyes(self) -> None:
        reference = self.marked((68, 80), (82, 80))
        lower = self.marked((68, 84), (82, 84))
        wider = self.marked((64, 80), (86, 80))
        assert mouth_distance(reference, reference, FACE, MarkDetector()) == 0
        assert mouth_distance(lower, reference, FACE, MarkDetector()) == pytest.approx(4 / 20)
        assert mouth_distance(wider, reference, FACE, MarkDetector()) == pytest.approx(4 / 20)

    def test_no_landmarks_is_no_number(self) -> None:
        reference = self.marked((68, 80), (82, 80))
        assert mouth_distance(reference, reference, FACE, FixedDetector(FACE)) is None
        assert mouth_distance(np.zeros_like(reference), reference, FACE, MarkDetector()) is None
        elsewhere = Box(0, 0, 20, 20)
        assert mouth_distance(reference, reference, elsewhere, MarkDetector()) is None


class Colours(nn.Module):
    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.mean(dim=(2, 3))


class Apart(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs().mean(dim=(1, 2, 3))


def script(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(str(path))
    return path


class TestNetworks:
    def test_identity_is_a_cosine_of_rgb_from_minus_one_to_one(self, tmp_path: Path) -> None:
        network = IdentityNetwork(script(Colours(), tmp_path / "colours.pt"))
        red, green = np.zeros((2, 80, 80, 3), np.uint8)
        red[..., 2] = green[..., 1] = 255
        assert network.similarity(red, red) == pytest.approx(1)
        # (1, −1, −1) and (−1, 1, −1)
        assert network.similarity(red, green) == pytest.approx(-1 / 3, abs=1e-5)

    def test_perceptual_distance(self, tmp_path: Path) -> None:
        network = PairNetwork(script(Apart(), tmp_path / "apart.pt"))
        black, white = np.zeros((40, 80, 3), np.uint8), np.full((40, 80, 3), 255, np.uint8)
        assert network.distance(black, white) == pytest.approx(2)

    def test_both_are_measured_where_given(self, tmp_path: Path) -> None:
        both = tools(
            identity=IdentityNetwork(script(Colours(), tmp_path / "colours.pt")),
            perceptual=PairNetwork(script(Apart(), tmp_path / "apart.pt")),
        )
        reference = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
        darker = reference.copy()
        darker[60:100, 50:110] = 149
        found = compare_frames([(darker, reference, FACE)], both)
        assert found.lpips_lower == pytest.approx(51 / 127.5, abs=1e-5)
        assert found.identity_similarity == pytest.approx(1)

    def test_no_network_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="There is no file"):
            PairNetwork(tmp_path / "lpips.pt")


class TestFiles:
    def test_a_video_beside_itself_and_its_like(self, tmp_path: Path) -> None:
        # Smooth pictures, as a camera's: noise is what encoders spend all their bits on.
        ramp = np.add.outer(np.linspace(60, 120, HEIGHT), np.linspace(0, 60, WIDTH))[..., None]
        images = [np.repeat(ramp + index, 3, axis=2).astype(np.uint8) for index in range(30)]
        reference = write(tmp_path / "reference.mp4", images)
        changed = [image.copy() for image in images]
        for image in changed:
            image[60:100, 50:110] += 20
        path = write(tmp_path / "changed.mp4", changed)
        found = compare_files(path, reference, tools())
        assert (found.failure, found.num_frames, found.num_faces) == (None, 30, 30)
        assert found.psnr_lower == pytest.approx(10 * np.log10(255**2 / 400), abs=1)
        assert found.is_unchanged_outside and found.flicker is not None and found.flicker < 2
        assert (found.path, found.reference) == (path, reference)

    def test_failures_are_rows(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.mp4", [picture()] * 8)
        small = write(tmp_path / "b.mp4", [picture()[:60]] * 8)
        (tmp_path / "broken.mp4").write_text("no video")
        kinds = {
            compare_files(path, None, tools()).failure_kind: "no reference",
            compare_files(small, path, tools()).failure_kind: "other size",
            compare_files(tmp_path / "broken.mp4", path, tools()).failure_kind: "unreadable",
            compare_files(path, path, tools(detector=FixedDetector())).failure_kind: "no face",
        }
        assert all(found == expected for found, expected in kinds.items()), kinds

    def test_references_by_name(self, tmp_path: Path) -> None:
        folder = tmp_path / "real"
        (folder / "deep").mkdir(parents=True)
        for name in ("a.mkv", "deep/b.mp4"):
            (folder / name).touch()
        paths = [Path("out/a.mp4"), Path("out/b.mp4"), Path("out/c.mp4")]
        assert match_references(paths, folder) == [
            (paths[0], folder / "a.mkv"),
            (paths[1], folder / "deep/b.mp4"),
            (paths[2], None),
        ]
        assert match_references(paths[:1], folder / "a.mkv") == [(paths[0], folder / "a.mkv")]
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(InputError, match="no video in"):
            match_references(paths, empty)

    def test_names_that_come_twice_are_told_apart_by_their_folders(self, tmp_path: Path) -> None:
        folder = tmp_path / "originals"
        for name in ("ada/1.mp4", "grace/1.mov", "1.mp4"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        made = [tmp_path / "dubbed" / name for name in ("ada/1.mp4", "grace/1.mp4", "1.mp4")]
        assert [found for _, found in match_references(made, folder)] == [
            folder / "ada/1.mp4",
            folder / "grace/1.mov",
            folder / "1.mp4",
        ]
        (folder / "1.mp4").unlink()
        with pytest.raises(UsageError, match=r"ada/1\.mp4 and .*grace/1\.mov could both be the reference"):
            match_references([tmp_path / "dubbed/1.mp4"], folder)


class TestFid:
    def test_sets_of_videos(self, tmp_path: Path) -> None:
        """Features are mean colours, so sets that differ by a brightness are its square apart, three times."""
        extractor = TorchScriptFeatures(script(Colours(), tmp_path / "colours.pt"), "cpu")
        sets = {}
        for name, level in (("dark", 80), ("bright", 100)):
            images = [np.full((HEIGHT, WIDTH, 3), level + index, np.uint8) for index in range(10)]
            sets[name] = [write(tmp_path / f"{name}.mp4", images)]
        detector = FixedDetector(FACE)
        found = fid_of_videos(sets["dark"], sets["bright"], extractor, detector=detector, every=1)
        assert found == pytest.approx(3 * 20**2, rel=0.05)
        equal = fid_of_videos(sets["dark"], sets["dark"], extractor, detector=detector, every=1)
        assert equal == pytest.approx(0, abs=1e-6)

    def test_crops_and_what_cannot_be_read(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.mp4", [picture()] * 11)
        crops = list(face_crops(path, FixedDetector(FACE), size=299, every=5))
        assert [crop.shape for crop in crops] == [(299, 299, 3)] * 3
        extractor = TorchScriptFeatures(script(Colours(), tmp_path / "colours.pt"), "cpu")
        told: list[tuple[Path, str]] = []
        statistics = fit_videos(
            [tmp_path / "none.mp4", path],
            extractor,
            FixedDetector(FACE),
            on_failure=lambda path, reason: told.append((path, reason)),
        )
        assert statistics.count == 3
        assert [path.name for path, _ in told] == ["none.mp4"]
