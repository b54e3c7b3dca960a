"""Detail from the lending frame goes where the generator moved it, and nowhere else."""

import cv2
import numpy as np
import pytest

from lipsmith.compose.detail import LentDetail, detail_of, detail_side, with_detail
from lipsmith.geometry import resize

SIZE, SIDE, TOP = 96, 384, 36
STAYS = np.eye(2, 3, dtype=np.float32)
INSIDE = (slice(TOP * 4 + 40, SIDE - 40), slice(40, SIDE - 40))


@pytest.fixture(scope="module")
def sharp() -> np.ndarray:
    """A picture with structure at every scale, 384 × 384."""
    random = np.random.default_rng(0)
    noise = [
        cv2.resize(
            random.normal(0, 30, (side, side, 3)).astype(np.float32),
            (SIDE, SIDE),
            interpolation=cv2.INTER_CUBIC,
        )
        for side in (12, 24, 48, 192)
    ]
    return np.clip(128 + sum(noise), 0, 255).astype(np.uint8)


def small(picture: np.ndarray) -> np.ndarray:
    return resize(picture, SIZE, SIZE)


def error(made: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(made[INSIDE] - wanted[INSIDE].astype(np.float32)).mean())


def enlarged(face: np.ndarray) -> np.ndarray:
    return cv2.resize(face.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def test_a_blur_and_its_detail_are_the_picture(sharp: np.ndarray) -> None:
    smooth = cv2.GaussianBlur(sharp, (0, 0), SIDE / 96).astype(int)
    again = smooth + detail_of(sharp) - 128
    assert np.percentile(np.abs(again - sharp), 99) <= 1  # beyond are the few that leave 0 to 255


@pytest.mark.parametrize("moved", [0, 2])
def test_where_the_reference_was_moved_its_detail_moves_along(sharp: np.ndarray, moved: int) -> None:
    reference = small(sharp)
    wanted = np.roll(sharp, 4 * moved, axis=0)
    made = with_detail(
        small(wanted).astype(np.float32), [LentDetail(reference, detail_of(sharp), STAYS)], TOP
    )
    assert error(made, wanted) < 0.75 * error(enlarged(small(wanted)), wanted)


def test_a_turned_reference_lends_as_it_was_turned(sharp: np.ndarray) -> None:
    # The lending face lies 3 pixels to the left of the painted one, 12 of its own.
    wanted, warp = np.roll(sharp, 12, axis=1), np.array([[1, 0, -3], [0, 1, 0]], np.float32)
    face = small(wanted)
    made = with_detail(face.astype(np.float32), [LentDetail(face, detail_of(sharp), warp)], TOP)
    assert error(made, wanted) < 0.75 * error(enlarged(face), wanted)
    wrong = with_detail(face.astype(np.float32), [LentDetail(face, detail_of(sharp), STAYS)], TOP)
    assert error(wrong, wanted) > error(enlarged(face), wanted)


def test_what_is_not_the_reference_gets_no_detail(sharp: np.ndarray) -> None:
    reference = small(sharp)
    face = reference.astype(np.float32)
    face[60:84, 30:66] = 5  # an opened mouth
    made = with_detail(face, [LentDetail(reference, detail_of(sharp), STAYS)], TOP)
    inside = (slice(4 * 66, 4 * 78), slice(4 * 36, 4 * 60))
    assert np.abs(made[inside] - 5).max() < 1.5
    assert np.abs(made - enlarged(face))[INSIDE].max() > 10  # elsewhere there is some


def test_of_two_the_one_lends_whose_mouth_the_face_is_like(sharp: np.ndarray) -> None:
    other = sharp.copy()
    other[4 * 56 : 4 * 82, 4 * 30 : 4 * 66] = sharp[::-1][4 * 56 : 4 * 82, 4 * 30 : 4 * 66]  # another mouth
    lent = [LentDetail(small(one), detail_of(one), STAYS) for one in (sharp, other)]
    for shown, lending in zip((sharp, other), lent, strict=True):
        face = small(shown).astype(np.float32)
        made = with_detail(face, lent, TOP)
        np.testing.assert_array_equal(made, with_detail(face, [lending], TOP))
        assert error(made, shown) < 0.75 * error(enlarged(face), shown)


def test_detail_without_strength_is_none(sharp: np.ndarray) -> None:
    face = small(sharp).astype(np.float32)
    made = with_detail(face, [LentDetail(small(sharp), detail_of(sharp), STAYS, 0.0)], TOP)
    np.testing.assert_allclose(made[INSIDE], enlarged(face)[INSIDE], atol=1e-3)
    assert not made[: 4 * TOP].any()


@pytest.mark.parametrize(("width", "height", "side"), [(60, 70, 96), (200, 250, 250), (700, 800, 384)])
def test_the_side_is_the_screens_within_limits(width: int, height: int, side: int) -> None:
    assert detail_side(width, height, SIZE) == side
