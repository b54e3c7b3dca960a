import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

from lipsmith.errors import RuntimeUnavailableError, UsageError
from lipsmith.faces import mtcnn
from lipsmith.faces.mtcnn import MtcnnDetector, suppress

from .portrait import PORTRAIT_FACE, PORTRAIT_LANDMARKS, portrait, scene


@pytest.fixture(scope="module")
def detector():
    return MtcnnDetector()


def _greedy(boxes, scores, threshold, of_smaller):
    """Non-maximum suppression as the textbook has it, one box after the other."""
    stays = []
    for candidate in np.argsort(-scores, kind="stable"):
        for better in stays:
            a, b = boxes[candidate], boxes[better]
            width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
            shared = width * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
            areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
            if shared > threshold * (min(areas) if of_smaller else sum(areas) - shared):
                break
        else:
            stays.append(candidate)
    return stays


class TestSuppress:
    @pytest.mark.parametrize("of_smaller", [False, True])
    def test_equals_the_textbook_loop(self, of_smaller):
        rng = np.random.default_rng(3)
        corners = rng.uniform(0, 60, (300, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (300, 2))], axis=1).astype(np.float32)
        scores = rng.uniform(0, 1, 300).astype(np.float32)
        keep = suppress(boxes, scores, 0.4, of_smaller=of_smaller)
        assert keep.tolist() == _greedy(boxes, scores, 0.4, of_smaller)
        assert 10 < len(keep) < 200

    def test_a_suppressed_box_suppresses_nobody(self):
        # The first beats the second, which would beat the third; the third does not touch the first enough.
        boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float32)
        assert suppress(boxes, np.array([0.9, 0.8, 0.7], np.float32), 0.4).tolist() == [0, 2]

    def test_a_small_box_inside_a_large_one_goes_only_by_the_smaller_area(self):
        boxes = np.array([[0, 0, 100, 100], [40, 40, 60, 60]], np.float32)
        scores = np.array([0.9, 0.8], np.float32)
        assert suppress(boxes, scores, 0.5).tolist() == [0, 1]
        assert suppress(boxes, scores, 0.5, of_smaller=True).tolist() == [0]

    def test_nothing_stays_of_nothing(self):
        assert suppress(np.empty((0, 4), np.float32), np.empty(0, np.float32), 0.5).shape == (0,)


def _convolve(image, kernel, bias):
    """Valid convolution, written out: image (h, w, c), kernel (kh, kw, c, n)."""
    rows, columns = kernel.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(image, (rows, columns), axis=(0, 1))
    return np.einsum("hwckl,klcn->hwn", windows, kernel) + bias


def _bgr(rng, size):
    """Noise as the graphs take it, and as the networks were trained on it: RGB, -1 to 1."""
    image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    return image, (image[..., ::-1].astype(np.float64) - 127.5) / 128


def _prelu(values, slope):
    return np.where(values > 0, values, values * slope.ravel())


