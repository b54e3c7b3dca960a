"""References: laid on the face, coloured like it, kept while the pose stays."""

import cv2
import numpy as np
import pytest

from lipsmith.compose.detail import detail_of
from lipsmith.compose.masks import lower_face_mask
from lipsmith.reference import (
    AT_REST,
    MouthChoice,
    PairedReference,
    Sight,
    SteadyReference,
    StillReference,
    clip_references,
    openness,
    place_reference,
    placed_references,
    references_elsewhere,
    views_of,
)

SIZE = 96


def _scene(seed: int = 0, side: int = 160) -> np.ndarray:
    """A smooth random picture with contrast everywhere."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 5)
    return np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def _view(scene: np.ndarray, *, turn: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """The middle of a scene through a camera that is turned (degrees) and shifted (pixels)."""
    middle = (scene.shape[0] - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), turn, 1.0)
    matrix[:, 2] += np.array(shift) - (scene.shape[0] - SIZE) / 2
    return cv2.warpAffine(scene, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR)


INSIDE = lower_face_mask(SIZE) > 0.999
OUTSIDE = lower_face_mask(SIZE) == 0


@pytest.mark.parametrize(("turn", "shift"), [(0, (0, 0)), (0, (3.5, -2.25)), (5, (2, 1)), (-8, (-4, 3))])
def test_a_reference_is_turned_and_shifted_onto_the_face(turn: float, shift: tuple[float, float]) -> None:
    scene = _scene()
    face = _view(scene, turn=turn, shift=shift)
    result = place_reference(_view(scene), face)
    placed, warp = result.image, result.warp
    # One rigid scene: laid right, the reference shows what the face shows, up to resampling and the colour of what
    # came in at the edges; laid wrong by a pixel it would differ by four grey levels.
    assert np.abs(placed[INSIDE].astype(int) - face[INSIDE]).mean() < 3.0
    assert np.degrees(np.arctan2(warp[1, 0], warp[0, 0])) == pytest.approx(turn, abs=0.35)


def test_only_the_lower_face_is_taken() -> None:
    scene = _scene()
    face, other = _view(scene), _view(scene)
    other[60:85, 30:66] = (10, 200, 90)  # another mouth
    placed = place_reference(other, face).image
    np.testing.assert_array_equal(placed[OUTSIDE], face[OUTSIDE])
    assert OUTSIDE[: SIZE // 2].all()
    assert np.abs(placed[64:80, 36:60].astype(int) - (10, 200, 90)).mean() < 2


def test_brightness_contrast_and_tint_follow_the_face() -> None:
    reference = _view(_scene())
    faded = np.clip(reference * 0.5 + np.array([100, 110, 120]), 0, 255).astype(np.uint8)
    placed = place_reference(reference, faded).image
    assert np.abs(placed[INSIDE].astype(int) - faded[INSIDE]).mean() < 2


def test_faces_without_contrast_stay_where_they_are() -> None:
    grey = np.full((SIZE, SIZE, 3), 90, np.uint8)
    placed = place_reference(grey, grey + 20)
    np.testing.assert_array_equal(placed.warp, np.eye(2, 3))
    np.testing.assert_array_equal(placed.image, grey + 20)
    assert placed.misfit == 0


def _with_mouth(face: np.ndarray, amplitude: int, *, blue: int = 0) -> np.ndarray:
    """A face whose mouth is open by `amplitude` grey levels, about, and `blue` enough to be told from others."""
    face = face.copy()
    face[62:78, 36:60] = 90
    face[62:70, 36:60] += np.uint8(amplitude)
    face[70:78, 36:60] -= np.uint8(amplitude)
    face[62:78, 36:60, 0] = 50 + blue
    return face


def _blue(shown: np.ndarray) -> float:
    """Of a picture that shows a mouth of `_with_mouth`."""
    return float(shown[66:74, 42:54, 0].mean()) - 50


def test_one_reference_is_kept_while_the_pose_stays() -> None:
    scene = _scene()
    faces = [_with_mouth(_view(scene, shift=(0.3 * k, 0)), 30 + 2 * k, blue=30 * k) for k in range(6)]
    steady = SteadyReference()
    for face in faces:
        assert _blue(steady.show(face)) == pytest.approx(0, abs=3)  # the first mouth, six times


def test_openness_is_what_edges_of_a_mouth_amount_to() -> None:
    face = np.full((SIZE, SIZE, 3), 90, np.uint8)
    assert openness(face) == 0
    face[:70] = 130  # rows 56 to 81 of 28 to 69: one edge of 40 levels, of weight 4, in two rows of 26
    assert openness(face) == pytest.approx(40 * 4 * 2 / 26 / ((14 * 130 + 12 * 90) / 26 + 10), rel=1e-3)


def test_choices_rank_mouths_by_how_open_they_are() -> None:
    values = [0.5, 0.15, 0.4, 0.2, 0.3]
    assert AT_REST.ordered(values)[:3] == [3, 1, 4]  # the second least open of five, then its neighbours
    assert AT_REST.ordered([*values, 0.05]) == AT_REST.ordered(values)  # too little for a mouth
    assert MouthChoice(rank=1, better=1.3).ordered(values) == [0, 2, 4, 3, 1]
    assert AT_REST.ordered([0.7]) == [0]


def test_of_the_faces_that_follow_the_one_whose_mouth_is_at_rest_is_kept() -> None:
    face = _view(_scene())
    turned = _view(_scene(1))  # another pose
    amplitudes = [60, 20, 5, 50, 10, 30]
    faces = [_with_mouth(face, a, blue=8 * k) for k, a in enumerate(amplitudes)]
    ahead = [Sight(_with_mouth(turned, 8)), *map(Sight, faces[1:])]
    shown = SteadyReference().show(faces[0], ahead=ahead)
    assert _blue(shown) == pytest.approx(8 * 4, abs=2)  # 5, 8, 10, 20, …: of seven the third
    for picture in clip_references("steady", np.stack(faces)):
        assert _blue(picture) == pytest.approx(8 * 4, abs=2)  # of six the second


def test_a_pair_is_a_mouth_at_rest_and_the_widest() -> None:
    face = _view(_scene())
    faces = np.stack([_with_mouth(face, a, blue=8 * k) for k, a in enumerate([60, 20, 5, 50, 10, 30])])
    shown = clip_references("pair", faces)
    assert shown.shape == (6, SIZE, SIZE, 6)
    for at_rest, opened in map(views_of, shown):
        assert _blue(at_rest) == pytest.approx(8 * 4, abs=2)
        assert _blue(opened) == pytest.approx(0, abs=2)
    # Of another moment: half of the clip away, and the widest that is ten frames away.
    many = np.stack([_with_mouth(face, 2 * k, blue=8 * k) for k in range(24)])
    few = many[:12]  # none is ten frames from those in the middle
    opened = references_elsewhere("pair", few)[..., 3:]
    assert not any(np.array_equal(one, face) for one, face in zip(opened, few, strict=True))
    elsewhere = references_elsewhere("pair", many)
    at_rest, opened = views_of(elsewhere[0])
    assert (_blue(at_rest), _blue(opened)) == pytest.approx((8 * 12, 8 * 23), abs=2)
    assert _blue(views_of(elsewhere[20])[1]) == pytest.approx(8 * 10, abs=2)
    np.testing.assert_array_equal(references_elsewhere("steady", many)[0], at_rest)


def test_a_pair_keeps_two_frames_details_and_forgets_both() -> None:
    face = _view(_scene())
    kept = PairedReference()
    sights = [Sight(one, lambda one=one: one) for one in (_with_mouth(face, a) for a in (20, 60, 5, 30))]
    kept.show(sights[0].face, sights[0].sharp, sights[1:])
    np.testing.assert_array_equal(kept.lent[0].values, detail_of(sights[0].face))  # the second least open
    np.testing.assert_array_equal(kept.lent[1].values, detail_of(sights[1].face))
    for lent in kept.lent:
        assert lent.reference.shape == (SIZE, SIZE, 3)
    kept.reset()
    assert kept.lent == ()
    assert np.abs(kept.show(_view(_scene(1)))[..., 3:].astype(int) - _view(_scene(1))).max() <= 1


def test_where_none_of_the_faces_ahead_has_the_pose_the_own_is_kept() -> None:
    face, turned = _with_mouth(_view(_scene()), 60, blue=100), _view(_scene(1))
    ahead = [Sight(_with_mouth(turned, k)) for k in range(12)]
    assert _blue(SteadyReference().show(face, ahead=ahead)) == pytest.approx(100, abs=3)


def test_an_open_mouth_gives_way_to_one_at_rest_that_comes_later() -> None:
    face = _view(_scene())
    steady = SteadyReference()
    assert _blue(steady.show(_with_mouth(face, 60))) == pytest.approx(0, abs=3)
    assert _blue(steady.show(_with_mouth(face, 50, blue=150))) == pytest.approx(0, abs=3)  # hardly less open
    shown = [_blue(steady.show(_with_mouth(face, 5, blue=100))) for _ in range(6)]
    np.testing.assert_allclose(shown, [20, 40, 60, 80, 100, 100], atol=3)
    assert _blue(steady.show(_with_mouth(face, 60, blue=150))) == pytest.approx(100, abs=3)


def _covered(face: np.ndarray) -> np.ndarray:
    """A hand lies before the mouth."""
    face = face.copy()
    face[52:86, 22:74] = 120
    return face


def test_what_hides_the_mouth_is_no_mouth_at_rest() -> None:
    face = _view(_scene())
    mouths, hand = [_with_mouth(face, 20, blue=100)] * 30, _covered(face)
    steady = SteadyReference()
    steady.show(mouths[0])
    shown = [_blue(steady.show(one)) for one in [hand] * 8 + mouths]
    np.testing.assert_allclose(shown, 100, atol=3)
    # Nor is it taken for one where both are ahead.
    steady = SteadyReference()
    assert _blue(steady.show(hand, ahead=[*map(Sight, [hand] * 7 + mouths[:18])])) == pytest.approx(
        100, abs=3
    )


def test_what_hid_the_mouth_at_first_gives_way_after_a_second() -> None:
    face = _view(_scene())
    mouth, hand = _with_mouth(face, 20, blue=100), _covered(face)
    steady = SteadyReference()
    shown = [_blue(steady.show(one)) for one in [hand] * 3 + [mouth] * 40]
    np.testing.assert_allclose(shown[:26], shown[0], atol=3)
    np.testing.assert_allclose(shown[-8:], 100, atol=3)


def test_a_mouth_out_of_focus_gives_way_to_one_in_focus_and_not_the_other_way() -> None:
    grain = np.random.default_rng(0).integers(-10, 11, (SIZE, SIZE, 3))
    face = np.clip(_view(_scene()).astype(int) + grain, 0, 255).astype(np.uint8)
    sharp, soft = _with_mouth(face, 40), cv2.GaussianBlur(_with_mouth(face, 15, blue=100), (0, 0), 1.5)
    assert openness(soft) < 0.7 * openness(sharp)
    steady = SteadyReference()
    np.testing.assert_allclose([_blue(steady.show(one)) for one in [sharp] + [soft] * 8], 0, atol=15)
    steady = SteadyReference()
    shown = [_blue(steady.show(one)) for one in [soft] + [sharp] * 8]
    assert shown[0] == pytest.approx(100, abs=8) and shown[-1] == pytest.approx(0, abs=3)


def test_a_mouth_in_a_fade_does_not_take_the_place_of_one_before_it() -> None:
    face = _view(_scene())
    before, faded = (_with_mouth(face, amplitude, blue=blue) for amplitude, blue in ((40, 0), (5, 100)))
    faded = np.clip(0.72 * faded.astype(float) + 0.28 * 255, 0, 255).astype(np.uint8)
    assert openness(faded) < 0.7 * openness(before)
    steady = SteadyReference()
    steady.show(before)
    shown = [steady.show(faded) for _ in range(3)] + [steady.show(before) for _ in range(8)]
    assert _blue(shown[-1]) == pytest.approx(0, abs=3)


def test_a_new_pose_gets_its_own_reference_and_an_old_one_comes_back() -> None:
    one, two = _view(_scene(1)), _view(_scene(2))
    steady = SteadyReference()
    steady.show(one)
    shown = [steady.show(two) for _ in range(6)]
    # A few frames fade over; then the second pose shows itself.
    assert not np.array_equal(shown[0], two)
    assert np.abs(shown[-1].astype(int) - two).max() <= 1
    again = one.copy()
    again[64:80, 36:60] = 255
    shown = [steady.show(again) for _ in range(6)]
    assert np.abs(shown[-1][66:78, 40:56].astype(int) - one[66:78, 40:56]).max() <= 2


def test_what_is_kept_lends_its_detail() -> None:
    scene, asked = _scene(), []
    near, far = _view(scene), _view(scene, turn=4, shift=(3, 2))

    def sharp() -> np.ndarray:
        asked.append(len(asked))
        return cv2.resize(near, (200, 200), interpolation=cv2.INTER_CUBIC)

    kept = SteadyReference()
    kept.show(near, sharp)
    assert kept.lent[0].values.shape == (200, 200, 3)
    np.testing.assert_array_equal(kept.lent[0].values, detail_of(sharp()))
    kept.show(far, sharp)
    assert asked == [0, 1]  # once by the reference, once by this test
    np.testing.assert_allclose(kept.lent[0].warp, place_reference(near, far).warp, atol=0.05)
    assert kept.lent[0].strength == pytest.approx(1, abs=0.1)
    kept.reset()
    assert kept.lent == ()
    kept.show(near)
    assert kept.lent == ()


def test_a_change_of_references_fades_their_detail_in() -> None:
    kept, scenes = SteadyReference(), [_scene(seed) for seed in (0, 1)]
    kept.show(_view(scenes[0]), lambda: _view(scenes[0]))
    strengths = []
    for _ in range(6):
        kept.show(_view(scenes[1]), lambda: _view(scenes[1]))
        strengths.append(kept.lent[0].strength)
    np.testing.assert_allclose(strengths, [0.2, 0.4, 0.6, 0.8, 1, 1], atol=0.02)


def test_after_a_reset_the_next_face_is_the_reference() -> None:
    one, two = _view(_scene(1)), _view(_scene(2))
    steady = SteadyReference()
    steady.show(one)
    steady.reset()
    assert np.abs(steady.show(two).astype(int) - two).max() <= 1


def test_the_form_frame_shows_what_it_is_given() -> None:
    faces = np.stack([_view(_scene(k)) for k in range(3)])
    assert clip_references("frame", faces) is faces
    np.testing.assert_array_equal(placed_references("frame", faces[::-1], faces), faces[::-1])
    placed = placed_references("steady", faces[::-1], faces)
    np.testing.assert_array_equal(placed[1], place_reference(faces[1], faces[1]).image)


def test_a_reference_from_a_fade_gives_way_to_a_face_with_contrast() -> None:
    one = _view(_scene(1))

    def faded(share: float) -> np.ndarray:
        return cv2.addWeighted(one, share, np.full_like(one, 255), 1 - share, 0)

    steady = SteadyReference()
    white = steady.show(faded(0.1))
    assert white.std() < 5
    shown = [steady.show(one) for _ in range(6)]
    # The first mouth had hardly any detail; after fading over, the face that is there now shows its own.
    assert np.abs(shown[-1].astype(int) - one).max() <= 1
    # While it stays bright enough, the reference stays, and with it the mouth that it hides.
    talking = faded(0.8)
    talking[64:80, 36:60] = 0
    again = steady.show(talking)
    assert np.abs(again[66:78, 40:56].astype(int) - faded(0.8)[66:78, 40:56]).max() <= 4


def test_the_form_still_shows_the_first_face_of_a_shot() -> None:
    faces = np.stack([_view(_scene(k)) for k in range(3)])
    np.testing.assert_array_equal(clip_references("still", faces), faces[[0, 0, 0]])
    still = StillReference()
    still.show(faces[0])
    still.reset()
    np.testing.assert_array_equal([still.show(face) for face in faces[1:]], faces[[1, 1]])