def _pool(values, size, *, same):
    rows, columns, channels = values.shape
    wanted = [-(-side // 2) if same else (side - size) // 2 + 1 for side in (rows, columns)]
    pooled = np.empty((*wanted, channels))
    # TensorFlow's "same": the padding is shared between both ends, the odd one at the end.
    before = [
        max((n - 1) * 2 + size - side, 0) // 2 if same else 0
        for n, side in zip(wanted, (rows, columns), strict=True)
    ]
    for row in range(wanted[0]):
        for column in range(wanted[1]):
            top, left = row * 2 - before[0], column * 2 - before[1]
            window = values[max(top, 0) : top + size, max(left, 0) : left + size]
            pooled[row, column] = window.max(axis=(0, 1))
    return pooled


def _softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


class TestNetworks:
    """The OpenVINO graphs against the same layers written out in NumPy, on the wheel's weights."""

    def test_the_output_network(self, detector):
        weights = iter(mtcnn._read_weights("onet"))
        image, node = _bgr(np.random.default_rng(5), 48)
        for size, same in ((3, True), (3, False), (2, True), (None, None)):
            node = _prelu(_convolve(node, next(weights), next(weights)), next(weights))
            node = node if size is None else _pool(node, size, same=same)
        flat = node.transpose(1, 0, 2).ravel()
        hidden = _prelu(flat @ next(weights) + next(weights), next(weights))
        offsets = hidden @ next(weights) + next(weights)
        landmarks = hidden @ next(weights) + next(weights)
        faceness = _softmax(hidden @ next(weights) + next(weights))
        got = detector._run("onet", image[None])
        assert_allclose(got[0][0], offsets, atol=1e-4)
        assert_allclose(got[1][0], landmarks, atol=1e-4)
        assert_allclose(got[2][0], faceness, atol=1e-4)

    def test_the_proposal_network_at_one_window(self, detector):
        weights = iter(mtcnn._read_weights("pnet"))
        image, node = _bgr(np.random.default_rng(6), 12)
        node = _pool(_prelu(_convolve(node, next(weights), next(weights)), next(weights)), 2, same=True)
        node = _prelu(_convolve(node, next(weights), next(weights)), next(weights))
        node = _prelu(_convolve(node, next(weights), next(weights)), next(weights))
        offsets = _convolve(node, next(weights), next(weights))
        faceness = _softmax(_convolve(node, next(weights), next(weights))[0, 0])
        got = detector._run("pnet", image[None])
        assert_allclose(got[0][0, :, 0, 0], offsets[0, 0], atol=1e-4)
        assert_allclose(got[1][0, :, 0, 0], faceness, atol=1e-4)

    def test_a_batch_gives_what_single_crops_give(self, detector):
        crops = np.random.default_rng(7).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)
        together = detector._run("rnet", crops)
        for number in range(5):
            alone = detector._run("rnet", crops[number : number + 1])
            assert_allclose(together[0][number], alone[0][0], atol=1e-5)
            assert_allclose(together[1][number], alone[1][0], atol=1e-5)


class TestSampling:
    def test_a_box_of_a_ramp_reads_the_ramp(self):
        ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
        crops = mtcnn._sample([np.ascontiguousarray(ramp)], np.array([[20, 50, 68, 98]], np.float32), 48)
        assert crops.shape == (1, 48, 48, 3)
        assert_allclose(crops[0, 10, :, 0], np.arange(20, 68), atol=1)

    def test_a_large_box_is_read_from_a_halving_at_the_same_place(self):
        ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :, None], (240, 240, 3))
        halvings = mtcnn._halvings(np.ascontiguousarray(ramp))
        assert [level.shape[0] for level in halvings] == [240, 120, 60]
        crops = mtcnn._sample(halvings, np.array([[24, 24, 216, 216]], np.float32), 24)
        centers = 24 + (np.arange(24) + 0.5) * 8 - 0.5
        assert_allclose(crops[0, 12, :, 1], centers, atol=1.5)

    def test_outside_the_image_is_grey(self):
        white = np.full((100, 100, 3), 255, np.uint8)
        crops = mtcnn._sample([white], np.array([[-48, 0, 0, 48], [76, 76, 124, 124]], np.float32), 24)
        assert (crops[0, :, :-1] == 128).all()
        assert (crops[1, :11, :11] == 255).all()
        assert (crops[1, 13:] == 128).all()


class TestDetect:
    def test_box_and_landmarks_are_where_the_portrait_has_them(self, detector):
        (face,) = detector.detect(portrait())
        assert face.box.iou(PORTRAIT_FACE) > 0.9
        assert_allclose(face.landmarks, PORTRAIT_LANDMARKS, atol=4.5)
        assert face.score > 0.99

    def test_a_mirrored_face_has_mirrored_landmarks_in_the_same_order(self, detector):
        image = portrait()
        (face,) = detector.detect(image)
        (mirrored,) = detector.detect(np.ascontiguousarray(image[:, ::-1]))
        expected = face.landmarks[[1, 0, 2, 4, 3]] * (-1, 1) + (512, 0)
        assert_allclose(mirrored.landmarks, expected, atol=3)

    def test_a_large_image_is_shrunk_and_its_face_comes_back_in_its_own_pixels(self, detector):
        image = portrait()
        (face,) = detector.detect(image)
        (large,) = detector.detect(np.kron(image, np.ones((3, 3, 1), np.uint8)))
        assert_allclose(large.landmarks / 3, face.landmarks, atol=1)

    def test_an_odd_shape_maps_back_on_each_axis(self):
        image = scene(997, 601, faces=[(700.0, 300.0, 150.0)])
        (face,) = MtcnnDetector(short_side=301).detect(image)
        assert_allclose(face.box.center, (700, 300), atol=6)

    def test_looking_again_near_a_face_finds_what_a_search_finds(self, detector):
        image = portrait()
        (face,) = detector.detect(image)
        for right, down, share in ((0, 0, 0), (9, -6, 0), (-6, 8, 0.08), (4, 4, -0.08)):
            again = detector.look_again(image, face.box.shifted(right, down).padded(*[share] * 4))
            assert_allclose(again.landmarks, face.landmarks, atol=2)
            assert again.box.iou(face.box) > 0.85
            assert again.score > 0.9

    def test_looking_again_where_no_face_is_finds_none(self, detector):
        image = portrait()
        (face,) = detector.detect(image)
        assert detector.look_again(image, face.box.shifted(150, 250)) is None
        assert detector.look_again(image, face.box.shifted(-100, 0)) is None
        assert detector.look_again(np.full_like(image, 90), face.box) is None

    def test_the_surroundings_are_enough_to_look_again(self, detector):
        image = portrait()
        (face,) = detector.detect(image)
        whole = detector.look_again(image, face.box)
        part = detector.look_again(image[20:220, 120:340], face.box.shifted(-120, -20))
        assert_allclose(part.landmarks + np.array([120, 20]), whole.landmarks, atol=0.5)

    def test_two_people_are_two_faces(self, detector):
        found = detector.detect(scene(640, 360, faces=[(170.0, 180.0, 80.0), (450.0, 180.0, 110.0)]))
        centers = sorted(face.box.center for face in found)
        assert_allclose(centers, [(170, 180), (450, 180)], atol=6)

    def test_faces_below_the_smallest_are_left_out(self):
        image = scene(640, 360, faces=[(170.0, 180.0, 32.0), (450.0, 180.0, 120.0)])
        assert len(MtcnnDetector(min_face=20).detect(image)) == 2
        (large,) = MtcnnDetector(min_face=90).detect(image)
        assert_allclose(large.box.center, (450, 180), atol=6)

    def test_a_face_cut_by_the_edge_is_still_found(self, detector):
        (face,) = detector.detect(scene(480, 360, faces=[(28.0, 180.0, 100.0)]))
        assert_allclose(face.box.center, (28, 180), atol=15)

    @pytest.mark.parametrize("shape", [(1, 1), (11, 40), (12, 12), (40, 12), (13, 600), (480, 640)])
    def test_an_empty_picture_of_any_shape_has_no_face(self, detector, shape):
        assert detector.detect(np.zeros((*shape, 3), np.uint8)) == []

    def test_noise_is_no_face(self, detector):
        noise = np.random.default_rng(0).integers(0, 256, (360, 480, 3), dtype=np.uint8)
        assert detector.detect(noise) == []

    def test_values_out_of_range_are_refused(self):
        with pytest.raises(UsageError, match="at least 12"):
            MtcnnDetector(min_face=5)

    def test_missing_weights_name_the_package_to_install(self, monkeypatch):
        monkeypatch.setattr(mtcnn, "find_spec", lambda name: None)
        with pytest.raises(RuntimeUnavailableError, match="install the package mtcnn"):
            MtcnnDetector().detect(np.zeros((100, 100, 3), np.uint8))


def test_the_wheels_own_code_is_never_imported():
    program = (
        "import sys, numpy as np; from lipsmith.faces.mtcnn import MtcnnDetector;"
        "MtcnnDetector().detect(np.zeros((64, 64, 3), np.uint8));"
        "sys.exit('mtcnn' in sys.modules or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
